"""kill -9 at random moments of both programs, with one and two workers, one and two ranks.

A round kills a program one to three times, each time it is called again, and the last call comes to its end: then all
rows and bits are those of a run that nothing stopped, and no file is left over. TRELM_FAULTS is the number of kills
(default 12; `make faults N=200`), TRELM_FAULTS_SEED begins elsewhere.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.harms import Cell
from tests.faults.programs import TRACEBACK, Fault, Starter
from tests.faults.worlds import Subject, World, make_pipeline, make_trainer, with_workers

pytestmark = pytest.mark.slow

IS_WHOLE = "TRELM_FAULTS" in os.environ
NUM_KILLS = int(os.environ.get("TRELM_FAULTS", "12"))
SEED = int(os.environ.get("TRELM_FAULTS_SEED", "0"))
# Worker processes take seconds to start: what they leave when they are killed is tested in test_kills.py too.
GROUPS = (
    ("pipeline", 1),
    *([("pipeline", 2)] if IS_WHOLE else []),
    ("trainer", 1),
    ("trainer", 2),
)
MAX_KILLS_PER_ROUND = 3
# A program whose worker was killed must end by itself.
PATIENCE_S = 180.0
WORKERS_START_S = 6.0
logger = logging.getLogger("trelm.tests")


@dataclass(kw_only=True)
class Tally:
    """What came of the kills of one subject."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        counts = self.counts
        return (
            f"{counts['kills']:5} kills ({counts['at a change']} at a change of files, {counts['at a time']} at a time; "
            f"{counts['one process']} of one process) in {counts['rounds']} rounds, {counts['same']} the same, "
            f"{counts['different']} different, {counts['stray']} with stray files, {counts['failed']} not resumed"
        )


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, int], World]]:
    base = tmp_path_factory.mktemp("kills")
    with Starter.begun(base / "starter") as starter:
        pipeline = make_pipeline(starter, base / "pipeline")
        documents = pipeline.after(pipeline.subjects[2]) / "run" / "documents"
        yield {
            ("pipeline", 1): pipeline,
            ("pipeline", 2): with_workers(pipeline, 2),
            ("trainer", 1): make_trainer(starter, base / "trainer", documents),
            ("trainer", 2): make_trainer(starter, base / "ranks", documents, ranks=2),
        }
        logger.info("the programs took %.0f s of processor time", starter.seconds)


@pytest.mark.parametrize(
    ("program", "processes"), GROUPS, ids=[f"{name}-{count}" for name, count in GROUPS]
)
def test_nothing_is_lost(
    program: str, processes: int, worlds: dict[tuple[str, int], World], tmp_path: Path
) -> None:
    world = worlds[program, processes]
    rng = random.Random(f"{SEED} {program} {processes}")
    tallies = {subject.name: Tally() for subject in world.subjects}
    num_kills = number = 0
    subjects = list(world.subjects)
    if not IS_WHOLE:
        rng.shuffle(subjects)
    while num_kills < NUM_KILLS / len(GROUPS):
        subject = subjects[number % len(subjects)]
        cell = Cell(world=world, subject=subject, folder=tmp_path / f"{number}", rng=rng)
        num_kills += one_round(cell, tallies[subject.name])
        number += 1
    for name, tally in tallies.items():
        logger.info("%-10s %d %-8s: %s", name, processes, program, tally.line())
    assert not [fault for tally in tallies.values() for fault in tally.faults]


def one_round(cell: Cell, tally: Tally) -> int:
    """Kill, call again, kill again, and then let it come to its end; return the number of kills."""
    cell.lay(done=False)
    num_kills = 0
    for _ in range(cell.rng.randint(1, MAX_KILLS_PER_ROUND)):
        try:
            was_killed, code, said = kill_once(cell, tally)
        except TimeoutError as error:
            tally.counts["failed"] += 1
            tally.faults.append(f"{cell.subject.name}: {error}")
            return max(num_kills, 1)
        num_kills += was_killed
        if not was_killed:
            break
        # Of a program that was not killed itself, but one of its workers.
        if code not in (0, 1, 2, -signal.SIGKILL) or TRACEBACK in said:
            tally.counts["trace"] += 1
            tally.faults.append(f"{cell.subject.name}: ended with {code}: {said}")
    tally.counts["rounds"] += 1
    is_over = cell.subject.program == "trelm-train" and cell.out.name in ("exported", "made")
    if is_over and cell.out.exists():
        # It was killed after the end of its work.
        code, said = 0, ""
    else:
        done = cell.call()
        code, said = done.code, done.stderr
    if code:
        tally.counts["failed"] += 1
        tally.faults.append(f"{cell.subject.name}: not resumed, {code}: {said}")
        return num_kills
    differences = cell.differences()
    tally.counts["same"] += not differences
    is_stray = any(line.startswith(("stray", "unfinished")) for line in differences)
    tally.counts["stray"] += is_stray
    tally.counts["different"] += bool(differences) and not is_stray
    tally.faults += [f"{cell.subject.name}: {line}" for line in differences]
    return num_kills


def kill_once(cell: Cell, tally: Tally) -> tuple[bool, int, str]:
    """Start the subject and kill it; return whether that came in time, its exit code, and what it said."""
    world, subject, rng = cell.world, cell.subject, cell.rng
    is_one = rng.random() < 0.5
    at_change = rng.random() < 0.5
    fault = cell.fault("kill one" if is_one else "kill all") if at_change else Fault(path="$")
    first, *others = world.start(subject, cell.folder, fault)
    if not at_change:
        time.sleep(rng.uniform(0, length_s(world, subject)))
        if is_one:
            first.kill_one()
        else:
            for one in (first, *others):
                one.kill()
    done = first.wait(PATIENCE_S)
    if at_change and not is_one:
        for one in others:
            one.kill()
    ends = [one.wait(PATIENCE_S) for one in others]
    world.starter.seconds += sum(end.seconds for end in (done, *ends))
    num = world.num_moments[subject.name]
    was_killed = done.was_killed or (at_change and is_one and 0 < fault.at <= len(done.moments) <= num and done.code != 0)  # fmt: skip
    if was_killed:
        tally.counts["kills"] += 1
        tally.counts["at a change" if at_change else "at a time"] += 1
        tally.counts["one process"] += is_one
    worst = next((end for end in ends if TRACEBACK in end.stderr), done)
    return was_killed, worst.code, worst.stderr


def length_s(world: World, subject: Subject) -> float:
    """About how long an undisturbed call takes."""
    is_slow = subject.program == "trelm-pipeline" and world.num_processes > 1
    return world.wall_s[subject.name] + (WORKERS_START_S if is_slow else 0)
