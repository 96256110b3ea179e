"""Objects in buckets, on servers of this machine."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator

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
    for scheme in ("nonsense", "hdfs"):
        with pytest.raises(BucketError, match=f"{scheme}:// is no kind of .* gs:// and s3:// are"):
            buckets.read(f"{scheme}://a/b")


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


def test_a_lock_that_was_left_behind_is_taken_over(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_lock, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(bucket_lock, "LEFT_AFTER_S", 0.3)
    lock = f"{folder}/.lock"
    # Of another machine: only waiting can tell that it has died.
    buckets.write(lock, json.dumps({"program": "p", "pid": 1, "host": "elsewhere"}).encode())
    with hold(folder, "test"):
        assert json.loads(buckets.read(lock))["pid"] == os.getpid()

    # Of this machine, and its process is no more: nothing is waited for.
    monkeypatch.setattr(bucket_lock, "LEFT_AFTER_S", 1e9)
    gone = {"program": "p", "pid": 2**22 + 1, "host": socket.gethostname()}
    buckets.write(lock, json.dumps(gone).encode())
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
