"""Between spans and work units: units of files, progress in stored bytes, and losses as rejects."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.engine.units import Unit, UnitWriter
from pipeline.sources.chunks import LossHandler, SourceError, Span

LOST = "corrupt block or member"


def number_units(ranges: Sequence[tuple[str, int, int]]) -> list[Unit]:
    """Units of (path, start, end), numbered in order."""
    return [
        Unit(index=index, of=len(ranges), path=path, start=start, end=end)
        for index, (path, start, end) in enumerate(ranges)
    ]


def span_of(unit: Unit) -> Span:
    """The bytes of a unit."""
    return Span(path=unit.path, start=unit.start, end=unit.end)


def loss_handler(out: UnitWriter, *, skip_corrupt: bool) -> LossHandler | None:
    """With `skip_corrupt` a lost block is one rejected input; without it, losses raise."""

    def handle(error: SourceError) -> None:
        out.count("rows_in")
        out.reject(error.message.partition(";")[0], LOST, error.message)

    return handle if skip_corrupt else None


class RangeProgress:
    """Tells a unit's progress in stored bytes, or in records where the unit is a range of those."""

    def __init__(self, unit: Unit, out: UnitWriter) -> None:
        self._unit = unit
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
        done = min(place - self._unit.start, self._unit.size)
        if done > self._told:
            self._out.advance(done - self._told)
            self._told = done

    def finish(self) -> None:
        """The unit is done."""
        self.at_byte(self._unit.end)
