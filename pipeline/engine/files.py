"""Read and write files of this machine and objects in buckets alike: gs://, s3:// (`schemas.buckets`).

A stage runs the same on a laptop and on a cluster. In a bucket a folder is what names begin with:
it is there if anything is below it, needs not be made, and goes with what is below it.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import logging
import posixpath
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, cast

from pipeline.engine.errors import StageError
from pipeline.engine.kept_listings import forget_listings, once
from pipeline.engine.local_listing import FileEntry, local_entry, local_matches, matcher
from schemas import buckets
from schemas.buckets import BucketError, ObjectEntry, ObjectWriter
from schemas.durable import publish
from schemas.errors import ConfigError
from schemas.manifest import PartFile
from schemas.outputs import check_output
from schemas.regular_files import (
    NO_FILE,
    NotAFileError,
    is_named_pipe,
    is_special,
    open_regular,
    open_special,
)

GLOB_CHARACTERS = "*?[]"
REMOTE_MARK = buckets.MARK
# A pattern up to its first wildcard: what `glob.escape` made of a character is none.
LITERAL = re.compile(r"(?:\[[*?\[]\]|[^*?\[])*")
# What this thread writes is noted here (`recording`).
_recorded: ContextVar[list[PartFile] | None] = ContextVar("recorded", default=None)
logger = logging.getLogger("trelm")


def join(folder: str, *parts: str) -> str:
    """Join path parts, on a file system or in a bucket."""
    if is_local(folder):
        return posixpath.join(folder, *parts)
    return "/".join([folder.rstrip("/"), *(part.strip("/") for part in parts)])


@contextmanager
def told() -> Iterator[None]:
    """Pass on what is wrong with a bucket, so that a worker's runner passes it on too.

    Raises:
        StageError: with the bucket's error.
    """
    try:
        yield
    except BucketError as error:
        raise StageError(error.message) from error


def open_read(path: str) -> IO[bytes]:
    """Open a file as it is (no decompression), seekable.

    Raises:
        StageError: no such file, not readable, or a pipe or a device.
    """
    if not is_local(path):
        with told():
            return buckets.open_read(path)
    try:
        return open_regular(path)
    except NotAFileError as error:
        raise StageError(f"{path}: {error.strerror}") from error
    except (OSError, ValueError) as error:
        raise StageError(
            f"{path}: cannot be read ({_cause(error)}); check the path and its permissions"
        ) from error


def open_write(path: str) -> IO[bytes]:
    """Create a file of this machine; it is complete only after close.

    Raises:
        StageError: the folder cannot be written (read-only, no permission, disk full).
    """
    try:
        if is_special(Path(path)):
            return open_special(path)
        return Path(path).open("wb")
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error


def unwritable(path: str, error: Exception) -> StageError:
    """Return the error that says what cannot be written, why, and what to do."""
    return StageError(
        f"{path}: cannot be written ({_cause(error)}); free space or choose another --run folder"
    )


def _cause(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_bytes(path: str) -> bytes:
    """Read a whole small file."""
    if not is_local(path):
        with told():
            return buckets.read(path)
    with open_read(path) as file:
        return file.read()


def read_if_there(path: str) -> bytes | None:
    """Read a whole small file; None where there is none. In a bucket that is one request, or none
    where nothing has happened since the last one (`kept_listings`).
    """
    if is_local(path):
        return read_bytes(path) if exists(path) else None
    with told():
        return once(("content", path), lambda: buckets.read_if_there(path))


@contextmanager
def recording() -> Iterator[list[PartFile]]:
    """Note every file that the body writes whole: its full path, length and SHA-256.

    One inside another passes on what it has noted.
    """
    written: list[PartFile] = []
    outer = _recorded.get()
    token = _recorded.set(written)
    try:
        yield written
    finally:
        _recorded.reset(token)
        if outer is not None:
            outer.extend(written)


def record(path: str, num_bytes: int, sha256: str) -> None:
    """Note a file that was written whole, where somebody asked for it."""
    written = _recorded.get()
    if written is not None:
        written.append(PartFile(path=path, rows=0, num_bytes=num_bytes, sha256=sha256))


def write_bytes(path: str, content: bytes) -> None:
    """Write a small file so that it appears whole or not at all."""
    if is_local(path):
        write_stream(path, [content])
        return
    with told():
        buckets.write(path, content)
    forget_listings()
    record(path, len(content), hashlib.sha256(content).hexdigest())


def write_stream(path: str, chunks: Iterable[bytes]) -> None:
    """Write a file from chunks so that it appears whole or not at all. Memory: one chunk.

    A link stays, and the file that it leads to is written. A device or a named pipe is written to,
    never replaced.
    """
    if not is_local(path):
        _write_object(path, chunks)
        return
    make_folder(posixpath.dirname(path))
    is_replaced = not is_special(Path(path))
    # A pipe behind /dev/stdout has no name to resolve to.
    if is_replaced and Path(path).is_symlink():
        path = str(Path(path).resolve())
    # A hidden name: one that shows could be a user's own file.
    written = _partial_of(path) if is_replaced else path
    digest, num_bytes = hashlib.sha256(), 0
    try:
        with open_write(written) as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                num_bytes += len(chunk)
    except OSError as error:
        if is_replaced:
            Path(written).unlink(missing_ok=True)
        raise unwritable(path, error) from error
    if is_replaced:
        rename(written, path)
    record(path, num_bytes, digest.hexdigest())


def _write_object(path: str, chunks: Iterable[bytes]) -> None:
    sink = HashingSink(path)
    try:
        for chunk in chunks:
            sink.write(chunk)
        sink.close()
    except BaseException:
        # Closing it would make it appear, half written.
        sink.abandon()
        raise
    forget_listings()
    record(path, sink.num_bytes, sink.sha256())


def version_of(path: str) -> str:
    """Return what changes whenever an object is written; nothing where there is none, or no bucket."""
    if is_local(path):
        return ""
    with told():
        found = buckets.look(path)
        return found.version if found else ""


def write_if_unchanged(path: str, content: bytes, version: str) -> bool:
    """Write a small file whole unless, in a bucket, it has another version; return whether it was.

    Where an answer of the bucket was lost, it may have been written though this says no.

    Args:
        path: the file.
        content: its bytes.
        version: what `version_of` said; nothing where there was no such file.
    """
    if is_local(path):
        write_bytes(path, content)
        return True
    with told():
        write = (
            buckets.replace(path, content, version) if version else buckets.create(path, content)
        )
    forget_listings()
    if write:
        record(path, len(content), hashlib.sha256(content).hexdigest())
    return bool(write)


def _partial_of(path: str) -> str:
    """Return the temporary name of a file, on this machine that of `schemas.durable`."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, f".{name}.part")


