"""Typed tasks, their numbers, and what a worker opens once."""

from __future__ import annotations

import copy
import doctest
import pickle
from dataclasses import dataclass, field

import pytest

from pipeline.engine import tasks
from pipeline.engine.opened_once import OpenedOnce
from pipeline.engine.stage import Phase, StagePlan
from pipeline.engine.tasks import Bucket, ByteRange, ListRange, RowRange, Task, Unit, number_units
from pipeline.engine.units import UnitWriter


def test_the_example_of_the_module() -> None:
    assert doctest.testmod(tasks).attempted > 1
    assert doctest.testmod(tasks).failed == 0


@pytest.mark.parametrize(
    ("task", "size", "identity"),
    [
        (ByteRange(path="a.json", start=5, end=9), 4, ("a.json", 5, 9)),
        (RowRange(path="a.parquet", start=0, end=7, table="links"), 7, ("a.parquet", 0, 7)),
        (ListRange(kind="links", start=2, end=3), 1, ("links", 2, 3)),
        (Bucket(kind="pairs", number=3, size=20), 20, ("pairs", 3, 4)),
    ],
)
def test_tasks_know_their_size_and_what_they_are(
    task: Task, size: int, identity: tuple[str, int, int]
) -> None:
    assert (task.size, task.identity) == (size, identity)
    assert pickle.loads(pickle.dumps(task)) == task


def test_one_numbering_goes_through_all_phases() -> None:
    phases = number_units([[Bucket(kind="a")], [], [Bucket(kind="b"), Bucket(kind="c")]])
    assert [[unit.index for unit in units] for units in phases] == [[0], [], [1, 2]]
    assert {unit.of for units in phases for unit in units} == {3}


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Opens a list, and keeps count of how often."""

    name: str
    _list: OpenedOnce[list[str]] = field(default_factory=OpenedOnce, compare=False, repr=False)

    def process(self, unit: Unit[Task], out: UnitWriter) -> None:
        """Nothing."""

    def opened(self) -> list[str]:
        return self._list.get(lambda: [self.name])


def test_a_worker_opens_once_and_a_copy_opens_for_itself() -> None:
    worker = Worker(name="one")
    assert worker.opened() is worker.opened()
    for other in (pickle.loads(pickle.dumps(worker)), copy.deepcopy(worker)):
        assert other == worker
        assert other.opened() == worker.opened()
        assert other.opened() is not worker.opened()


def plan_with(**changes: object) -> StagePlan:
    main = Phase(
        name="kb", tasks=[ByteRange(path="/run/x", start=0, end=5)], worker=Worker(name="")
    )
    later = Phase(name="repeats", tasks=[Bucket(kind="repeats")], worker=Worker(name=""))
    values: dict[str, object] = {
        "name": "kb",
        "tables": (),
        "phases": (main, later),
        "inputs": {"a": "1"},
        "config": {},
        "root": "/run",
    }
    return StagePlan(**(values | changes))  # type: ignore[arg-type]


def test_only_the_phase_of_the_stage_s_name_decides_the_fingerprint() -> None:
    plan = plan_with()
    main, later = plan.phases
    assert plan_with(phases=(main,)).fingerprint == plan.fingerprint
    cut = Phase(name="kb", tasks=[ByteRange(path="/run/x", start=0, end=4)], worker=main.worker)
    assert plan_with(phases=(cut, later)).fingerprint != plan.fingerprint
    assert plan_with(inputs={"a": "2"}).fingerprint != plan.fingerprint


def test_a_run_that_was_moved_has_the_same_fingerprint() -> None:
    moved = Phase(
        name="kb", tasks=[ByteRange(path="/moved/x", start=0, end=5)], worker=Worker(name="")
    )
    assert plan_with(root="/moved", phases=(moved,)).fingerprint == plan_with().fingerprint
