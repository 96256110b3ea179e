"""The fault matrix: for each subject and each fault, what must come of it.

A new stage is in it as soon as it stands in `pipeline.flow`; a new fault is a line of FAULTS and a function of `harms`.
An outcome that is not the fault's usual one is a line of EXCEPTIONS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.flow import STAGE_NAMES
from tests.faults import harms
from tests.faults.harms import Cell, restore
from tests.faults.programs import Done


@dataclass(frozen=True, kw_only=True)
class Same:
    """The next call ends well, and all rows and bits are those of an undisturbed run."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The next call ends with an error of ours; after what it says was done, all is as it would have been."""

    # A regular expression that is found in the message.
    says: str
    # Do what the message says; nothing where the trouble goes away by itself.
    mend: Callable[[Cell], None] = lambda cell: None


@dataclass(frozen=True, kw_only=True)
class NoSense:
    """There is no such case."""

    why: str


Outcome = Same | Refused | NoSense


@dataclass(frozen=True, kw_only=True)
class Row:
    """A fault."""

    name: str
    do: Callable[[Cell], Done]
    # What comes of it where EXCEPTIONS says nothing.
    outcome: Outcome


TRAINING = ("start", "steps", "checkpoint", "finish")
SUBJECTS = (*STAGE_NAMES, *TRAINING, "export", "init")

FULL = Refused(says=r"No space|File too large|free space|make room|full")
HELD = Refused(says=r"\(process \d+ on .*\) writes there; wait until")
FAULTS = (
    Row(name="killed", do=harms.killed, outcome=Same()),
    Row(name="power cut", do=harms.power_cut, outcome=Same()),
    Row(name="disk full", do=harms.disk_full, outcome=FULL),
    Row(name="file full", do=harms.file_full, outcome=FULL),
    Row(name="part missing", do=harms.part_missing, outcome=Same()),
    Row(name="part cut", do=harms.part_cut, outcome=Same()),
    Row(name="part flipped", do=harms.part_flipped, outcome=Same()),
    Row(name="unit damaged", do=harms.unit_damaged, outcome=Same()),
    Row(name="torn manifest", do=harms.torn_manifest, outcome=Same()),
    Row(name="input lost", do=harms.input_lost, outcome=Refused(says=r"run `trelm-pipeline \w+ --run")),
    Row(name="second writer", do=harms.second_writer, outcome=HELD),
    Row(name="reader", do=harms.reader, outcome=Same()),
    Row(name="clock jump", do=harms.clock_jump, outcome=Same()),
    Row(name="input changed", do=harms.input_changed, outcome=Same()),
    Row(name="input changed inside", do=harms.input_changed_inside, outcome=Same()),
)  # fmt: skip


def _without_newest(cell: Cell) -> None:
    import shutil

    shutil.rmtree(cell.folder / "out" / "checkpoints" / "step-00000006")


PLAIN = "an exported model is a plain folder for other programs, which nothing of ours reads again"
NEWEST = Refused(says="step-00000006: damaged .*remove this folder", mend=_without_newest)
OTHER_SHARDS = Refused(
    says="not the shards this run started with; restore them", mend=lambda cell: restore(cell, "shards")
)  # fmt: skip
LOST_SHARDS = Refused(
    says="trelm-pipeline run --verify", mend=lambda cell: restore(cell, "shards")
)
EXCEPTIONS: dict[tuple[str, str], Outcome] = {
    ("kb", "input lost"): NoSense(why="no stage comes before it"),
    **{
        (name, fault): NoSense(why=PLAIN)
        for name in ("export", "init")
        for fault in ("part missing", "part cut", "part flipped", "reader")
    },
    **{
        (name, "unit damaged"): NoSense(why="a training has no units")
        for name in (*TRAINING, "export", "init")
    },
    **{("checkpoint", f"part {harm}"): NEWEST for harm in ("missing", "cut", "flipped")},
    ("checkpoint", "torn manifest"): NEWEST,
    **{(name, "input lost"): LOST_SHARDS for name in TRAINING},
    **{(name, "input changed"): OTHER_SHARDS for name in TRAINING[1:]},
}


def outcome_of(subject: str, fault: Row) -> Outcome:
    """What must come of a fault of a subject."""
    return EXCEPTIONS.get((subject, fault.name), fault.outcome)


def cells() -> list[tuple[str, Row]]:
    """All cells that make sense."""
    return [
        (subject, fault)
        for subject in SUBJECTS
        for fault in FAULTS
        if not isinstance(outcome_of(subject, fault), NoSense)
    ]


def chosen(every: int) -> list[tuple[str, Row]]:
    """A part of the cells, spread over the table: each subject and each fault is in it."""
    return [
        (subject, fault)
        for subject, fault in cells()
        if (SUBJECTS.index(subject) + FAULTS.index(fault)) % every == 0
    ]
