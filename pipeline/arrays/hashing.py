"""Hash texts and mix numbers: the same result on every machine and in every run."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from schemas.array_types import U64

# 2^64 / golden ratio: the step of splitmix64's state.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def hash64(text: str) -> int:
    """Return the 64-bit hash of a text, the same on every machine."""
    # Python's own hash() differs from process to process, so it cannot be written to a file.
    # "replace": text of a damaged dump may hold lone surrogates, which UTF-8 cannot encode.
    digest = blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def hash_texts(texts: Iterable[str]) -> U64:
    """Return the 64-bit hashes of many texts, in their order."""
    return np.fromiter(map(hash64, texts), dtype=np.uint64)


def splitmix64(state: U64) -> U64:
    """Return pseudo-random numbers made from states by the last steps of splitmix64.

    Every bit of a state changes every bit of its result. Overflow is part of the method.
    """
    state = (state ^ (state >> np.uint64(30))) * _MULTIPLIERS[0]
    state = (state ^ (state >> np.uint64(27))) * _MULTIPLIERS[1]
    return state ^ (state >> np.uint64(31))
