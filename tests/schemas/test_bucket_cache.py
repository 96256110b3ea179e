"""Copies of what lies in a bucket: made once, whole, within a limit, and removed when nobody uses them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from schemas import bucket_cache, buckets
from schemas.bucket_cache import (
    cache_folder,
    copy_of,
    link_into,
    work_folder,
)
from schemas.bucket_copies import local_file, local_folder, local_stage, send_folder
from schemas.bucket_fetch import CopiedFile, folder_files
from schemas.buckets import BucketError
from schemas.checksums import seal
from schemas.errors import ConfigError
from schemas.manifest import Manifest, PartFile
from tests.bucket_servers import BucketServer, connected
from tests.pausing import PATIENCE_S

MB = 1_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[BucketServer]:
    with connected("s3") as running:
        yield running


@pytest.fixture
def folder(server: BucketServer, request: pytest.FixtureRequest) -> str:
    """A folder of its own for each test."""
    return f"{server.root}/{request.node.name.partition('[')[0]}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, used by this process as if it had just begun."""
    monkeypatch.setenv("TRELM_CACHE", str(tmp_path / "cache"))
    held: dict[str, int] = {}
    monkeypatch.setattr(bucket_cache, "_held", held)
    yield tmp_path / "cache"
    for handle in held.values():
        os.close(handle)


def put(folder: str, num_bytes: int = 10, name: str = "file") -> str:
    buckets.write(f"{folder}/{name}", os.urandom(num_bytes))
    return folder


def copies_in(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.is_dir()}


def forget() -> None:
    """Let go of all copies, as the end of the process would."""
    for handle in bucket_cache._held.values():
        os.close(handle)
    bucket_cache._held.clear()


def test_a_copy_is_made_once(folder: str, cache: Path, server: BucketServer) -> None:
    for name in ("a", "b/c"):
        put(folder, name=name)
    copy = local_folder(folder)
    assert (copy / "b" / "c").read_bytes() == buckets.read(f"{folder}/b/c")
    assert copy.name.endswith("-20"), "its name ends with its size"
    forget()
    server.num_requests.clear()
    assert local_folder(f"{folder}/") == copy
    assert server.num_requests.total() == 1, "the listing alone"
    assert local_folder(Path("any")) == Path("any"), "a folder of this machine is its own"


