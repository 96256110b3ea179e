"""Look up many keys at once in sorted arrays, and follow chains of redirects. Vectorised: a binary search per key."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.array_types import Array

MAX_HOPS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SortedMap:
    """Keys in ascending order, each once, and their values."""

    keys: Array
    values: Array

    def find(self, wanted: Array) -> tuple[Array, Array]:
        """Which of the wanted keys are there, and the values (of those that are not: any)."""
        if not len(self.keys):
            return np.zeros(len(wanted), dtype=bool), np.zeros(len(wanted), dtype=self.values.dtype)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return self.keys[places] == wanted, self.values[places]


def sorted_map(keys: Array, values: Array) -> SortedMap:
    """Of equal keys the one with the lowest value stays, so the order of the rows does not matter."""
    order = np.lexsort((values, keys))
    keys, values = keys[order], values[order]
    first = np.ones(len(keys), dtype=bool)
    first[1:] = keys[1:] != keys[:-1]
    return SortedMap(keys=keys[first], values=values[first])


def follow(redirects: SortedMap, wanted: Array) -> Array:
    """Where values lead after at most five hops; a cycle or a longer chain ends where the hops end."""
    current = wanted.copy()
    for _ in range(MAX_HOPS):
        known, targets = redirects.find(current)
        if not known.any():
            break
        current = np.where(known, targets, current)
    return current
