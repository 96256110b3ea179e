"""Signals that end a run, or ask for a checkpoint: the step in progress is finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trelm_train.errors import TrelmError

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
TERMINATED = 143  # what batch systems take as "stopped as asked": they send SIGTERM, or SIGUSR1 some time before


class InterruptedRun(TrelmError):  # noqa: N818
    """A signal ended the run after a checkpoint: 130 by SIGINT, 143 by SIGTERM or SIGUSR1."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal.SIGINT if signum == signal.SIGINT else TERMINATED


class Stop:
    """Set by the first signal; the loop reads it after each step."""

    def __init__(self) -> None:
        self.signum = 0

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Handle the signals inside, in the main thread."""
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
        if self.signum:
            raise KeyboardInterrupt  # the second signal does not wait
        self.signum = signum
