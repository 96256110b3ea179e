"""Find the keys of a fuzzy block: from its hash to the numbers of its keys. No hash is stored.

The 32-bit hashes are cut into parts of equal range, a file each. Within a part a hash is a fraction
of the range: it leads to a cell of about CELL_ENTRIES entries (a directory of offsets). There one
byte of the remaining bits of the hash, the mark, is stored per entry. 5.1 bytes per entry. About
one key in ten is not of the block, so callers compare the keys, as they do anyway.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np

from pipeline.arrays.sections import map_sections, save_sections
from pipeline.engine import files
from schemas.array_types import U32, U64, Array

CELL_ENTRIES = 32
MAX_BLOCK = 500
HASH_BITS = 32
MARK_BITS = 8
_FRACTION = (1 << HASH_BITS) - 1
_MARK = (1 << MARK_BITS) - 1


def part_path(folder: str, part: int) -> str:
    """Return the path of a part."""
    return files.join(folder, f"fuzzy-{part:03d}.safetensors")


def parts_of(hashes: U32, num_parts: int) -> U64:
    """Return the part of each hash."""
    return (hashes.astype(np.uint64) * np.uint64(num_parts)) >> np.uint64(HASH_BITS)


def write_blocks(path: str, hashes: U32, keys: U32, num_parts: int) -> None:
    """Write one part. Memory: 40 bytes per entry.

    Args:
        path: the file.
        hashes: all hashes of this part, shape (n,).
        keys: the number of the key that is listed under each hash, shape (n,).
        num_parts: how many parts there are.
    """
    num_cells = max(len(hashes) // CELL_ENTRIES, 1)
    # Where a hash lies within the range of the part, as a 32-bit fraction; then scaled so that the
    # upper bits are the cell and the lower MARK_BITS the mark. `FuzzyBlocks.find` does the same.
    fractions = (hashes.astype(np.uint64) * np.uint64(num_parts)) & np.uint64(_FRACTION)
    slots = (fractions * np.uint64(num_cells)) >> np.uint64(HASH_BITS - MARK_BITS)
    order = np.lexsort((keys, slots))
    slots = slots[order]

    cells = np.searchsorted(
        slots >> np.uint64(MARK_BITS), np.arange(num_cells + 1, dtype=np.uint64)
    )
    arrays: dict[str, Array] = {
        "cells": cells.astype(np.uint32),
        "keys": keys[order].astype(np.uint32),
        "marks": (slots & np.uint64(_MARK)).astype(np.uint8),
    }
    save_sections(path, arrays)


class FuzzyBlocks:
    """Read the parts in a local folder."""

    def __init__(self, folder: str, num_parts: int) -> None:
        self._parts = []
        for number in range(num_parts):
            arrays = map_sections(part_path(folder, number))
            # Single values of the first two are read: memoryviews are faster there than arrays.
            self._parts.append((arrays["cells"].data, arrays["marks"].data, arrays["keys"]))

    def find(self, block_hash: int) -> list[int]:
        """Return the numbers of the keys under a hash, and of a few others.

        At most MAX_BLOCK: those with the lowest numbers.
        """
        # Above HASH_BITS the part, below them the fraction of its range.
        scaled = block_hash * len(self._parts)
        cells, marks, keys = self._parts[scaled >> HASH_BITS]
        slot = (scaled & _FRACTION) * (len(cells) - 1) >> (HASH_BITS - MARK_BITS)
        cell, mark = slot >> MARK_BITS, slot & _MARK

        # A cell's entries are sorted by mark.
        cell_start, cell_end = cells[cell], cells[cell + 1]
        low = bisect_left(marks, mark, cell_start, cell_end)
        high = bisect_right(marks, mark, low, cell_end)
        numbers: list[int] = keys[low : min(high, low + MAX_BLOCK)].tolist()
        return numbers