def is_local(path: str) -> bool:
    """Say whether a path is one of this machine, not of a bucket."""
    return REMOTE_MARK not in path


def exists(path: str) -> bool:
    """Say whether a file or folder is there."""
    if is_local(path):
        # A name that no file can have is none.
        with contextlib.suppress(ValueError, OSError):
            return Path(path).exists()
        return False
    with told():
        return buckets.exists(path)


def make_folder(path: str) -> None:
    """Make a folder and its parents, if it is missing.

    Raises:
        StageError: it cannot be made.
    """
    if not path or not is_local(path) or exists(path):
        return

    try:
        # Another worker may make it meanwhile.
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error


def refuse_no_folder(path: str) -> None:
    """Refuse a path that is no folder and can be none; one that is not there is well.

    Raises:
        StageError: a file stands there or above, a name is too long, or it may not be looked at.
    """
    if not path or not is_local(path):
        return
    try:
        if stat.S_ISDIR(Path(path).stat().st_mode):
            return
        problem = f"{path} is no folder"
    except FileNotFoundError:
        return
    except NotADirectoryError:
        above = next(folder for folder in Path(path).parents if folder.exists())
        problem = f"{above} is no folder"
    except (OSError, ValueError) as error:
        is_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
        problem = "a name in it is too long" if is_long else _cause(error)
    raise StageError(
        f"{path}: a run cannot be written or read there ({problem}); choose another --run folder"
    )


