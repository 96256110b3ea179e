"""Keep copies of what lies in buckets on this machine's disk, for both programs.

A copy is a folder whose name says what it holds and how large it is. All processes of a machine
share it: one copies, the others wait, and each holds it as long as it lives. It appears whole, after
lengths and checksums have been compared. What nobody holds is removed when room is needed, the copy
that was used longest ago first, and when it was not used for a month.

TRELM_CACHE is the folder (else `trelm` in the user's folder of caches), TRELM_CACHE_GB its size.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from schemas.amounts import GB, amount
from schemas.bucket_fetch import CopiedFile, ReplacedError, fetch, verify
from schemas.buckets import CACHE, BucketError

LIMIT = "TRELM_CACHE_GB"
DEFAULT_LIMIT_GB = 200.0
# A copy that nobody has used for so long is removed with the next one that is made.
UNUSED_S = 30 * 24 * 3600.0
# A copy that takes a while, which is said.
_LARGE = 100e6
# How often, and after what pause, a copy is looked at again that others hold.
_NUM_LOOKS, _PAUSE_S = 20, 0.5
# How often objects are fetched that are replaced meanwhile.
_NUM_FETCHES = 4
_LOCK, _PART, _WORK = ".lock", ".part", "work-"
# All names that are given here; whatever else lies in the folder is the user's, and stays.
_NAME = re.compile(r"[0-9a-f]{24}-(?P<num_bytes>[0-9]+)|work-[0-9a-f]{24}", re.ASCII)
# Handles of the copies that this process uses: each holds its lock until the process ends.
_held: dict[str, int] = {}
logger = logging.getLogger("trelm")


def cache_folder() -> Path:
    """Return the folder of all copies, which may not be there yet."""
    chosen = os.environ.get(CACHE, "")
    if chosen:
        return Path(chosen).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME", "") or os.path.expanduser("~/.cache")  # noqa: PTH111
    above = next((path for path in (Path(home), *Path(home).parents) if path.exists()), Path("/"))
    # A container's user may have no home.
    can_be_made = Path(home).is_absolute() and os.access(above, os.W_OK | os.X_OK)
    if can_be_made:
        return Path(home) / "trelm"
    return Path(tempfile.gettempdir()) / f"trelm-cache-{os.getuid()}"


def cache_limit() -> float:
    """Return how many bytes all copies may have together.

    Raises:
        BucketError: TRELM_CACHE_GB is no number above 0.
    """
    text = os.environ.get(LIMIT, "")
    try:
        limit = float(text) if text else DEFAULT_LIMIT_GB
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise BucketError(f"{LIMIT}={text}: no number of gigabytes above 0; correct it")
    return limit * GB


def copy_of(address: str, files: Sequence[CopiedFile]) -> Path:
    """Return the folder of a copy on this machine, made now or before; it stays while this process lives.

    Args:
        address: of the folder in the bucket.
        files: what the copy holds.

    Raises:
        BucketError: too little room, a damaged file, objects that change all the time, or no way to
            the bucket.
    """
    for file in files:
        _check_name(file.name, address)
    for _ in range(_NUM_FETCHES):
        try:
            return _copy_of(address, files)
        except ReplacedError as error:
            # Another version is another copy, of another name.
            files = error.files
    raise BucketError(
        f"{address}: was written each of {_NUM_FETCHES} times that it was copied; wait until who writes "
        "there has ended, and the same command goes on"
    )


def _copy_of(address: str, files: Sequence[CopiedFile]) -> Path:
    """Return the folder of a copy of what was listed.

    Raises:
        BucketError: too little room, a damaged file, or no way to the bucket.
        ReplacedError: an object was replaced while it was copied.
    """
    lines = [address, *sorted(f"{file.name}\n{file.num_bytes} {file.version}" for file in files)]
    num_bytes = sum(file.num_bytes for file in files)
    name = f"{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:24]}-{num_bytes}"
    folder, num_looks = cache_folder(), 0
    target = folder / name
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        while str(target) not in _held:
            # Shared where it is there; alone to make it, and then shared again.
            handle = _lock(target, fcntl.LOCK_SH)
            if _is_whole(target, files):
                os.utime(handle)
                _held[str(target)] = handle
                break
            os.close(handle)
            num_looks += 1
            _make_unless_held(target, address, files, num_looks)
    return target


def _make_unless_held(
    target: Path, address: str, files: Sequence[CopiedFile], num_looks: int
) -> None:
    """Make a copy that is not there, or was cut or changed, unless another program holds it.

    That is not waited for: who has just made it holds it as long as it lives.

    Raises:
        BucketError: it is still held after some looks, and not whole.
    """
    try:
        _make(target, address, files)
    except BlockingIOError as error:
        if num_looks > _NUM_LOOKS:
            raise BucketError(
                f"{target}: this copy of {address} was changed, and running programs use it; end them, and "
                "the next one copies it again"
            ) from error
        # Or another program makes it again: then the next look waits for it.
        time.sleep(_PAUSE_S)


def _check_name(name: str, address: str) -> None:
    """Refuse a name that would lead out of the copy's folder.

    Raises:
        BucketError: it does.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise BucketError(
            f"{address}: an object is named {name!r}, which no file can be; rename it"
        )


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BucketError(
            f"{folder}: copies from buckets cannot be kept there ({error.strerror or error}); free "
            f"space, or name another folder with {CACHE}"
        ) from error


