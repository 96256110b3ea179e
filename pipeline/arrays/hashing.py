"""Hash texts and mix numbers: the same result on every machine and in every run."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from schemas.array_types import U64

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: the step of splitmix64's state
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def hash64(text: str) -> int:
    """A fixed 64-bit hash, the same on every machine."""
    return int.from_bytes(
        blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little"
    )


def hash_texts(texts: Iterable[str]) -> U64:
    """Hashes of many texts."""
    return np.fromiter(map(hash64, texts), dtype=np.uint64)


def splitmix64(state: U64) -> U64:
    """The last steps of splitmix64: every bit of the state moves every bit of the result."""
    state = (state ^ (state >> np.uint64(30))) * _MULTIPLIERS[0]
    state = (state ^ (state >> np.uint64(27))) * _MULTIPLIERS[1]
    return state ^ (state >> np.uint64(31))
