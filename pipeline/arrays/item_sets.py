"""Sets of ids: in memory as bits, between phases as files of ids."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from pipeline.arrays.mapped_files import save_array
from pipeline.engine import files
from schemas.array_types import Array

ALL_IDS = 1 << 32


class ItemSet:
    """A set of 32-bit ids, one bit each. Of the 512 MB reserved only pages in use cost memory: 20 MB for all of Wikidata."""

    def __init__(self) -> None:
        self._bits = np.zeros(ALL_IDS // 8, np.uint8)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, ids: Array) -> None:
        """Add many ids."""
        new = np.unique(ids)
        new = new[~self.contains(new)]
        self._size += len(new)
        np.bitwise_or.at(
            self._bits, new >> 3, np.left_shift(np.uint8(1), (new & 7).astype(np.uint8))
        )

    def discard(self, ids: Array) -> None:
        """Take many ids out."""
        old = np.unique(ids)
        old = old[self.contains(old)]
        self._size -= len(old)
        np.bitwise_and.at(
            self._bits, old >> 3, ~np.left_shift(np.uint8(1), (old & 7).astype(np.uint8))
        )

    def contains(self, ids: Array) -> Array:
        """Which of many ids are in the set. Shape (n,) in and out."""
        found: Array = (self._bits[ids >> 3] >> (ids & 7).astype(np.uint8)) & 1
        return found.astype(np.bool_)


def save_items(folder: str, number: int, ids: Sequence[int] | Array) -> None:
    """Write ids to the numbered file of a folder."""
    save_array(files.join(folder, f"{number:05d}.npy"), np.asarray(ids, np.uint32))


def load_items(folder: str, number: int) -> Array:
    """Ids of a numbered file; none where there is no such file."""
    path = files.join(folder, f"{number:05d}.npy")
    return _read(path) if files.exists(path) else np.empty(0, np.uint32)


def load_all_items(folder: str) -> ItemSet:
    """Ids of all files of a folder; none where there is no folder."""
    items = ItemSet()
    if files.exists(folder):
        for metadata in files.list_files(files.join(folder, "*.npy")):
            items.add(_read(metadata.path))
    return items


def _read(path: str) -> Array:
    ids: Array = np.load(io.BytesIO(files.read_bytes(path)), allow_pickle=False)
    return ids
