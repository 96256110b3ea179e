"""Find files of a stage that are missing, or that are not as they were written.

A manifest, or a unit's report, goes in. The first wrong file comes out, in words. Lengths are
compared whenever a stage's output is used; the SHA-256 only where a killed stage goes on, and with
`run --verify`, because every byte has to be read for it: .7 s per gigabyte and core.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from pipeline.engine import files
from pipeline.engine.errors import StageError
from schemas.checksums import changed, missing, wrong_size
from schemas.manifest import PartFile

# Files that are read side by side: hashing lets other threads run.
THREADS = 4
BLOCK_BYTES = 1 << 20


def first_damage(folder: str, entries: Iterable[PartFile], *, hashed: bool) -> str:
    """Say which file is not as it was written, and how; nothing where all are.

    Args:
        folder: from which the paths of the entries count.
        entries: files with their lengths and checksums.
        hashed: whether every byte is read.
    """
    listed = list(entries)
    sizes = _sizes(folder, listed)
    for entry in listed:
        path = _full_path(folder, entry)
        if path not in sizes:
            return missing(path)
        if sizes[path] != entry.num_bytes:
            return wrong_size(path, sizes[path], entry.num_bytes)
    if not hashed:
        return ""

    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda entry: _changed(folder, entry), listed)
        return next(filter(None, found), "")


def _full_path(folder: str, entry: PartFile) -> str:
    return files.join(folder, *entry.path.split("/"))


def _sizes(folder: str, entries: Iterable[PartFile]) -> dict[str, int]:
    """Return the length of every file in the folders of some entries: one listing a folder."""
    folders = {_full_path(folder, entry).rsplit("/", 1)[0] for entry in entries}
    return {
        found.path: found.num_bytes
        for name in sorted(folders)
        for found in files.list_files(files.join(name, "*"))
    }


def _changed(folder: str, entry: PartFile) -> str:
    path, digest = _full_path(folder, entry), hashlib.sha256()
    try:
        with files.open_read(path) as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    except (OSError, StageError) as error:
        return f"{path} cannot be read ({error})"
    return "" if digest.hexdigest() == entry.sha256 else changed(path)
