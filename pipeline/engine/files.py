"""Read and write files on any file system that Beam knows: local, gs://, s3://.

Everything here goes through Beam's `FileSystems`, never through `open()`, so a stage runs the same
on a laptop and on a cluster.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import logging
import posixpath
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, cast

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from pipeline.engine.errors import StageError
from pipeline.engine.kept_listings import once
from pipeline.engine.local_listing import FileEntry, local_entry, local_matches
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
REMOTE_MARK = "://"
# What this thread writes is noted here (`recording`).
_recorded: ContextVar[list[PartFile] | None] = ContextVar("recorded", default=None)
logger = logging.getLogger("trelm")


def join(folder: str, *parts: str) -> str:
    """Join path parts, on a file system or a bucket."""
    return cast(str, FileSystems.join(folder, *parts))


def open_read(path: str) -> IO[bytes]:
    """Open a file as it is (no decompression), seekable.

    Raises:
        StageError: no such file, not readable, or a pipe or a device.
    """
    try:
        if is_local(path):
            return open_regular(path)
        file = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    except NotAFileError as error:
        raise StageError(f"{path}: {error.strerror}") from error
    except (OSError, ValueError) as error:
        raise StageError(
            f"{path}: cannot be read ({_cause(error)}); check the path and its permissions"
        ) from error
    return cast(IO[bytes], file)


def open_write(path: str) -> IO[bytes]:
    """Create a file; it is complete only after close.

    Raises:
        StageError: the folder cannot be written (read-only, no permission, disk full).
    """
    try:
        if is_local(path) and is_special(Path(path)):
            return open_special(path)
        file = FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error
    return cast(IO[bytes], file)


def unwritable(path: str, error: Exception) -> StageError:
    """Return the error that says what cannot be written, why, and what to do."""
    return StageError(
        f"{path}: cannot be written ({_cause(error)}); free space or choose another --run folder"
    )


def _cause(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_bytes(path: str) -> bytes:
    """Read a whole small file."""
    with open_read(path) as file:
        return file.read()


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
    write_stream(path, [content])


def write_stream(path: str, chunks: Iterable[bytes]) -> None:
    """Write a file from chunks so that it appears whole or not at all. Memory: one chunk.

    A link stays, and the file that it leads to is written. A device or a named pipe is written to,
    never replaced.
    """
    make_folder(posixpath.dirname(path))
    is_replaced = not (is_local(path) and is_special(Path(path)))
    # A pipe behind /dev/stdout has no name to resolve to.
    if is_replaced and is_local(path) and Path(path).is_symlink():
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
        if is_replaced and is_local(path):
            Path(written).unlink(missing_ok=True)
        raise unwritable(path, error) from error
    if is_replaced:
        rename(written, path)
    record(path, num_bytes, digest.hexdigest())


def _partial_of(path: str) -> str:
    """Return the temporary name of a file, on this machine that of `schemas.durable`."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, f".{name}.part")


def is_local(path: str) -> bool:
    """Say whether a path is one of this machine, not of a bucket."""
    return REMOTE_MARK not in path


def exists(path: str) -> bool:
    """Say whether a file or folder is there."""
    return bool(FileSystems.exists(path))


def make_folder(path: str) -> None:
    """Make a folder and its parents, if it is missing.

    Raises:
        StageError: it cannot be made.
    """
    if not path or exists(path):
        return

    try:
        FileSystems.mkdirs(path)
    except OSError as error:
        # Another worker may have made it since.
        if not exists(path):
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
    try:
        if is_local(target):
            publish(Path(source), Path(target))
        else:
            FileSystems.rename([source], [target])
    except OSError as error:
        raise unwritable(target, error) from error


def remove(path: str) -> None:
    """Remove a file or a folder, if it is there."""
    if exists(path):
        FileSystems.delete([path])


def list_files(pattern: str) -> list[FileEntry]:
    """List what a pattern matches, sorted by path. Costs one look at each file that it matches."""
    if is_local(pattern):
        return sorted(local_matches(pattern), key=lambda entry: entry.path)
    matched = FileSystems.match([pattern])[0].metadata_list
    entries = [
        FileEntry(found.path, int(found.size_in_bytes), found.last_updated_in_seconds or 0.0)
        for found in matched
    ]
    return sorted(entries, key=lambda entry: entry.path)


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
        self._file = open_write(path)
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
            self._file.close()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def abandon(self) -> None:
        """Close the file as far as that is possible, and remove it."""
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
