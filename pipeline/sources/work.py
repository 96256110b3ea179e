"""Between spans and work units: units of files, progress in stored bytes, and losses as rejects."""

from __future__ import annotations

from pipeline.engine.tasks import ByteRange, ListRange, RowRange
from pipeline.engine.units import UnitWriter
from pipeline.sources.chunks import LossHandler, SourceError, Span

LOST = "corrupt block or member"


def span_of(task: ByteRange) -> Span:
    """The bytes of a task."""
    return Span(path=task.path, start=task.start, end=task.end)


def loss_handler(out: UnitWriter, *, skip_corrupt: bool) -> LossHandler | None:
    """With `skip_corrupt` a lost block is one rejected input; without it, losses raise."""

    def handle(error: SourceError) -> None:
        out.count("rows_in")
        out.reject(error.message.partition(";")[0], LOST, error.message)

    return handle if skip_corrupt else None


class RangeProgress:
    """Tells a unit's progress in stored bytes, or in records where the unit is a range of those."""

    def __init__(self, task: ByteRange | RowRange | ListRange, out: UnitWriter) -> None:
        self._task = task
        self._out = out
        self._told = 0
        self._calls = 0

    def at(self, position: str) -> None:
        """A record was read; told every 256 records."""
        self._calls += 1
        if self._calls % 256 == 0:
            self.at_byte(int(position.partition("+")[0]))

    def at_byte(self, place: int) -> None:
        """All up to a byte (or row) of the input is read: a reader's `on_stored`."""
        done = min(place - self._task.start, self._task.size)
        if done > self._told:
            self._out.advance(done - self._told)
            self._told = done

    def finish(self) -> None:
        """The unit is done."""
        self.at_byte(self._task.end)
