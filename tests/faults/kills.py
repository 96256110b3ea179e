"""kill -9 at random moments, again and again.

A round kills a program one to three times, each time it is called again, and the last call comes to its end: then all
rows and bits are those of a run that nothing stopped, and no file is left over. A kill comes at a change of files, or
after some time; it strikes all processes of the program, or one.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.harms import Cell
from tests.faults.programs import NO_FAULT, TRACEBACK
from tests.faults.worlds import ALONE, PIPELINE, Subject, World

MAX_KILLS_PER_ROUND = 3
# A program whose worker was killed must end by itself.
PATIENCE_S = 180.0
WORKERS_START_S = 6.0


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


def kill_again_and_again(world: World, rng: random.Random, num_kills: int) -> dict[str, Tally]:
    """Kill the subjects of a world in turn, and tell what came of it, by subject."""
    tallies = {subject.name: Tally() for subject in world.subjects}
    subjects = list(world.subjects)
    rng.shuffle(subjects)
    folder = world.folder / f"rounds-{world.num_processes}"
    killed = number = 0
    while killed < num_kills:
        subject = subjects[number % len(subjects)]
        cell = Cell(world=world, subject=subject, folder=folder / str(number), rng=rng)
        killed += one_round(cell, tallies[subject.name])
        number += 1
    return tallies


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
        # A program that was not killed itself, but one of its workers, says so. What one writes that dies after its
        # workers does not count.
        if code != -signal.SIGKILL and (code not in (0, 1, 2) or TRACEBACK in said):
            tally.counts["trace"] += 1
            tally.faults.append(f"{cell.subject.name}: ended with {code}: {said}")
    tally.counts["rounds"] += 1
    if cell.subject.name in ALONE and cell.out.exists():
        # It was killed after the end of its work, and refuses to do it again.
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
    fault = cell.fault("kill one" if is_one else "kill all") if at_change else NO_FAULT
    first, *others = world.start(subject, cell.folder, fault)
    if not at_change:
        time.sleep(rng.uniform(0, length_s(world, subject)))
        if is_one:
            first.kill_one()
        else:
            for one in (first, *others):
                one.kill()
    done = first.wait(PATIENCE_S)
    # Ranks wait half an hour for one that they have not met. torchrun would end them, and so do we.
    # A rank's first change of files comes after they have met.
    has_met = not done.was_killed or bool(done.moments)
    if not has_met or (at_change and not is_one):
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
    is_slow = subject.program == PIPELINE and world.num_processes > 1
    return world.wall_s[subject.name] + (WORKERS_START_S if is_slow else 0)
