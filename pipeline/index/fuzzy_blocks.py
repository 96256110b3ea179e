"""Blocks of the alias index: from a block's hash to the numbers of the keys it lists. No hash is stored.

The 32-bit hashes are cut into parts of equal range, a file each. Within a part a hash is a fraction of the range: it leads
to a cell of about CELL_ENTRIES entries (a directory of offsets), there one byte of the rest of the hash is stored per
entry. 5.1 bytes per entry; about one foreign key in ten: whoever asks compares the keys anyway.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np

from pipeline.arrays.sections import map_sections, save_sections
from pipeline.engine import files
from schemas.array_types import Array

CELL_ENTRIES = 32
MAX_BLOCK = 500
HASH_BITS = 32
MARK_BITS = 8
_FRACTION = (1 << HASH_BITS) - 1


def part_path(folder: str, part: int) -> str:
    """File of a part."""
    return files.join(folder, f"fuzzy-{part:03d}.safetensors")


def parts_of(hashes: Array, num_parts: int) -> Array:
    """The part of each hash. uint32 in."""
    return (hashes.astype(np.uint64) * np.uint64(num_parts)) >> np.uint64(HASH_BITS)


def write_blocks(path: str, hashes: Array, keys: Array, num_parts: int) -> None:
    """Write one part: hashes (uint32, all of this part) and the numbers of the keys they list. Memory: 40 bytes each."""
    num_cells = max(len(hashes) // CELL_ENTRIES, 1)
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
        "marks": (slots & np.uint64((1 << MARK_BITS) - 1)).astype(np.uint8),
    }
    save_sections(path, arrays)


class FuzzyBlocks:
    """Reads the parts in a local folder."""

    def __init__(self, folder: str, num_parts: int) -> None:
        self._parts = []
        for part in range(num_parts):
            arrays = map_sections(part_path(folder, part))
            self._parts.append((arrays["cells"].data, arrays["marks"].data, arrays["keys"]))

    def find(self, value: int) -> list[int]:
        """Numbers of the keys under a hash, and of a few others; at most MAX_BLOCK, those with the lowest numbers."""
        scaled = value * len(self._parts)
        cells, marks, keys = self._parts[scaled >> HASH_BITS]
        slot = (scaled & _FRACTION) * (len(cells) - 1) >> (HASH_BITS - MARK_BITS)
        cell, mark = slot >> MARK_BITS, slot & ((1 << MARK_BITS) - 1)
        low, high = cells[cell], cells[cell + 1]
        first = bisect_left(marks, mark, low, high)
        last = bisect_right(marks, mark, first, high)
        found: list[int] = keys[first : min(last, first + MAX_BLOCK)].tolist()
        return found
