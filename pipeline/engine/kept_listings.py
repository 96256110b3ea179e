"""Keep what was learned of a command's inputs at its launch, so that no file is asked twice.

A corpus may have a million files, and several stages ask what they are before any of them runs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar, cast

T = TypeVar("T")
_kept: ContextVar[dict[Hashable, object] | None] = ContextVar("kept", default=None)


@contextmanager
def kept_listings() -> Iterator[None]:
    """Keep what `once` makes inside a `with` block, until a stage has run (`forget_listings`)."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def forget_listings() -> None:
    """Forget what was listed: time has passed, and files may have changed."""
    kept = _kept.get()
    if kept is not None:
        kept.clear()


def once(key: Hashable, make: Callable[[], T]) -> T:
    """Return what was made for a key before, inside `kept_listings`; or else make it."""
    kept = _kept.get()
    if kept is None:
        return make()
    if key not in kept:
        kept[key] = make()
    return cast(T, kept[key])
