"""Flat arrays with offsets (ragged lists) and stateless random numbers, in numpy.

Goes in: values and offsets as Parquet stores them. Comes out: gathered lists and uniform numbers that are a pure
function of their keys, so that no random state has to be saved to resume a run. Costs a few vector operations per
batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ragged:
    """Lists of int64, one after the other; list i is `values[offsets[i]:offsets[i + 1]]`."""

    values: I64
    offsets: I64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, row: int) -> I64:
        """List number `row`."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def lengths(self, rows: I64) -> I64:
        """Length of each asked list."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def positions(self, rows: I64) -> I64:
        """Index into `values` of every element of the asked lists, in order."""
        return expand(self.offsets[rows], self.lengths(rows))

    def take(self, rows: I64) -> I64:
        """The elements of the asked lists, in order."""
        return self.values[self.positions(rows)]


def from_lengths(values: I64, lengths: I64) -> Ragged:
    """Lists from their elements and their lengths."""
    return Ragged(values=values, offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]))


def expand(starts: I64, lengths: I64) -> I64:
    """start, start + 1, …, start + length - 1 for each pair, one after the other."""
    if not len(lengths):
        return np.zeros(0, np.int64)
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()), dtype=np.int64)


def _mix(state: U64) -> U64:
    state = (state ^ (state >> np.uint64(30))) * _MIX_A
    state = (state ^ (state >> np.uint64(27))) * _MIX_B
    return state ^ (state >> np.uint64(31))


def random_bits(seed: int, purpose: str, *keys: I64 | int) -> U64:
    """64 random bits for each combination of keys (arrays of one length, or numbers): splitmix64 as a hash."""
    word = int.from_bytes(purpose.encode()[:8].ljust(8, b"\0"), "little")
    state = np.asarray([seed % 2**64], np.uint64) ^ np.uint64(word)
    with np.errstate(over="ignore"):
        for key in keys:
            numbers = np.asarray(key, np.int64).astype(np.uint64)
            state = _mix(state + _GOLDEN + numbers * _MIX_B)
        return _mix(state + _GOLDEN)


def uniform(seed: int, purpose: str, *keys: I64 | int) -> F64:
    """A number in [0, 1) for each combination of keys."""
    bits: F64 = (random_bits(seed, purpose, *keys) >> np.uint64(11)).astype(np.float64)
    return bits / float(2**53)