def rename(source: str, target: str) -> None:
    """Give a finished file its final name; on this machine it is on the disk by then."""
    if source == target:
        return
    if not is_local(target):
        with told():
            buckets.move(source, target)
        forget_listings()
        return
    try:
        publish(Path(source), Path(target))
    except OSError as error:
        raise unwritable(target, error) from error


def remove(path: str) -> None:
    """Remove a file or a folder with all below it, if it is there."""
    if not is_local(path):
        with told():
            buckets.remove(path)
        forget_listings()
    elif Path(path).is_dir() and not Path(path).is_symlink():
        shutil.rmtree(path)
    elif exists(path):
        Path(path).unlink()


def list_files(pattern: str) -> list[FileEntry]:
    """List what a pattern matches, sorted by path; `*` stays within a folder, `**` not.

    Costs one look at each file that it matches; in a bucket a request for a thousand files below
    the folder before the first wildcard.
    """
    if is_local(pattern):
        return sorted(local_matches(pattern), key=lambda entry: entry.path)
    with told():
        found = once(("objects", pattern), lambda: tuple(_objects(pattern)))
    return [FileEntry(entry.path, entry.num_bytes, 0.0, version=entry.version) for entry in found]


def _objects(pattern: str) -> Iterator[ObjectEntry]:
    literal = cast(re.Match[str], LITERAL.match(pattern))[0]
    if literal == pattern:
        entry = buckets.look(_unescaped(pattern))
        if entry is not None:
            yield entry
        return
    folder = literal.rpartition("/")[0]
    rest, matches = pattern[len(folder) + 1 :], matcher(pattern)
    for entry in buckets.below(_unescaped(folder), deep="/" in rest or "**" in rest):
        if matches(entry.path):
            yield entry


def _unescaped(pattern: str) -> str:
    """Return the name whose pattern `glob.escape` made."""
    return re.sub(r"\[([*?\[])\]", r"\1", pattern)


def _entry_of(path: str) -> FileEntry:
    """Return the entry of a file by its literal name, with wildcards in it or not.

    Raises:
        StageError: no such file.
    """
    if is_local(path):
        try:
            found = Path(path).stat()
        except (OSError, ValueError) as error:
            raise StageError(f"{path}: no such file; check the path") from error
        return local_entry(path, found)
    matches = list_files(glob.escape(path))
    if not matches:
        raise StageError(f"{path}: no such file; check the path")
    return matches[0]


def size_of(path: str) -> int:
    """Return the number of bytes of a file.

    Raises:
        StageError: no such file.
    """
    return _entry_of(path).num_bytes


def stamp(path: str) -> str:
    """Return what distinguishes versions of an input file: name, size and time of change.

    Raises:
        StageError: no such file.
    """
    return _entry_of(path).stamp


def expand(patterns: tuple[str, ...]) -> list[str]:
    """Return the paths that `find` finds.

    Raises:
        StageError: a pattern without a file, or something that is no regular file.
    """
    return [entry.path for entry in find(patterns)]


def find(patterns: tuple[str, ...]) -> list[FileEntry]:
    """List the files of paths, folders (their files, not their folders) and globs, each once,
    sorted per pattern.

    A path that exists is taken literally, whichever characters it has. Costs one listing of a
    folder and one look at each of its files.

    Raises:
        StageError: a pattern without a file, or something that is no regular file.
    """
    return once(("listing", patterns), lambda: _found(patterns))


