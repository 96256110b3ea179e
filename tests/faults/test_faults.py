"""Faults of every stage of both programs: the matrix of tests/faults/table.py, and kills at random moments.

A part of the cells that has every stage and every fault is tested always, with a few kills. TRELM_FAULTS=N
(`make faults N=200`) tests all cells, and kills N times; TRELM_FAULTS_SEED chooses other moments and places.
"""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.harms import Cell, assert_ours
from tests.faults.kills import kill_again_and_again
from tests.faults.programs import Starter
from tests.faults.table import (
    EXCEPTIONS,
    FAULTS,
    SUBJECTS,
    Refused,
    Row,
    Same,
    cells,
    chosen,
    outcome_of,
)
from tests.faults.worlds import Subject, World, make_pipeline, make_trainer, with_workers

IS_WHOLE = "TRELM_FAULTS" in os.environ
NUM_KILLS = int(os.environ.get("TRELM_FAULTS", "8"))
SEED = int(os.environ.get("TRELM_FAULTS_SEED", "0"))
# Of the cells that are always tested: one in so many.
EVERY = 11
CELLS = cells() if IS_WHOLE else chosen(EVERY)
# Two workers take seconds to start: what their kills leave is always tested in tests/pipeline/engine/test_kills.py.
GROUPS = (
    ("pipeline", 1),
    *([("pipeline", 2)] if IS_WHOLE else []),
    ("trainer", 1),
    ("trainer", 2),
)
logger = logging.getLogger("trelm.tests")


@dataclass(frozen=True, kw_only=True)
class Worlds:
    """What is broken."""

    starter: Starter
    pipeline: World
    trainer: World
    documents: Path

    def find(self, name: str) -> tuple[World, Subject]:
        """A subject and its world."""
        for world in (self.pipeline, self.trainer):
            for subject in world.subjects:
                if subject.name == name:
                    return world, subject
        raise KeyError(name)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    base = tmp_path_factory.mktemp("faults")
    with Starter.begun(base / "starter") as starter:
        pipeline = make_pipeline(starter, base / "pipeline")
        documents = pipeline.after(pipeline.subjects[2]) / "run" / "documents"
        trainer = make_trainer(starter, base / "trainer", documents)
        pipeline.changed = make_pipeline(starter, base / "changed", is_changed=True)
        trainer.changed = make_trainer(
            starter, base / "changed-trainer", documents, is_changed=True
        )
        yield Worlds(starter=starter, pipeline=pipeline, trainer=trainer, documents=documents)
        logger.info("the programs took %.0f s of processor time", starter.seconds)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fault"), CELLS, ids=[f"{name}: {fault.name}" for name, fault in CELLS]
)
def test_cell(name: str, fault: Row, worlds: Worlds, tmp_path: Path) -> None:
    world, subject = worlds.find(name)
    rng = random.Random(f"{SEED} {name} {fault.name}")
    cell = Cell(world=world, subject=subject, folder=tmp_path / "cell", rng=rng)
    outcome = outcome_of(name, fault)
    done = fault.do(cell)
    assert_ours(done)
    if isinstance(outcome, Refused):
        assert done.code, "it is not refused"
        assert re.search(outcome.says, done.stderr, re.DOTALL), done.stderr
        outcome.mend(cell)
        done = done if outcome.is_done else cell.call()
    assert done.code == 0 or (isinstance(outcome, Refused) and outcome.is_done), done.stderr
    assert cell.differences(outcome.but if isinstance(outcome, Same) else "") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "processes"), GROUPS, ids=[f"{name} {count}" for name, count in GROUPS]
)
def test_random_kills(program: str, processes: int, worlds: Worlds, tmp_path: Path) -> None:
    """One and two workers, one and two ranks: same rows and bits, no stray file."""
    world = worlds.pipeline if program == "pipeline" else worlds.trainer
    if processes > 1:
        world = (
            with_workers(world, processes)
            if program == "pipeline"
            else make_trainer(worlds.starter, tmp_path / "ranks", worlds.documents, ranks=processes)
        )
    rng = random.Random(f"{SEED} {program} {processes}")
    tallies = kill_again_and_again(world, rng, -(-NUM_KILLS // len(GROUPS)))
    for name, tally in tallies.items():
        logger.info("%s, %d process(es): %s", name, processes, tally.line())
    assert [fault for tally in tallies.values() for fault in tally.faults] == []


@pytest.mark.slow
def test_a_killed_worker_ends_the_run(worlds: Worlds, tmp_path: Path) -> None:
    """The runner would wait for it for ever."""
    world = with_workers(worlds.pipeline, 2)
    subject = world.subjects[0]
    cell = Cell(world=world, subject=subject, folder=tmp_path / "cell", rng=random.Random(0))
    cell.lay(done=False)
    # The first changes are the program's own, the others its workers'.
    done = cell.call(cell.fault("kill one", first=0.5, last=0.7))
    assert_ours(done)
    assert "a worker process was killed" in done.stderr
    done = worlds.pipeline.call(worlds.pipeline.subjects[0], cell.folder)
    assert "units were done before" in done.stderr
    assert cell.differences() == []


def test_the_table_is_whole() -> None:
    """No exception is for nothing, and what is always tested has every subject and every fault."""
    names = {fault.name for fault in FAULTS}
    assert len(names) == len(FAULTS)
    assert {subject for subject, _ in EXCEPTIONS} <= set(SUBJECTS)
    assert {fault for _, fault in EXCEPTIONS} <= names
    assert {subject for subject, _ in chosen(EVERY)} == set(SUBJECTS)
    assert {fault.name for _, fault in chosen(EVERY)} == names
