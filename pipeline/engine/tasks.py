"""Say what one unit of work is about: a typed task, and the number that the engine gives it.

A stage's plan lists tasks. The engine alone numbers them: one numbering goes through all phases of
a stage, so a unit's number names its report and its part files.

Example: a dump of 25 MB, cut into two byte ranges, and one job after them.

>>> dump = [ByteRange(path="dump.json", start=0, end=13), ByteRange(path="dump.json", start=13, end=25)]
>>> for units in number_units([dump, [Bucket(kind="repeats")]]):
...     for unit in units:
...         print(unit.index, "of", unit.of, unit.task)
0 of 3 ByteRange(path='dump.json', start=0, end=13)
1 of 3 ByteRange(path='dump.json', start=13, end=25)
2 of 3 Bucket(kind='repeats', number=0, size=1)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Task(Protocol):
    """Describe a unit's work in a frozen, picklable value."""

    @property
    def size(self) -> int:
        """Return the unit's share of the progress bar, in what the stage measures."""

    @property
    def identity(self) -> tuple[str, int, int]:
        """Return what distinguishes the task from all others of its stage."""


T = TypeVar("T", bound=Task, covariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _FileRange:
    """Name `start` to `end` (half open) of one file, in what the kind of range counts."""

    path: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """Return the length of the range."""
        return self.end - self.start

    @property
    def identity(self) -> tuple[str, int, int]:
        """Return path and range."""
        return self.path, self.start, self.end


class ByteRange(_FileRange):
    """Name the bytes `start` to `end` (half open) of one file, as stored."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRange(_FileRange):
    """Name the rows `start` to `end` (half open) of one Parquet file."""

    # Empty for a user's own Parquet file, which is none of our tables.
    table: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListRange:
    """Name the entries `start` to `end` (half open) of a list that the worker holds, such as its
    input files.
    """

    kind: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """Return the number of entries."""
        return self.end - self.start

    @property
    def identity(self) -> tuple[str, int, int]:
        """Return kind and range."""
        return self.kind, self.start, self.end


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """Name one job of a later phase: what it makes, and from which bucket of what earlier phases
    left.
    """

    kind: str
    number: int = 0
    size: int = 1

    @property
    def identity(self) -> tuple[str, int, int]:
        """Return kind and number."""
        return self.kind, self.number, self.number + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit(Generic[T]):
    """Hold a task and its number: unit `index` of the `of` units that a stage has in all its
    phases.
    """

    index: int
    of: int
    task: T

    @property
    def size(self) -> int:
        """Return the task's share of the progress bar."""
        return self.task.size


def number_units(phases: Iterable[Sequence[T]]) -> list[list[Unit[T]]]:
    """Give the tasks of all phases their numbers, in order, and return the units of each phase."""
    phases = list(phases)
    num_units = sum(map(len, phases))

    numbered: list[list[Unit[T]]] = []
    first_index = 0
    for tasks in phases:
        units = [
            Unit(index=index, of=num_units, task=task)
            for index, task in enumerate(tasks, first_index)
        ]
        numbered.append(units)
        first_index += len(tasks)
    return numbered
