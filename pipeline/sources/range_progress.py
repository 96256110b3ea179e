"""Connect byte spans with units of work: progress in stored bytes, and losses as rejects."""

from __future__ import annotations

from pipeline.engine.tasks import ByteRange, ListRange, RowRange
from pipeline.engine.units import UnitWriter
from pipeline.sources.chunks import LossHandler, SourceError
from pipeline.sources.lines import LongHandler

LOST = "corrupt block or member"
# Progress is sent once per this number of records: a message costs more than a record.
RECORDS_PER_MESSAGE = 256


def loss_handler(out: UnitWriter, *, skip_corrupt: bool) -> LossHandler | None:
    """Return a handler that makes each lost block a rejected input; None if a loss shall raise."""

    def handle(error: SourceError) -> None:
        out.count("rows_in")
        # The advice after the semicolon is for a run that stops: the key is file, byte and problem.
        out.reject(error.message.partition(";")[0], LOST, error.message)

    return handle if skip_corrupt else None


def long_handler(out: UnitWriter, path: str) -> LongHandler:
    """Return a handler that makes each line of a file that is too long a rejected input."""

    def handle(position: str, reason: str, start: bytes) -> None:
        out.count("rows_in")
        out.reject(f"{path}:{position}", reason, start.decode("utf-8", "replace"))

    return handle


class RangeProgress:
    """Report a unit's progress in stored bytes, or in rows or entries where its range has those."""

    def __init__(self, task: ByteRange | RowRange | ListRange, out: UnitWriter) -> None:
        self._task = task
        self._out = out
        self._reported = 0
        self._num_records = 0

    def record_read(self, position: str) -> None:
        """Note that the record at a position was read; report only now and then."""
        self._num_records += 1
        if self._num_records % RECORDS_PER_MESSAGE == 0:
            self.reached(int(position.partition("+")[0]))

    def reached(self, position: int) -> None:
        """Report that the input is read up to a byte, row or entry.

        This method serves as a reader's `on_stored`.
        """
        # A reader goes on past the end of its range, for the last record.
        done = min(position - self._task.start, self._task.size)
        if done > self._reported:
            self._out.advance(done - self._reported)
            self._reported = done

    def finish(self) -> None:
        """Report that the unit is done."""
        self.reached(self._task.end)
