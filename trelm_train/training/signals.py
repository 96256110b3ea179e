"""Handle the signals that end a run: the step in progress is finished and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from schemas.errors import TrelmError

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# What batch systems take as "stopped as asked": they send SIGTERM, or SIGUSR1 some time before.
TERMINATED = 143


class InterruptedRun(TrelmError):  # noqa: N818
    """Report that a signal ended the run after a checkpoint.

    The exit code is 130 for SIGINT, 143 for SIGTERM and SIGUSR1.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal.SIGINT if signum == signal.SIGINT else TERMINATED


class Stop:
    """Remember the first signal; the loop reads it after each step."""

    def __init__(self) -> None:
        self.signum = 0

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Handle the signals inside a `with` block, if this is the main thread."""
        # Python allows signal handlers in the main thread alone.
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        old = {number: signal.signal(number, self._set) for number in ENDING}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _set(self, signum: int, _frame: FrameType | None) -> None:
        # The second signal does not wait for the step.
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum
