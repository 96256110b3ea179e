"""Objects in buckets, on servers of this machine."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas import bucket_lock, buckets
from schemas.bucket_lock import hold
from schemas.buckets import BucketError, ObjectWriter
from schemas.run_lock import LockedError
from tests.bucket_servers import BUCKET, BucketServer, connected


@pytest.fixture(scope="module", params=["s3", "gs"])
def server(request: pytest.FixtureRequest) -> Iterator[BucketServer]:
    with connected(request.param) as running:
        yield running


@pytest.fixture
def folder(server: BucketServer, request: pytest.FixtureRequest) -> str:
    """A folder of its own for each test."""
    return f"{server.root}/{request.node.name.partition('[')[0]}"


def names(folder: str, *, deep: bool) -> list[str]:
    found = buckets.below(folder, deep=deep)
    return [entry.path.removeprefix(f"{folder}/") for entry in found]


def test_a_folder_is_what_names_begin_with(folder: str) -> None:
    assert not buckets.exists(folder)
    assert names(folder, deep=True) == []
    for name in ("a/1", "a/b/2", "ab"):
        buckets.write(f"{folder}/{name}", name.encode())
    assert buckets.exists(folder)
    assert buckets.exists(f"{folder}/a")
    assert buckets.exists(f"{folder}/a/1")
    assert not buckets.exists(f"{folder}/a/"[:-2] + "x")
    assert buckets.look(f"{folder}/a") is None, "a folder is no object"
    assert names(folder, deep=False) == ["ab"]
    assert names(folder, deep=True) == ["a/1", "a/b/2", "ab"]

    buckets.remove(f"{folder}/a")
    assert names(folder, deep=True) == ["ab"], "no folder whose name only begins alike"
    assert not buckets.exists(f"{folder}/a")
    buckets.remove(f"{folder}/ab")
    buckets.remove(f"{folder}/ab")
    assert not buckets.exists(folder), "gone with the last object below it"


def test_an_object_goes_together_with_what_is_below_its_name(folder: str) -> None:
    for name in ("a", "a/1", "a/b/2", "ab", "c"):
        buckets.write(f"{folder}/{name}", b"any")
    buckets.remove(f"{folder}/a")
    assert names(folder, deep=True) == ["ab", "c"]
    for alone in ("c", "absent"):
        buckets.remove(f"{folder}/{alone}")
        assert names(folder, deep=True) == ["ab"], "an object alone, and none at all"


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_an_object_appears_whole_or_not_at_all(folder: str) -> None:
    path = f"{folder}/object"
    # More than the client keeps before it sends a part.
    for num_bytes in (10, 20 << 20):
        out = ObjectWriter(path)
        out.write(b"x" * num_bytes)
        assert not buckets.exists(path)
        out.abandon()
        out.close()
        assert not buckets.exists(path)
        out = ObjectWriter(path)
        out.write(b"x" * num_bytes)
        del out
        assert not buckets.exists(path), "nor if it is forgotten"

    content = os.urandom(1 << 20)
    out = ObjectWriter(path)
    out.write(content)
    out.close()
    assert buckets.read(path) == content
    with buckets.open_read(path) as file:
        file.seek(500_000)
        assert file.read(1000) == content[500_000:501_000]
        assert file.seek(-10, 2) == len(content) - 10
        assert file.read() == content[-10:]
    buckets.move(path, f"{path}-2")
    assert names(folder, deep=True) == ["object-2"]


def test_of_two_writers_under_one_condition_one_succeeds(folder: str) -> None:
    path = f"{folder}/object"
    assert buckets.replace(path, b"0", "1") == "", "there is none to replace"
    first = buckets.create(path, b"1")
    assert first
    assert buckets.create(path, b"2") == ""
    second = buckets.replace(path, b"3", first)
    assert second
    assert buckets.replace(path, b"4", first) == ""
    assert buckets.read(path) == b"3"
    found = buckets.look(path)
    assert found is not None
    assert found.version == second
    assert found.num_bytes == 1


def test_errors_say_what_is_wrong_and_what_to_do(server: BucketServer, folder: str) -> None:
    elsewhere = f"{server.scheme}://trelm-absent/run/file"
    with pytest.raises(BucketError, match=r"no such file|no bucket"):
        buckets.read(f"{folder}/absent")
    with pytest.raises(BucketError, match=r"there is no bucket \w+://trelm-absent; create it, or"):
        buckets.write(elsewhere, b"")
    with pytest.raises(BucketError, match="there is no bucket"):
        buckets.create(elsewhere, b"")
    assert not buckets.exists(elsewhere)
    with pytest.raises(BucketError, match=r"/absent: no such file, or no such bucket; has"):
        buckets.move(f"{folder}/absent", f"{folder}/new")
    for scheme in ("nonsense", "hdfs"):
        with pytest.raises(BucketError, match=f"{scheme}:// is no kind of .* gs:// and s3:// are"):
            buckets.read(f"{scheme}://a/b")


def test_an_upload_that_has_gone_is_no_missing_bucket() -> None:
    """As MinIO says it, where the answer to an upload's end was lost."""
    text = "The specified multipart upload does not exist. The upload ID might be invalid"
    told = buckets._plain("s3://bucket/object", FileNotFoundError(text), is_write=True).message
    assert told.startswith(f"s3://bucket/object: cannot be written ({text}); ")
    assert told.endswith("the same command goes on")


def test_a_missing_client_is_named_with_what_installs_it(
    server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    def fail(scheme: str, **_: object) -> None:
        raise ImportError(f"no client for {scheme}")

    monkeypatch.setattr(fsspec, "filesystem", fail)
    extra = {"gs": "gcp", "s3": "aws"}[server.scheme]
    with pytest.raises(BucketError, match=rf"pip install 'trelm\[{extra}\]'"):
        buckets.exists(server.root)


def test_one_program_at_a_time_holds_a_folder(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_lock, "HEARTBEAT_S", 0.05)
    lock = f"{folder}/.lock"
    with hold(folder, "test"):
        with hold(folder, "test"):
            pass
        assert buckets.exists(lock), "held until the outer block ends"
        # As another process would: it knows nothing of what this one holds.
        monkeypatch.setattr(bucket_lock, "_held", type(bucket_lock._held)())
        with (
            pytest.raises(LockedError, match=rf"test \(process {os.getpid()} on "),
            hold(folder, "second"),
        ):
            pass
        assert buckets.exists(lock)
    assert not buckets.exists(lock)


# A holder of this host name, whose number no process has here.
GONE = {"program": "p", "pid": 2**22 + 1, "host": socket.gethostname()}


@contextlib.contextmanager
def written_again(lock: str, owner: dict[str, object]) -> Iterator[None]:
    """Let another program hold a lock inside a `with` block."""
    buckets.write(lock, json.dumps(owner).encode())
    stop = threading.Event()

    def beat() -> None:
        for count in itertools.count():
            if stop.wait(0.05):
                return
            buckets.write(lock, json.dumps({**owner, "beat": count}).encode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("here", "owner"),
    [
        ("here", {"place": "there"}),  # a container or a cloned machine of the same name
        ("here", {}),  # an older version wrote it
        ("here", {"place": ""}),  # its system does not tell
        ("", {"place": ""}),  # nor does this one
    ],
)
def test_a_living_holder_among_other_processes_keeps_its_lock(
    folder: str, monkeypatch: pytest.MonkeyPatch, here: str, owner: dict[str, object]
) -> None:
    monkeypatch.setattr(bucket_lock, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(bucket_lock, "_place", lambda: here)
    lock = f"{folder}/.lock"
    with written_again(lock, {**GONE, **owner}):
        with (
            pytest.raises(LockedError, match=rf"p \(process {GONE['pid']} on "),
            hold(folder, "me"),
        ):
            pass
        assert json.loads(buckets.read(lock))["program"] == "p"
    buckets.remove(lock)


def test_the_place_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot, space = tmp_path / "boot_id", tmp_path / "pid"
    monkeypatch.setattr(bucket_lock, "_BOOT_ID", boot)
    monkeypatch.setattr(bucket_lock, "_PID_SPACE", space)
    assert bucket_lock._place() == ""
    boot.write_text("0123-4567\n")
    assert bucket_lock._place() == "", "containers of one machine are not told apart by it"
    space.symlink_to("pid:[4026531836]")
    assert bucket_lock._place() == "0123-4567 pid:[4026531836]"


def test_a_second_thread_waits_for_what_the_first_one_finds(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, is_left = threading.Event(), threading.Event()

    def watch(*_: object) -> None:
        watched.set()
        assert is_left.wait(60)

    monkeypatch.setattr(bucket_lock, "_watch", watch)
    lock, holders = f"{folder}/.lock", []
    buckets.write(lock, json.dumps({"program": "other", "pid": 1, "host": "elsewhere"}).encode())

    def enter() -> None:
        with hold(folder, "mine"):
            holders.append(json.loads(buckets.read(lock))["program"])

    threads = [threading.Thread(target=enter) for _ in range(2)]
    threads[0].start()
    assert watched.wait(60)
    assert not bucket_lock.is_held(folder)
    threads[1].start()
    threads[1].join(0.5)
    is_left.set()
    for thread in threads:
        thread.join()
    assert holders == ["mine", "mine"], "none of them enters under another program's lock"
    assert not buckets.exists(lock)


def test_each_thread_is_refused_while_another_program_holds_the_folder(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_lock, "HEARTBEAT_S", 0.05)
    lock, refusals = f"{folder}/.lock", []

    def enter() -> None:
        with pytest.raises(LockedError), hold(folder, "mine"):
            pass
        refusals.append("refused")

    with written_again(lock, {"program": "other", "pid": 1, "host": "elsewhere"}):
        threads = [threading.Thread(target=enter) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert refusals == ["refused"] * 2
    buckets.remove(lock)


def test_the_last_one_out_releases_the_lock(folder: str) -> None:
    """Threads need not leave in the order in which they came."""
    first, second = hold(folder, "test"), hold(folder, "test")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert bucket_lock.is_held(folder)
    assert buckets.exists(f"{folder}/.lock")
    second.__exit__(None, None, None)
    assert not bucket_lock.is_held(folder)
    assert not buckets.exists(f"{folder}/.lock")


def test_a_lock_that_was_left_behind_is_taken_over(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_lock, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(bucket_lock, "LEFT_AFTER_S", 0.3)
    monkeypatch.setattr(bucket_lock, "_place", lambda: "here")
    lock = f"{folder}/.lock"
    # Of another machine: only waiting can tell that it has died.
    buckets.write(lock, json.dumps({"program": "p", "pid": 1, "host": "elsewhere"}).encode())
    with hold(folder, "test"):
        assert json.loads(buckets.read(lock))["pid"] == os.getpid()

    # Of this machine, and its process is no more: nothing is waited for.
    monkeypatch.setattr(bucket_lock, "LEFT_AFTER_S", 1e9)
    buckets.write(lock, json.dumps({**GONE, "place": "here"}).encode())
    with hold(folder, "test"):
        pass
    assert not buckets.exists(lock)


def test_who_was_taken_over_removes_nothing(
    folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bucket_lock, "HEARTBEAT_S", 0.05)
    lock, is_said = f"{folder}/.lock", threading.Event()
    monkeypatch.setattr(bucket_lock.logger, "error", lambda *_: is_said.set())
    with hold(folder, "test"):
        buckets.write(lock, b'{"mark": "another"}')
        assert is_said.wait(60), "it is told that another one has the run"
    assert buckets.read(lock) == b'{"mark": "another"}'
    assert BUCKET in lock
