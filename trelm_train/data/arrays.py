"""Flat arrays with offsets (ragged lists) and stateless random numbers, in numpy.

Goes in: values and offsets as Parquet stores them. Comes out: gathered lists and uniform numbers that are a pure
function of their keys, so that no random state has to be saved to resume a run. Costs a few vector operations per
batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.array_types import F64, I64, U64, Bools, Ints

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ragged:
    """Lists of integers, one after the other; list i is `values[offsets[i]:offsets[i + 1]]`.

    Values are of any integer type (Parquet's own, so that nothing has to be copied); what is asked for is int64.
    """

    values: Ints
    offsets: I64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, row: int) -> I64:
        """List number `row`."""
        return self.values[self.offsets[row] : self.offsets[row + 1]].astype(np.int64, copy=False)

    def starts(self, rows: I64) -> I64:
        """Index into `values` of the first element of each asked list."""
        return self.offsets[rows]

    def lengths(self, rows: I64) -> I64:
        """Length of each asked list."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def positions(self, rows: I64) -> I64:
        """Index into `values` of every element of the asked lists, in order."""
        return expand(self.starts(rows), self.lengths(rows))

    def at(self, positions: I64) -> I64:
        """The elements at these indices into `values`."""
        return self.values.take(positions).astype(np.int64, copy=False)

    def take(self, rows: I64) -> I64:
        """The elements of the asked lists, in order."""
        return self.at(self.positions(rows))


def from_lengths(values: I64, lengths: I64) -> Ragged:
    """Lists from their elements and their lengths."""
    return Ragged(
        values=values,
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
    )


def expand(starts: I64, lengths: I64) -> I64:
    """start, start + 1, …, start + length - 1 for each pair, one after the other."""
    if not len(lengths):
        return np.zeros(0, np.int64)
    ends: I64 = lengths.cumsum(
        dtype=np.int64
    )  # methods: `np.cumsum` takes as long again for short arrays
    numbers: I64 = (starts - (ends - lengths)).repeat(lengths)
    numbers += np.arange(len(numbers), dtype=np.int64)
    return numbers


def among(known: I64, asked: I64) -> Bools:
    """Which of the asked numbers are known; `known` ascends."""
    if not len(known):
        return np.zeros(len(asked), np.bool_)
    place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    found: Bools = known[place] == asked
    return found


def _mix(state: U64) -> U64:
    """The finaliser of splitmix64; overwrites its argument."""
    state ^= state >> np.uint64(30)
    state *= _MIX_A
    state ^= state >> np.uint64(27)
    state *= _MIX_B
    state ^= state >> np.uint64(31)
    return state


def _mixed(state: int) -> int:
    """`_mix` of one number, in Python: quicker than an array of one."""
    state = (state ^ (state >> 30)) * int(_MIX_A) % 2**64
    state = (state ^ (state >> 27)) * int(_MIX_B) % 2**64
    return state ^ (state >> 31)


def generators(seed: int, purpose: str, *keys: I64 | int) -> U64:
    """A splitmix64 generator for each combination of keys (arrays of one length, or numbers): for `next_bits`."""
    state: int | U64 = seed % 2**64 ^ int.from_bytes(purpose.encode()[:8].ljust(8, b"\0"), "little")
    for key in keys:
        if isinstance(state, int) and isinstance(key, int | np.integer):
            state = _mixed((state + int(_GOLDEN) + int(key) * int(_MIX_B)) % 2**64)
            continue
        numbers = np.atleast_1d(np.asarray(key, np.int64)).astype(np.uint64)
        numbers *= _MIX_B
        before = (
            np.uint64((state + int(_GOLDEN)) % 2**64) if isinstance(state, int) else state + _GOLDEN
        )
        state = _mix(numbers + before)
    return np.asarray([state], np.uint64) if isinstance(state, int) else state


def random_bits(seed: int, purpose: str, *keys: I64 | int) -> U64:
    """64 random bits for each combination of keys: the first output of its generator."""
    return _mix(generators(seed, purpose, *keys) + _GOLDEN)


def next_bits(state: U64, number: I64) -> U64:
    """Output `number` of each generator: many random numbers for a key that is hashed once."""
    bits = number.astype(np.uint64)
    bits *= _GOLDEN
    bits += state
    return _mix(bits)


def remixed(bits: U64, number: int) -> U64:
    """Other random bits made of random bits: for an order within an order, which must not repeat it."""
    return _mix(bits + np.uint64(number * int(_MIX_B) % 2**64))


def uniform(seed: int, purpose: str, *keys: I64 | int) -> F64:
    """A number in [0, 1) for each combination of keys."""
    return fractions(random_bits(seed, purpose, *keys))


def fractions(bits: U64) -> F64:
    """Random bits as numbers in [0, 1)."""
    leading: F64 = (bits >> np.uint64(11)).astype(np.float64)
    leading *= 2.0**-53
    return leading


def happens(bits: U64, probability: float) -> Bools:
    """True with this probability, by random bits."""
    limit = round(probability * 2.0**64)
    if limit >= 2**64:
        return np.ones(len(bits), np.bool_)
    found: Bools = bits < np.uint64(max(limit, 0))
    return found


def order_by_bits(bits: U64) -> I64:
    """The permutation that random bits give: their order. Ties of the leading bits go by place, on every machine alike."""
    width = np.uint64(max(1, len(bits)).bit_length())
    keys = (bits >> width << width) | np.arange(len(bits), dtype=np.uint64)
    keys.sort()  # plain numbers: several times faster than an argsort
    order: I64 = (keys & ((np.uint64(1) << width) - np.uint64(1))).astype(np.int64)
    return order


def grouped(numbers: I64) -> I64:
    """Stable order of numbers from 0 to 2³¹: places of the smallest first."""
    keys = (numbers << np.int64(32)) | np.arange(len(numbers), dtype=np.int64)
    keys.sort()
    return keys & np.int64(2**32 - 1)
