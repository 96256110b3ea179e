"""The fault matrix: every stage of both programs, every fault. See tests/faults/table.py.

A part of the cells that has every stage and every fault is tested always; with TRELM_FAULTS=N (`make faults N=200`) all
of them.
"""

from __future__ import annotations

import logging
import os
import random
import re
from pathlib import Path

import pytest

from tests.faults.harms import Cell, assert_ours
from tests.faults.programs import Starter
from tests.faults.table import EXCEPTIONS, FAULTS, SUBJECTS, Refused, Row, cells, chosen, outcome_of
from tests.faults.worlds import Subject, World, make_pipeline, make_trainer

IS_WHOLE = "TRELM_FAULTS" in os.environ
# Of the cells that are always tested: one in so many.
EVERY = 5
SEED = int(os.environ.get("TRELM_FAULTS_SEED", "0"))
CELLS = cells() if IS_WHOLE else chosen(EVERY)
logger = logging.getLogger("trelm.tests")
Worlds = dict[str, tuple[World, Subject]]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:  # type: ignore[misc]
    """By subject: its world, and the subject itself."""
    base = tmp_path_factory.mktemp("faults")
    with Starter.begun(base / "starter") as starter:
        pipeline = make_pipeline(starter, base / "pipeline")
        documents = pipeline.after(pipeline.subjects[2]) / "run" / "documents"
        trainer = make_trainer(starter, base / "trainer", documents)
        pipeline.changed = make_pipeline(starter, base / "changed", is_changed=True)
        trainer.changed = make_trainer(
            starter, base / "changed-trainer", documents, is_changed=True
        )
        yield {
            subject.name: (world, subject)
            for world in (pipeline, trainer)
            for subject in world.subjects
        }
        logger.info("the programs took %.0f s of processor time", starter.seconds)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fault"), CELLS, ids=[f"{name}: {fault.name}" for name, fault in CELLS]
)
def test_cell(name: str, fault: Row, worlds: Worlds, tmp_path: Path) -> None:
    world, subject = worlds[name]
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
    assert done.code == 0 or isinstance(outcome, Refused) and outcome.is_done, done.stderr
    assert cell.differences(getattr(outcome, "but", "")) == []


def test_the_table_is_whole() -> None:
    """No exception is for nothing, and what is always tested has every subject and every fault."""
    names = {fault.name for fault in FAULTS}
    assert len(names) == len(FAULTS)
    assert {subject for subject, _ in EXCEPTIONS} <= set(SUBJECTS)
    assert {fault for _, fault in EXCEPTIONS} <= names
    assert {subject for subject, _ in chosen(EVERY)} == set(SUBJECTS)
    assert {fault.name for _, fault in chosen(EVERY)} == names
