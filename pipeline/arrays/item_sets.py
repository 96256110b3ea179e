"""Hold sets of ids: in memory as bits, between the phases of a stage as files of ids."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from pipeline.arrays.mapped_files import save_array
from pipeline.engine import files
from schemas.array_types import U8, U32, Array, Bools

# QIDs without the Q fit.
NUM_IDS = 1 << 32


class ItemSet:
    """Hold a set of 32-bit ids, one bit each.

    512 MB are reserved, but only the pages in use cost memory: 20 MB for all of Wikidata.
    """

    def __init__(self) -> None:
        self._bits = np.zeros(NUM_IDS // 8, np.uint8)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, ids: Array) -> None:
        """Add many ids; those that are in the set already change nothing."""
        new_ids = np.unique(ids)
        new_ids = new_ids[~self.contains(new_ids)]

        self._size += len(new_ids)
        # Several ids share a byte, so plain `bits[...] |= …` would lose all but one of them.
        np.bitwise_or.at(self._bits, new_ids >> 3, _bit_in_byte(new_ids))

    def discard(self, ids: Array) -> None:
        """Remove many ids; those that are not in the set change nothing."""
        old_ids = np.unique(ids)
        old_ids = old_ids[self.contains(old_ids)]

        self._size -= len(old_ids)
        np.bitwise_and.at(self._bits, old_ids >> 3, ~_bit_in_byte(old_ids))

    def contains(self, ids: Array) -> Bools:
        """Say of each id whether it is in the set. Shape (n,) in and out."""
        # Byte id // 8, bit id % 8.
        bits: U8 = (self._bits[ids >> 3] >> (ids & 7).astype(np.uint8)) & 1
        return bits.astype(np.bool_)


def _bit_in_byte(ids: Array) -> U8:
    """Return, for each id, a byte in which only the bit of this id is set."""
    bits: U8 = np.left_shift(np.uint8(1), (ids & 7).astype(np.uint8))
    return bits


def save_items(folder: str, number: int, ids: Sequence[int] | Array) -> None:
    """Write ids to the numbered file of a folder."""
    save_array(_numbered_path(folder, number), np.asarray(ids, np.uint32))


def load_items(folder: str, number: int) -> U32:
    """Read the ids of a numbered file; without this file there are none."""
    path = _numbered_path(folder, number)
    return _read(path) if files.exists(path) else np.empty(0, np.uint32)


def load_all_items(folder: str) -> ItemSet:
    """Read the ids of all files of a folder; without this folder there are none."""
    items = ItemSet()
    if files.exists(folder):
        for entry in files.list_files(files.join(folder, "*.npy")):
            items.add(_read(entry.path))
    return items


def _numbered_path(folder: str, number: int) -> str:
    return files.join(folder, f"{number:05d}.npy")


def _read(path: str) -> U32:
    ids: U32 = np.load(io.BytesIO(files.read_bytes(path)), allow_pickle=False)
    return ids
