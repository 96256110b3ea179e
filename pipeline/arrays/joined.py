"""Read two arrays as one, the second after the first, without copying either."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from schemas.array_types import Array, Ints


class Readable(Protocol):
    """Provide values by slice or by row: an array, or two that are read as one."""

    def __len__(self) -> int:
        """Return the number of values."""

    def __getitem__(self, rows: slice | Ints, /) -> Array:
        """Return the values of a slice without a step, or of rows from 0 on, shape (n,)."""


class JoinedArray:
    """Read two arrays as one. The first may be a map of a large file."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: Array, second: Array) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __getitem__(self, rows: slice | Ints, /) -> Array:
        """Return the values of a slice without a step, or of rows from 0 on, shape (n,)."""
        length = len(self._first)
        if isinstance(rows, slice):
            low, high, _ = rows.indices(len(self))
            if high <= length:
                return self._first[low:high]
            second = self._second[max(low - length, 0) : high - length]
            return second if low >= length else np.concatenate([self._first[low:], second])

        is_second = rows >= length
        if not is_second.any():
            values: Array = self._first[rows]
            return values
        values = np.empty(len(rows), self._first.dtype)
        values[~is_second] = self._first[rows[~is_second]]
        values[is_second] = self._second[rows[is_second] - length]
        return values
