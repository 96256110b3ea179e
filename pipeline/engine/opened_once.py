"""Open what a worker needs once: models, memory-mapped indexes, look-ups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

R = TypeVar("R")


class OpenedOnce(Generic[R]):
    """Hold what a worker opens at its first unit and uses for all units that follow.

    A worker is pickled and sent to other processes and threads; each copy opens for itself, so
    nothing that is opened needs to be picklable or safe to share between threads. Opening waits for
    the first unit, because a phase before may have to make the files first.

    Example, in a worker, which is a frozen dataclass:

        _index: OpenedOnce[AliasIndex] = field(default_factory=OpenedOnce, compare=False,
            repr=False)

        def process(self, unit, out):
            index = self._index.get(lambda: AliasIndex(self.folder))
    """

    def __init__(self) -> None:
        self._opened: list[R] = []

    def get(self, open_object: Callable[[], R]) -> R:
        """Return the object; the first call opens it."""
        if not self._opened:
            self._opened.append(open_object())
        return self._opened[0]

    def __reduce__(self) -> tuple[type[OpenedOnce[R]], tuple[()]]:
        return type(self), ()
