"""List files of this machine with one look at each: its name, length, time of change and kind.

Beam's own listing goes through all folders below and looks several times at each file, which takes
minutes for a corpus of a million texts.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from apache_beam.io.filesystem import FileSystem


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Hold what a listing says of a file: no further look at the file is needed for it."""

    path: str
    num_bytes: int
    # Seconds since 1970; 0 where the file system does not say.
    changed_s: float
    # Whether it is a file, not a named pipe or a device.
    is_regular: bool = True
    # What a bucket says of it instead of a time of change.
    version: str = ""

    @property
    def stamp(self) -> str:
        """Return what distinguishes versions of an input file: name, size and time of change."""
        if self.version:
            return f"{self.path}:{self.num_bytes}:{self.version}"
        return f"{self.path}:{self.num_bytes}:{self.changed_s:.0f}"


def local_matches(pattern: str) -> Iterator[FileEntry]:
    """Yield the files of this machine that a pattern matches; `*` stays within a folder, `**` not."""
    first_special = re.search(r"[*?\[]", pattern)
    if first_special is None:
        with suppress(OSError):
            yield local_entry(pattern, Path(pattern).stat())
        return

    folder = posixpath.dirname(pattern[: first_special.start()])
    matches = matcher(pattern)
    depth = pattern.count("/") - (folder.count("/") + 1 if folder.strip("/") else folder.count("/"))
    for entry in _below(folder, -1 if "**" in pattern else depth):
        path = entry.path if folder else entry.path.removeprefix("./")
        if matches(path):
            # A file may be gone by now, such as a temporary one of another program.
            with suppress(FileNotFoundError):
                yield local_entry(path, entry.stat())


def matcher(pattern: str) -> Callable[[str], object]:
    """Return what says whether a path matches a pattern; `*` stays within a folder, `**` not."""
    return re.compile(FileSystem.translate_pattern(pattern)).match


def local_entry(path: str, found: os.stat_result) -> FileEntry:
    """Return the entry of a file from what the system says of it."""
    is_regular = stat.S_ISREG(found.st_mode)
    return FileEntry(path, found.st_size, found.st_mtime, is_regular)


def _below(folder: str, depth: int) -> Iterator[os.DirEntry[str]]:
    """Yield the files in a folder, and in those up to `depth` below it (negative: in all)."""
    try:
        listing = os.scandir(folder) if folder else os.scandir()
    except (FileNotFoundError, NotADirectoryError):
        return
    with listing:
        for entry in listing:
            if not entry.is_dir():
                yield entry
            elif depth and not entry.is_symlink():
                yield from _below(entry.path, depth - 1)
