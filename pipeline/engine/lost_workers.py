"""End a graph one of whose worker processes was killed: Beam's runner would wait for it for ever.

The system kills a process when memory runs out, and takes the largest. Beam starts each worker from
a thread, which fails when the worker has ended otherwise than it should. The failure comes here.
"""

from __future__ import annotations

import os
import signal
import threading
from types import TracebackType

# Beam's name of the thread, and what it then says.
THREAD = "run_worker"
ENDED = "Worker subprocess exited with return code"
# A worker that fails by an error of its own tells the runner, which then ends by itself.
GRACE_S = 3.0
NOTICE_S = 1.0
MESSAGE = (
    "a worker process was killed, perhaps because the memory ran out; use fewer --workers, and call "
    "again: the units that are done are kept"
)


class LostWorkers:
    """Watch Beam's threads inside a `with` block.

    Failures of other threads are reported as before, unless a worker has gone: they follow from it.
    """

    def __init__(self) -> None:
        self._has_ended_it = False
        self._is_lost = threading.Event()
        self._is_over = threading.Event()

    def __enter__(self) -> LostWorkers:
        """Begin to watch."""
        self._outer = threading.excepthook
        threading.excepthook = self._look_at
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Watch no more."""
        threading.excepthook = self._outer
        self._is_over.set()

    def explains(self, error: BaseException) -> bool:
        """Say whether a graph ended with an error because a worker had gone."""
        if isinstance(error, KeyboardInterrupt):
            # A user may stop the program at any time.
            return self._has_ended_it
        # The runner may notice a closed connection before the thread has seen the worker's end.
        return self._is_lost.wait(NOTICE_S)

    def _look_at(self, failure: threading.ExceptHookArgs) -> None:
        name = failure.thread.name if failure.thread is not None else ""
        if name == THREAD and ENDED in str(failure.exc_value):
            self._is_lost.set()
            threading.Thread(target=self._end, daemon=True).start()
        else:
            threading.Thread(target=self._report, args=(failure,), daemon=True).start()

    def _report(self, failure: threading.ExceptHookArgs) -> None:
        """Report a thread's failure, unless it follows from the loss of a worker."""
        self._is_over.wait(GRACE_S / 2)
        if not self._is_lost.is_set():
            self._outer(failure)

    def _end(self) -> None:
        if self._is_over.wait(GRACE_S):
            return
        # The command line's own way to stop: it ends the other workers, and wakes the main thread.
        if callable(signal.getsignal(signal.SIGTERM)):
            self._has_ended_it = True
            os.kill(os.getpid(), signal.SIGTERM)
