"""Which keys a misspelt key may have meant: blocks that both share. Never a scan.

Goes in: a key. Comes out: 32-bit hashes of its blocks, 0.7 µs each. A key of n characters is listed under two blocks, "n
and first half" and "n and last half": one edit leaves a half whole. A misspelt key is looked for under all lengths that
differ by at most REACH: one edit needs one, more are found where they are in one half. The length keeps blocks short where 100
million keys are listed. Words in another order: names of up to MAX_REORDERED words are looked up in every order, longer
ones have a third block, their sorted words.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator

MIN_LISTED_CHARACTERS = 4  # a query has 5 or more (candidates.MIN_FUZZY_CHARACTERS), so its right key 4 or more
REACH = 2
MAX_REORDERED = 4


def block_hashes(key: str) -> list[int]:
    """Blocks that list a key; none for keys that are too short."""
    length = len(key)
    if length < MIN_LISTED_CHARACTERS:
        return []
    return [*_halves(key, length), *_sorted_words(key)]


def query_hashes(key: str) -> list[int]:
    """Blocks in which a misspelt key is looked for: as if it had up to REACH characters less or more."""
    lengths = range(max(len(key) - REACH, MIN_LISTED_CHARACTERS), len(key) + REACH + 1)
    return [*(value for length in lengths for value in _halves(key, length)), *_sorted_words(key)]


def reorderings(key: str) -> Iterator[str]:
    """The same words in every other order."""
    words = key.split()
    if 1 < len(words) <= MAX_REORDERED:
        yield from (" ".join(order) for order in itertools.permutations(words) if list(order) != words)


def _halves(key: str, length: int) -> tuple[int, int]:
    half = length // 2
    return zlib.crc32(f"<{length} {key[:half]}".encode()), zlib.crc32(f">{length} {key[-half:]}".encode())


def _sorted_words(key: str) -> list[int]:
    if key.count(" ") < MAX_REORDERED:
        return []
    return [zlib.crc32(f"={' '.join(sorted(key.split()))}".encode())]
