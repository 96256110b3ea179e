"""Keep lists of numbers flat in numpy, and draw random numbers without a state.

A list column is its values and its offsets, as Parquet stores it. A random number is a pure
function of its keys (seed, epoch, sentence, …), so no random state has to be saved to resume a
run. Both cost a few vector operations per batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.array_types import F64, I64, U64, Bools, Ints

# The constants of splitmix64 (Steele, Lea and Flood 2014).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ragged:
    """Hold lists of integers one after the other; list i is `values[offsets[i]:offsets[i + 1]]`.

    Values are of any integer type: Parquet's own, so that nothing has to be copied. What the
    methods return is int64.
    """

    values: Ints
    offsets: I64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, row: int) -> I64:
        """Return list number `row`."""
        # A view where the column is int64 already, a copy of one list otherwise.
        return self.values[self.offsets[row] : self.offsets[row + 1]].astype(np.int64, copy=False)

    def starts(self, rows: I64) -> I64:
        """Return the index into `values` where each of some lists starts."""
        return self.offsets[rows]

    def lengths(self, rows: I64) -> I64:
        """Return the length of each of some lists."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def positions(self, rows: I64) -> I64:
        """Return the index into `values` of every element of some lists, in order."""
        return expand(self.starts(rows), self.lengths(rows))

    def at(self, positions: I64) -> I64:
        """Return the elements at some indices into `values`."""
        return self.values.take(positions).astype(np.int64, copy=False)

    def take(self, rows: I64) -> I64:
        """Return the elements of some lists, in order."""
        return self.at(self.positions(rows))


def from_lengths(values: I64, lengths: I64) -> Ragged:
    """Build lists from their elements and their lengths."""
    return Ragged(
        values=values,
        # One more offset than lists: the last one is the number of elements.
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
    )


def expand(starts: I64, lengths: I64) -> I64:
    """Return start, start + 1, …, start + length - 1 for each pair, one after the other."""
    if not len(lengths):
        return np.zeros(0, np.int64)

    # Methods instead of `np.cumsum` and the like: for short arrays those take twice as long.
    ends: I64 = lengths.cumsum(dtype=np.int64)
    # Each list repeats the distance between its start and its place in the result; adding 0, 1, 2,
    # … then gives the indices.
    numbers: I64 = (starts - (ends - lengths)).repeat(lengths)
    numbers += np.arange(len(numbers), dtype=np.int64)
    return numbers


def among(ascending: I64, numbers: I64) -> Bools:
    """Say for each number whether it is one of the ascending numbers."""
    if not len(ascending):
        return np.zeros(len(numbers), np.bool_)

    # A number beyond all others would be looked up past the end.
    position = np.minimum(np.searchsorted(ascending, numbers), len(ascending) - 1)
    is_member: Bools = ascending[position] == numbers
    return is_member


def lowest_of_groups(draws: F64, groups: I64) -> I64:
    """Return the index of the lowest draw of each group, in the order of the groups' numbers."""
    order = np.lexsort((draws, groups))
    first = np.unique(groups[order], return_index=True)[1]
    lowest: I64 = order[first]
    return lowest


def _mix(state: U64) -> U64:
    """Finish a splitmix64 step; overwrite the argument."""
    state ^= state >> np.uint64(30)
    state *= _MIX_A
    state ^= state >> np.uint64(27)
    state *= _MIX_B
    state ^= state >> np.uint64(31)
    return state


def _mix_number(state: int) -> int:
    """Do the work of `_mix` on one number in Python, which is quicker than an array of one."""
    state = (state ^ (state >> 30)) * int(_MIX_A) % 2**64
    state = (state ^ (state >> 27)) * int(_MIX_B) % 2**64
    return state ^ (state >> 31)


def generators(seed: int, purpose: str, *keys: I64 | int) -> U64:
    """Make a splitmix64 generator for each combination of keys, to be used by `next_bits`.

    Keys are numbers, or arrays of one length.
    """
    # The purpose keeps draws apart that have the same keys: masks, order, triples and so on.
    state: int | U64 = seed % 2**64 ^ int.from_bytes(purpose.encode()[:8].ljust(8, b"\0"), "little")

    for key in keys:
        # As long as all keys are single numbers, plain integers are enough.
        if isinstance(state, int) and isinstance(key, int | np.integer):
            state = _mix_number((state + int(_GOLDEN) + int(key) * int(_MIX_B)) % 2**64)
            continue

        numbers = np.atleast_1d(np.asarray(key, np.int64)).astype(np.uint64)
        numbers *= _MIX_B
        if isinstance(state, int):
            numbers = numbers + np.uint64((state + int(_GOLDEN)) % 2**64)
        else:
            numbers = numbers + (state + _GOLDEN)
        state = _mix(numbers)

    return np.asarray([state], np.uint64) if isinstance(state, int) else state


def random_bits(seed: int, purpose: str, *keys: I64 | int) -> U64:
    """Draw 64 random bits for each combination of keys: the first output of its generator."""
    return _mix(generators(seed, purpose, *keys) + _GOLDEN)


def next_bits(state: U64, number: I64) -> U64:
    """Return output `number` of each generator: many random numbers for a key hashed once."""
    bits = number.astype(np.uint64)
    bits *= _GOLDEN
    bits += state
    return _mix(bits)


def remixed(bits: U64, number: int) -> U64:
    """Derive other random bits from random bits: an order within an order must not repeat it."""
    return _mix(bits + np.uint64(number * int(_MIX_B) % 2**64))


def uniform(seed: int, purpose: str, *keys: I64 | int) -> F64:
    """Draw a number in [0, 1) for each combination of keys."""
    return fractions(random_bits(seed, purpose, *keys))


def fractions(bits: U64) -> F64:
    """Turn random bits into numbers in [0, 1)."""
    # 53 bits are what a float64 can hold.
    leading: F64 = (bits >> np.uint64(11)).astype(np.float64)
    leading *= 2.0**-53
    return leading


def happens(bits: U64, probability: float) -> Bools:
    """Return True with this probability, by random bits."""
    # Compared as integers: no bit is lost, and the same bits give the same answer everywhere.
    limit = round(probability * 2.0**64)
    if limit >= 2**64:
        return np.ones(len(bits), np.bool_)

    is_below: Bools = bits < np.uint64(max(limit, 0))
    return is_below


def order_by_bits(bits: U64) -> I64:
    """Return the permutation that sorts random bits.

    Ties of the leading bits go by position, on every machine alike.
    """
    # Each key holds its own position in its lowest bits. Plain numbers sort several times faster
    # than an argsort would.
    width = np.uint64(max(1, len(bits)).bit_length())
    keys = (bits >> width << width) | np.arange(len(bits), dtype=np.uint64)
    keys.sort()

    order: I64 = (keys & ((np.uint64(1) << width) - np.uint64(1))).astype(np.int64)
    return order


def grouped(numbers: I64) -> I64:
    """Return the stable order of numbers from 0 to 2³¹: positions of the smallest first."""
    # Number above, position below: one sort of plain numbers instead of an argsort.
    keys = (numbers << np.int64(32)) | np.arange(len(numbers), dtype=np.int64)
    keys.sort()
    return keys & np.int64(2**32 - 1)
