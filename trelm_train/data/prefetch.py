"""Make the next items of an iterator in a thread, while the current one is used.

`with prefetch(batches, 4) as ready:`, and in it `for … in ready:`. There is one thread, so order
and values are those of the iterator. The thread ends with the block, for any reason that ends the
block: nothing is left behind, and there is no worker process with a state that could differ.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar, cast

T = TypeVar("T")
_END = object()


class Prefetch(Generic[T]):
    """Iterate over items that were made ahead; see `prefetch`."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        if depth < 1:
            raise ValueError(f"depth is {depth}; wanted 1 or more")
        self._depth = depth
        self._source: Iterator[T] = iter(items)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._ready: deque[Future[object]] = deque()

    def __enter__(self) -> Prefetch[T]:
        # As many requests as items to be ready; each item that is taken out requests one more.
        for _ in range(self._depth):
            self._request_next()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Return the next item; an exception of the iterator is raised where its item would be."""
        if not self._ready:
            raise StopIteration

        try:
            item = self._ready.popleft().result()
        except BaseException:
            # An exception of the iterator, or Ctrl-C while waiting for it.
            self._drop()
            raise

        if item is _END:
            self._drop()
            raise StopIteration
        self._request_next()
        return cast(T, item)

    def _request_next(self) -> None:
        # A marker instead of StopIteration, which a future cannot carry.
        self._ready.append(self._thread.submit(next, self._source, _END))

    def _drop(self) -> None:
        # Newest first: a request that is not running yet never starts.
        while self._ready:
            self._ready.pop().cancel()

    def _close(self) -> None:
        """Wait for the item that is being made, and no longer; then close a generator."""
        self._drop()
        # The source must not be closed while the thread is still in it.
        self._thread.shutdown(wait=True, cancel_futures=True)

        close = getattr(self._source, "close", None)
        if close is not None:
            close()


def prefetch(items: Iterable[T], depth: int) -> contextlib.AbstractContextManager[Iterator[T]]:
    """Make up to `depth` items ahead of their use.

    Args:
        items: any iterable; only the thread uses it while the block lasts.
        depth: 0 makes none ahead and starts no thread.

    Raises:
        ValueError: the depth is negative.
    """
    return Prefetch(items, depth) if depth else contextlib.nullcontext(iter(items))