def _lock(target: Path, kind: int) -> int:
    """Lock a copy, which may not be there yet, and return the handle that holds the lock."""
    path = target.with_name(target.name + _LOCK)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, kind)
            # Who removed the copy removed this file too, between our two calls.
            if os.path.samestat(path.stat(), os.fstat(handle)):
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_whole(target: Path, files: Sequence[CopiedFile]) -> bool:
    """Say whether a copy is there and its files have their lengths."""
    try:
        return target.is_dir() and all(
            (target / file.name).stat().st_size == file.num_bytes for file in files
        )
    except OSError:
        return False


def _make(target: Path, address: str, files: Sequence[CopiedFile]) -> None:
    """Make a copy while nobody else does.

    Raises:
        BucketError: it cannot be made.
        ReplacedError: an object was replaced while it was copied.
        BlockingIOError: somebody uses or makes it.
    """
    handle = _lock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        if _is_whole(target, files):
            return
        part = target.with_name(target.name + _PART)
        # Of a program that was killed, or a copy that somebody has changed.
        for left_over in (part, target):
            shutil.rmtree(left_over, ignore_errors=True)
        num_bytes = sum(file.num_bytes for file in files)
        _make_room(target, num_bytes, address)
        logger.log(
            logging.INFO if num_bytes >= _LARGE else logging.DEBUG,
            "%s: copying %s to %s (%s holds up to %s)",
            address, _in_words(num_bytes), target, CACHE, _in_words(cache_limit()),
        )  # fmt: skip
        try:
            fetch(part, files)
            verify(part, address)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    finally:
        os.close(handle)


def _make_room(target: Path, num_bytes: int, address: str) -> None:
    """Remove what nobody holds until a copy of some bytes fits.

    Raises:
        BucketError: it does not fit.
    """
    folder, limit = target.parent, cache_limit()
    if num_bytes > limit:
        raise BucketError(
            f"{address}: its copy needs {_in_words(num_bytes)}, but all copies in {folder} may have "
            f"{_in_words(limit)} together; give a larger {LIMIT}"
        )
    locks = ((path, path.name.removesuffix(_LOCK)) for path in folder.glob(f"*{_LOCK}"))
    oldest = sorted((path.stat().st_mtime, name) for path, name in locks if _NAME.fullmatch(name))
    now = time.time()
    for used_at, name in oldest:
        fits = _total(folder) + num_bytes <= limit and _free(folder) >= num_bytes
        # What a killed program has left is of no use to anybody.
        is_left = name.startswith(_WORK) or (folder / (name + _PART)).exists()
        if name != target.name and (not fits or is_left or now - used_at > UNUSED_S):
            _remove_unused(folder / name)

    others = _total(folder)
    if others + num_bytes > limit:
        raise BucketError(
            f"{address}: its copy needs {_in_words(num_bytes)}, beside {_in_words(others)} that running "
            f"programs use in {folder}, where {_in_words(limit)} are allowed; give a larger {LIMIT}"
        )
    if _free(folder) < num_bytes:
        raise BucketError(
            f"{address}: its copy needs {_in_words(num_bytes)}, but {_in_words(_free(folder))} are free in "
            f"{folder}; free space, or name a folder on a larger disk with {CACHE}"
        )


def _total(folder: Path) -> int:
    """Return the bytes of all copies, those included that are being made: their names say it."""
    names = {path.name.removesuffix(_PART) for path in folder.iterdir() if path.is_dir()}
    ours = (found for name in names if (found := _NAME.fullmatch(name)))
    return sum(int(found["num_bytes"] or 0) for found in ours)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _remove_unused(target: Path) -> None:
    """Remove a copy, unless somebody holds it."""
    try:
        handle = _lock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    try:
        for folder in (target, target.with_name(target.name + _PART)):
            shutil.rmtree(folder, ignore_errors=True)
        # While it is locked: who waits for it finds that the name has gone, and makes a new one.
        target.with_name(target.name + _LOCK).unlink(missing_ok=True)
    finally:
        os.close(handle)


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """Give an empty folder beside the copies, which goes with the block, or later with its process.

    Raises:
        BucketError: it cannot be made.
    """
    folder = cache_folder()
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        work = folder / f"{_WORK}{secrets.token_hex(12)}"
        work.mkdir(mode=0o700)
        handle = _lock(work, fcntl.LOCK_EX)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        work.with_name(work.name + _LOCK).unlink(missing_ok=True)
        os.close(handle)


def link_into(copy: Path, folder: Path) -> None:
    """Put the files of a copy into a folder: the same bytes on the disk where that is possible.

    A file may be removed or replaced there, and must not be changed in place.
    """
    for path in sorted(path for path in copy.rglob("*") if path.is_file()):
        target = folder / path.relative_to(copy)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)


def _in_words(num_bytes: float) -> str:
    # Copies may be small, as in tests and of tokenizers.
    return amount(num_bytes, mb_digits=1)