def test_many_threads_make_one_copy(
    folder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder)
    download, downloads = buckets.download, []

    def counted(path: str, target: Path) -> None:
        downloads.append(path)
        download(path, target)

    monkeypatch.setattr(buckets, "download", counted)
    files, found = folder_files(folder, deep=True), []
    threads = [
        threading.Thread(target=lambda: found.append(copy_of(folder, files))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(downloads) == 1
    assert len(set(found)) == 1


def test_a_copy_that_another_program_has_just_made_is_not_waited_for(
    folder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder)
    make, handles, found = bucket_cache._make, [], []

    def after_another(target: Path, address: str, files: Sequence[CopiedFile]) -> None:
        """Nothing was there a moment ago; now another program has made it, and holds it."""
        monkeypatch.setattr(bucket_cache, "_make", make)
        make(target, address, files)
        handles.append(bucket_cache._lock(target, fcntl.LOCK_SH))
        make(target, address, files)

    monkeypatch.setattr(bucket_cache, "_make", after_another)
    files = folder_files(folder, deep=True)
    thread = threading.Thread(target=lambda: found.append(copy_of(folder, files)), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert len(found) == 1, "it waits for ever"
    assert found[0].is_dir()
    os.close(handles[0])


def test_other_content_is_another_copy(folder: str, cache: Path) -> None:
    first = local_folder(put(folder))
    second = local_folder(put(folder))
    assert first != second
    assert first.is_dir(), "somebody may have it mapped"


def test_what_was_used_longest_ago_makes_room(
    folder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRELM_CACHE_GB", "0.0025")
    for age, name in ((200.0, "a"), (100.0, "b")):
        copy = local_folder(put(f"{folder}/{name}", MB))
        used_at = time.time() - age
        os.utime(copy.with_name(copy.name + ".lock"), (used_at, used_at))
    a, b = local_folder(f"{folder}/a"), local_folder(f"{folder}/b")
    forget()
    assert local_folder(f"{folder}/b") == b, "used again: it is the younger one and held"
    c = local_folder(put(f"{folder}/c", MB))
    assert copies_in(cache) == {b.name, c.name}
    assert not a.with_name(a.name + ".lock").exists()

    put(f"{folder}/d", MB)
    with pytest.raises(BucketError, match=r"1\.0 MB, beside 2\.0 MB that running programs use"):
        local_folder(f"{folder}/d")
    assert copies_in(cache) == {b.name, c.name}, "what is in use stays"


def test_a_copy_unused_for_a_month_goes(folder: str, cache: Path) -> None:
    old = local_folder(put(f"{folder}/old"))
    young = local_folder(put(f"{folder}/young"))
    for copy, days in ((old, 31), (young, 29)):
        used_at = time.time() - days * 24 * 3600
        os.utime(copy.with_name(copy.name + ".lock"), (used_at, used_at))
    forget()
    new = local_folder(put(f"{folder}/new"))
    assert copies_in(cache) == {young.name, new.name}


def test_too_large_copies_are_refused_before_a_byte_is_copied(
    folder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, MB)
    monkeypatch.setattr(buckets, "download", lambda *_: pytest.fail("it has begun to copy"))
    monkeypatch.setattr(bucket_cache, "_free", lambda _: MB - 1)
    with pytest.raises(
        BucketError, match=rf"{folder}: its copy needs 1\.0 MB, but 1\.0 MB are free"
    ):
        local_folder(folder)
    monkeypatch.setenv("TRELM_CACHE_GB", "0.0005")
    with pytest.raises(
        BucketError, match=r"may have 0\.5 MB together; give a larger TRELM_CACHE_GB"
    ):
        local_folder(folder)
    for wrong in ("-1", "much", "nan"):
        monkeypatch.setenv("TRELM_CACHE_GB", wrong)
        with pytest.raises(BucketError, match=f"TRELM_CACHE_GB={wrong}"):
            local_folder(folder)
    assert copies_in(cache) == set()


def test_what_killed_programs_left_is_removed(folder: str, cache: Path) -> None:
    cache.mkdir()
    for name in (f"work-{'0a' * 12}", f"{'0a' * 12}-99.part"):
        (cache / name).mkdir()
        (cache / f"{name.removesuffix('.part')}.lock").touch()
    with work_folder() as work:
        copy = local_folder(put(folder))
        assert copies_in(cache) == {copy.name, work.name}
    assert copies_in(cache) == {copy.name}


def test_what_others_keep_in_the_folder_stays(
    folder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may name a folder of their own as the cache: with old locks, and what looks like sizes."""
    names = (
        "project",
        "work-schedule",
        "thesis-99999999",
        "work-2024.part",
        f"{'0a' * 12}-9-old",
        f"{'0A' * 12}-9",
        f"my{'0a' * 12}-9",
    )
    for name in names:
        (cache / name).mkdir(parents=True)
        (cache / name / "mine").touch()
        lock = cache / f"{name.removesuffix('.part')}.lock"
        lock.touch()
        os.utime(lock, (0, 0))
    before = {path.name for path in cache.iterdir()}
    monkeypatch.setenv("TRELM_CACHE_GB", "0.00000001")
    old = local_folder(put(f"{folder}/old"))
    forget()
    new = local_folder(put(f"{folder}/new"))
    assert {path.name for path in cache.iterdir()} == before | {new.name, f"{new.name}.lock"}
    assert not old.exists(), "ours makes room"
    assert all((cache / name / "mine").exists() for name in names)


def test_a_copy_that_was_cut_is_made_again(folder: str, cache: Path) -> None:
    copy = local_folder(put(folder))
    content = (copy / "file").read_bytes()
    forget()
    (copy / "file").write_bytes(b"cut")
    assert (local_folder(folder) / "file").read_bytes() == content


def test_a_cut_copy_that_others_use_is_not_made_under_their_feet(
    folder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_cache, "_PAUSE_S", 0.0)
    copy = local_folder(put(folder))
    (copy / "file").write_bytes(b"cut")
    # As another process, while this one holds it.
    held = dict(bucket_cache._held)
    bucket_cache._held.clear()
    with pytest.raises(BucketError, match="was changed, and running programs use it; end them"):
        local_folder(folder)
    bucket_cache._held.update(held)


@pytest.mark.parametrize("harm", [b"cut", bytes(10)])
def test_damage_in_the_bucket_is_named(
    folder: str, cache: Path, tmp_path: Path, harm: bytes
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    seal(tmp_path)
    send_folder(tmp_path, folder)
    buckets.write(f"{folder}/file", harm)
    with pytest.raises(BucketError, match=rf"{folder}: is damaged \({folder}/file .*copy the"):
        local_folder(folder)
    assert copies_in(cache) == set()


def test_what_arrived_cut_is_fetched_once_more(
    folder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder)
    download, downloads = buckets.download, []

    def cut_once(path: str, target: Path) -> None:
        download(path, target)
        downloads.append(path)
        if len(downloads) == 1:
            target.write_bytes(b"cut")

    monkeypatch.setattr(buckets, "download", cut_once)
    assert (local_folder(folder) / "file").read_bytes() == buckets.read(f"{folder}/file")
    assert len(downloads) == 2


def test_an_object_written_while_it_is_copied_is_noticed(
    folder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder)
    files = folder_files(folder, deep=True)
    put(folder, 11)
    with pytest.raises(BucketError, match="11 bytes arrived of 10"):
        copy_of(folder, files)


def replacing(monkeypatch: pytest.MonkeyPatch, *steps: tuple[str, bytes]) -> None:
    """Write the next of some objects whenever one is about to be downloaded."""
    download, left = buckets.download, list(steps)

    def replaced_first(path: str, target: Path) -> None:
        if left:
            buckets.write(*left.pop(0))
        download(path, target)

    monkeypatch.setattr(buckets, "download", replaced_first)


def test_what_is_replaced_while_it_is_copied_is_fetched_again(
    folder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        buckets.write(f"{folder}/{name}", b"first")
    replacing(monkeypatch, (f"{folder}/b", b"other"))
    copy = local_folder(folder)
    assert (copy / "b").read_bytes() == b"other"
    forget()
    assert local_folder(folder) == copy, "it has the name of what it holds"
    buckets.write(f"{folder}/b", b"first")
    assert (local_folder(folder) / "b").read_bytes() == b"first", (
        "an old version under its own name"
    )


def test_a_single_file_that_is_replaced_while_it_is_copied_is_fetched_again(
    folder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets.write(f"{folder}/file", b"first")
    replacing(monkeypatch, (f"{folder}/file", b"other"))
    copy = local_file(f"{folder}/file")
    assert copy.read_bytes() == b"other"
    forget()
    assert local_file(f"{folder}/file") == copy


def test_what_changes_all_the_time_is_refused(
    folder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets.write(f"{folder}/file", b"first")
    replacing(monkeypatch, *((f"{folder}/file", f"{count:05}".encode()) for count in range(9)))
    with pytest.raises(
        BucketError, match=rf"{folder}: was written each of 4 times that it was cop"
    ):
        local_folder(folder)
    assert copies_in(cache) == set()


def test_what_is_removed_while_it_is_copied_is_named(
    folder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = buckets.download

    def removed_after(path: str, target: Path) -> None:
        download(path, target)
        buckets.remove(path)

    monkeypatch.setattr(buckets, "download", removed_after)
    with pytest.raises(BucketError, match=rf"{folder}/file: was removed while it was copied"):
        local_folder(put(folder))
    assert copies_in(cache) == set()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "a\0b"])
def test_names_that_lead_elsewhere_are_refused(cache: Path, name: str) -> None:
    file = CopiedFile(name=name, address="s3://trelm-test/x", num_bytes=1, version="1")
    with pytest.raises(BucketError, match="which no file can be"):
        copy_of("s3://trelm-test", [file])
    assert not cache.exists()


def put_stage(folder: str) -> None:
    content = b"rows"
    digest = hashlib.sha256(content).hexdigest()
    part = PartFile(path="data-1/part", rows=0, num_bytes=len(content), sha256=digest)
    manifest = Manifest(stage="x", fingerprint="f", code_version="c", tables={}, artefacts=(part,))
    buckets.write(f"{folder}/data-1/part", content)
    buckets.write(f"{folder}/data-0/old", b"of an earlier run of the stage")
    buckets.write(f"{folder}/manifest.json", manifest.to_json().encode())


def test_a_stage_is_copied_by_its_manifest(folder: str, cache: Path, server: BucketServer) -> None:
    put_stage(folder)
    copy = local_stage(folder)
    names = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
    assert names == ["data-1/part", "manifest.json"]
    forget()
    server.num_requests.clear()
    assert local_stage(folder) == copy
    assert server.num_requests.total() == 1

    forget()
    buckets.write(f"{folder}/data-1/part", b"ROWS")
    assert local_stage(folder) == copy, "the copy is of what the manifest says"
    for path in cache.iterdir():
        if path.is_dir():
            (path / "data-1" / "part").unlink()
    forget()
    with pytest.raises(BucketError, match="its checksum is another one than its manifest says"):
        local_stage(folder)
    with pytest.raises(ConfigError, match=r"no manifest\.json there"):
        local_stage(f"{folder}/absent")


def test_files_and_their_absence(folder: str, cache: Path) -> None:
    put(folder, name="words.txt")
    assert local_file(f"{folder}/words.txt").name == "words.txt"
    with pytest.raises(ConfigError, match=r"absent\.txt: no such file"):
        local_file(f"{folder}/absent.txt")
    with pytest.raises(ConfigError, match="no such folder"):
        local_folder(f"{folder}/absent")


def test_linked_files_can_be_removed_without_harm(folder: str, cache: Path, tmp_path: Path) -> None:
    copy = local_folder(put(folder))
    link_into(copy, tmp_path / "mine")
    (tmp_path / "mine" / "file").unlink()
    assert (copy / "file").exists()


def test_the_folder_of_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRELM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder() == tmp_path / "caches" / "trelm"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert cache_folder().name == f"trelm-cache-{os.getuid()}"


def test_a_local_path_needs_no_client_of_buckets(tmp_path: Path) -> None:
    """The trainer's start must not get slower."""
    code = (
        "import sys; from pathlib import Path; from schemas.bucket_copies import *; "
        f"local_model('x'); local_folder(Path('{tmp_path}')); import schemas.command_line; "
        "sys.exit(any(name in sys.modules for name in ('fsspec', 's3fs', 'gcsfs', 'aiohttp')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
