"""The fault matrix: for each subject and each fault, what must come of it.

A new stage is in it as soon as it stands in `pipeline.flow`; a new fault is a line of FAULTS and a function of `harms`.
An outcome that is not the fault's usual one is a line of EXCEPTIONS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.flow import STAGE_NAMES
from tests.faults import harms
from tests.faults.harms import Cell, restore
from tests.faults.programs import Done


@dataclass(frozen=True, kw_only=True)
class Same:
    """The next call ends well, and all rows and bits are those of an undisturbed run."""

    # A file that may have lost something.
    but: str = ""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The next call ends with an error of ours; after what it says was done, all is as it would have been."""

    # A regular expression that is found in the message.
    says: str
    # Do what the message says; nothing where the trouble goes away by itself.
    mend: Callable[[Cell], None] = lambda cell: None
    # Whether the subject is done by then, so that nobody has to call it again.
    is_done: bool = False


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


def _mended(*names: str) -> Callable[[Cell], None]:
    return lambda cell: restore(cell, *names)


PLAIN = "an exported model is a plain folder for other programs, which nothing of ours reads again"
AT_ONCE = "what it reads is read at once, at the beginning"
# Losing a part of the log is no loss of the training.
LOG = Same(but="metrics.jsonl")
NEWEST = Refused(says="step-00000006: damaged .*remove this folder", mend=_without_newest)
OTHER_SHARDS = Refused(
    says="not the shards this run started with; restore them", mend=_mended("shards")
)
LOST_SHARDS = Refused(says="trelm-pipeline run --verify", mend=_mended("shards"))
INITIAL = Refused(says="out/initial: damaged .*restore this copy", mend=_mended("out/initial"))
NEWEST_RESTORED = Refused(says="step-00000006: damaged", mend=_mended("out/checkpoints"))
HARMS = ("missing", "cut", "flipped")
EXCEPTIONS: dict[tuple[str, str], Outcome] = {
    ("kb", "input lost"): NoSense(why="no stage comes before it"),
    ("titles", "input lost"): NoSense(why="without files of `kb` it finds no titles, and says so"),
    ("index", "reader"): NoSense(why="it has no tables; damaged files of it are in test_damage.py"),
    **{(name, f"part {harm}"): NoSense(why=PLAIN) for name in ("export", "init") for harm in HARMS},
    **{(name, "reader"): NoSense(why=PLAIN) for name in ("export", "init")},
    **{(name, "unit damaged"): NoSense(why="no units") for name in (*TRAINING, "export", "init")},
    **{
        (name, fault): NoSense(why=AT_ONCE)
        for name in ("export", "init")
        for fault in ("input changed", "input changed inside")
    },
    **{("start", f"part {harm}"): INITIAL for harm in HARMS},
    ("start", "torn manifest"): Refused(says="run.json: damaged", mend=_mended("out/run.json")),
    **{("steps", f"part {harm}"): LOG for harm in HARMS},
    ("steps", "torn manifest"): LOG,
    **{("checkpoint", f"part {harm}"): NEWEST for harm in HARMS},
    ("checkpoint", "torn manifest"): NEWEST,
    ("export", "second writer"): replace(HELD, is_done=True),
    ("init", "second writer"): replace(HELD, is_done=True),
    ("export", "torn manifest"): NEWEST_RESTORED,
    ("export", "input lost"): NEWEST_RESTORED,
    ("init", "torn manifest"): Refused(says="run the stage again", mend=_mended("documents")),
    ("init", "input lost"): Refused(says="trelm-pipeline run --verify", mend=_mended("documents")),
    **{(name, "input lost"): LOST_SHARDS for name in TRAINING},
    **{(name, "input changed"): OTHER_SHARDS for name in TRAINING[1:]},
    **{(name, "input changed inside"): OTHER_SHARDS for name in TRAINING[1:]},
}  # fmt: skip


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
