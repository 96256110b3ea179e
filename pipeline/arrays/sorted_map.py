"""Look up many keys at once in sorted arrays, and follow chains of redirects.

Vectorised: a binary search per key.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.array_types import Array, Bools
from schemas.ids import MAX_HOPS


@dataclass(frozen=True, kw_only=True, slots=True)
class SortedMap:
    """Hold keys in ascending order, each once, and their values."""

    keys: Array
    values: Array

    def find(self, requested: Array) -> tuple[Bools, Array]:
        """Say of each requested key whether it is there, and return its value.

        A key that is not there has any value. Shape (n,) in, two of shape (n,) out.
        """
        if not len(self.keys):
            return np.zeros(len(requested), dtype=bool), np.zeros(
                len(requested), dtype=self.values.dtype
            )

        # searchsorted returns len(keys) for a key above all; any valid row will do for such a key.
        rows = np.minimum(np.searchsorted(self.keys, requested), len(self.keys) - 1)
        return self.keys[rows] == requested, self.values[rows]


def sorted_map(keys: Array, values: Array) -> SortedMap:
    """Return a map of keys, in any order and repeated at will, to their values.

    Of equal keys the lowest value stays, so the order of the rows does not matter.
    """
    # The last key of lexsort counts most: by key, then by value.
    order = np.lexsort((values, keys))
    keys, values = keys[order], values[order]

    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = keys[1:] != keys[:-1]
    return SortedMap(keys=keys[is_first], values=values[is_first])


def follow(redirects: SortedMap, sources: Array) -> Array:
    """Return where values lead after at most MAX_HOPS redirects.

    A value without a redirect stays. A cycle or a longer chain ends where the hops end.
    """
    current = sources.copy()
    for _ in range(MAX_HOPS):
        is_redirect, targets = redirects.find(current)
        if not is_redirect.any():
            break
        current = np.where(is_redirect, targets, current)
    return current
