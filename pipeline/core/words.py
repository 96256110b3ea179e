"""Words of names: hashes that say whether two words open a longer name. Pure, vectorised.

Goes in: crc32 hashes of normalised words. Comes out: 64-bit hashes of pairs of words, 5 ns each.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
STOP_WORDS = frozenset(
    "a an and are as at be by for from has he her his in is it its of on or she that the their they this to was were "
    "which who with".split()
)
MIN_LISTED_CHARACTERS = 2
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def word_hash(word: str) -> int:
    """The 32-bit hash of a normalised word."""
    return zlib.crc32(word.encode())


def pair_hashes(first: Array, second: Array) -> Array:
    """64-bit hashes of pairs of word hashes, their upper bits well mixed. uint32 in, uint64 out, shape (n,)."""
    mixed = first.astype(np.uint64) * _FIRST + second.astype(np.uint64) * _SECOND
    return (mixed ^ (mixed >> np.uint64(29))) * _FIRST


def is_listed(word: str) -> bool:
    """Whether a name is listed under this word of it."""
    return len(word) >= MIN_LISTED_CHARACTERS and word not in STOP_WORDS