def _found(patterns: tuple[str, ...]) -> list[FileEntry]:
    # A dict keeps the order of the patterns and drops repeats.
    entries: dict[str, FileEntry] = {}
    for pattern in patterns:
        if not pattern:
            raise StageError("an empty path among the inputs; give a file, a folder or a glob")
        matches, problem = _matches(pattern)
        if not matches:
            raise StageError(f"{pattern}: {problem}; check the path")
        entries.update((entry.path, entry) for entry in matches)

    special = next((entry.path for entry in entries.values() if not entry.is_regular), "")
    if special:
        # It cannot be read twice, and a pipe that nobody writes to would be waited for.
        raise StageError(f"{special}: {NO_FILE}")
    return list(entries.values())


def _matches(pattern: str) -> tuple[list[FileEntry], str]:
    """Return the files of one pattern, and what it means if there are none."""
    if not exists(pattern):
        return list_files(pattern), "no such file or folder"
    if is_local(pattern) and not Path(pattern).is_dir():
        return [_entry_of(pattern)], ""
    literal = glob.escape(pattern)
    in_folder = list_files(join(literal, "*"))
    # In a bucket a name without anything below it is a file.
    in_folder = in_folder or ([] if is_local(pattern) else list_files(literal))
    return in_folder, "a folder without files"


class HashingSink:
    """Count and hash the bytes that are written to a file, for its entry in the manifest."""

    def __init__(self, path: str) -> None:
        self.path = path
        with told():
            self._file = open_write(path) if is_local(path) else ObjectWriter(path)
        self._hash = hashlib.sha256()
        self.num_bytes = 0

    @property
    def closed(self) -> bool:
        """Say whether the file was closed."""
        return self._file.closed

    def write(self, content: bytes) -> int:
        """Write, count and hash.

        Raises:
            StageError: the disk is full.
        """
        try:
            with told():
                self._file.write(content)
        except OSError as error:
            raise unwritable(self.path, error) from error

        self._hash.update(content)
        self.num_bytes += len(content)
        return len(content)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self.num_bytes

    def flush(self) -> None:
        """Do nothing: `close` flushes."""

    def close(self) -> None:
        """Finish the file."""
        try:
            with told():
                self._file.close()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def abandon(self) -> None:
        """Close the file as far as that is possible, and remove it; an object never appears."""
        if isinstance(self._file, ObjectWriter):
            self._file.abandon()
            return
        try:
            self._file.close()
        except OSError as error:
            # What could not be written before cannot be now; the first failure is the one to
            # report.
            logger.debug("%s: %s", self.path, error)
        remove(self.path)

    def sha256(self) -> str:
        """Return the hash of what was written, in hex."""
        return self._hash.hexdigest()


def check_folder(path: str, option: str = "--errors", inputs: Iterable[str] = ()) -> None:
    """Refuse a file that cannot be written, or that must not be, before any work.

    Args:
        path: of the file; empty: none.
        option: that gave it.
        inputs: files that the command reads.

    Raises:
        ConfigError: its folder does not exist, the path is a folder or a named pipe, an input, or a
            file of a run or a model.
    """
    # A bucket has no folders that would have to be there.
    if not path or REMOTE_MARK in path:
        return

    folder = Path(path).parent
    if not folder.is_dir():
        raise ConfigError(f"{option} {path!r}: there is no folder {str(folder)!r}; create it first")
    if Path(path).is_dir():
        raise ConfigError(f"{option} {path!r} is a folder; give the name of a file")
    check_output(path, option, inputs)
    refuse_named_pipe(path, option)


def refuse_named_pipe(path: str, option: str) -> None:
    """Refuse a named pipe as the place of a file, before any work: nobody may ever read it.

    Raises:
        ConfigError: names the option.
    """
    if REMOTE_MARK not in path and is_named_pipe(Path(path)):
        raise ConfigError(
            f"{option} {path!r} is a named pipe; give the name of a file, or /dev/stdout"
        )
