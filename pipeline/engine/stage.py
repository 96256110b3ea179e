"""Plan a stage: its phases and their tasks, why it has to run, and which of its units are done.

A stage is a list of phases, and a phase is a list of tasks that one worker does in any order; it
starts when all units of the phase before it are done. What a phase leaves for the next one lies in
files. Rows go to `STAGE/data-FINGERPRINT/`. `engine.graph` has the steps that Beam runs,
`engine.finish` what makes the output exist.

Example: the smallest stage has one phase, which bears the stage's name.

    StagePlan(
        name="link",
        tables=(SENTENCES, LINKS),
        phases=(Phase(name="link", tasks=[RowRange(path=…, start=0, end=500)], worker=LinkWorker(…)),),
        inputs={"documents": fingerprint, "index": fingerprint},
        config=to_dict(config),
    )
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline import flow
from pipeline.engine import files
from pipeline.engine.damage import first_damage
from pipeline.engine.errors import StageError
from pipeline.engine.stage_folders import SCRATCH
from pipeline.engine.tables import ADDED, DATA_PREFIX, RunPaths, with_added
from pipeline.engine.tasks import Task, Unit, number_units
from pipeline.engine.units import (
    UnitReport,
    UnitWorker,
    finished_units,
    unit_path,
)
from schemas.listing import a_few
from schemas.manifest import Manifest
from schemas.outputs import UNITS
from schemas.rejects import REJECTS
from schemas.table import Table

FinishHook = Callable[["PreparedStage", Sequence[UnitReport]], dict[str, str]]
T = TypeVar("T", bound=Task)
NOT_FINISHED = "it has not finished here"
# Of the hash that names a version of a stage's output.
FINGERPRINT_DIGITS = 16
logger = logging.getLogger("trelm")


@dataclass(frozen=True, kw_only=True)
class Phase(Generic[T]):
    """List tasks that may be done in any order, and the worker that does them."""

    name: str
    tasks: Sequence[T]
    worker: UnitWorker[T]


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """Hold all that a stage's graph needs; made on the launching machine, before any work."""

    name: str
    tables: tuple[Table, ...]
    # In order. The phase that bears the stage's name reads the stage's input.
    phases: tuple[Phase[Any], ...]
    # What the stage reads: name of a stage or path of a file -> fingerprint.
    inputs: dict[str, str]
    config: dict[str, Any]
    # Runs once, after all units; returns other artefacts, paths counted from the stage's folder.
    finish: FinishHook | None = None
    max_reject_rate: float = 0.01
    # Folder of the run: paths below it count relative to it, so a run can be moved.
    root: str = ""
    # Fingerprint of the entities that a user added to the run, for the stage whose readers see them
    # too. They lie beside its data: they change its fingerprint, and not its files.
    added: str = ""
    # What the tasks' sizes count: bytes, rows or files; empty for a mixture.
    measure: str = "rows"
    # What the stage's records are called.
    noun: str = "rows"

    @functools.cached_property
    def numbered_phases(self) -> list[tuple[Phase[Any], list[Unit[Any]]]]:
        """Return each phase with its numbered units."""
        units = number_units(phase.tasks for phase in self.phases)
        return list(zip(self.phases, units, strict=True))

    @property
    def all_units(self) -> list[Unit[Any]]:
        """Return the units of all phases, in order."""
        return [unit for _, units in self.numbered_phases for unit in units]

    def phase_named(self, name: str) -> Phase[Any]:
        """Return a phase by its name."""
        return {phase.name: phase for phase in self.phases}[name]

    @property
    def fingerprint(self) -> str:
        """Return a hash of all that the stage's readers see: its rows, and added entities."""
        return with_added(self.data_fingerprint, self.added)

    @functools.cached_property
    def data_fingerprint(self) -> str:
        """Return a hash of all that decides the stage's rows.

        Of the phases only the one that bears the stage's name counts: the tasks of the others
        follow from it.
        """
        versions = {table.name: table.version for table in self.tables}
        # Paths below the run's folder count relative to it: a run that was moved is still current.
        ranges = [
            (name.removeprefix(self.root), start, end)
            for name, start, end in (task.identity for task in self.phase_named(self.name).tasks)
        ]

        text = json.dumps(
            [self.name, self.algorithm, versions, self.inputs, self.config, ranges],
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_DIGITS]

    @property
    def algorithm(self) -> int:
        """Return the version of the algorithm that makes the rows."""
        return flow.algorithm_of(self.name)

    @property
    def data_folder(self) -> str:
        """Return the folder of this version's files, relative to the stage's."""
        return f"{DATA_PREFIX}{self.data_fingerprint}"


@dataclass(frozen=True, kw_only=True)
class PreparedStage:
    """Hold a plan whose folders are made, and say which units are left to do."""

    plan: StagePlan
    # Folder of the stage.
    folder: str
    pending: tuple[Unit[Any], ...]
    done: tuple[UnitReport, ...]
    # Of the manifest that is in a bucket when the stage begins: nobody else may write it meanwhile.
    manifest_version: str = ""

    @property
    def data(self) -> str:
        """Return the folder of the stage's files."""
        return files.join(self.folder, self.plan.data_folder)


def is_current(plan: StagePlan, paths: RunPaths) -> bool:
    """Say whether the stage has finished with exactly these inputs and this configuration."""
    return not why_needed(plan, paths)


def why_needed(plan: StagePlan, paths: RunPaths, *, verify: bool = False) -> str:
    """Say why a stage has to run; nothing where its output is there, whole and up to date.

    Args:
        plan: of the stage.
        paths: of the run.
        verify: whether every byte of its output is read, not only the lengths of its files.
    """
    try:
        manifest = paths.manifest(plan.name)
    except StageError as error:
        return f"its manifest is damaged ({error.message})"
    if manifest is None:
        return NOT_FINISHED
    if manifest.fingerprint != plan.fingerprint:
        return "; ".join(_differences(plan, manifest))
    return first_damage(paths.stage(plan.name), manifest.files, hashed=verify)


def _differences(plan: StagePlan, manifest: Manifest) -> Iterator[str]:
    """Say what differs between a plan and a finished output, as far as the manifest tells."""
    is_said = False
    if manifest.algorithm != plan.algorithm:
        yield f"its algorithm has version {plan.algorithm} now, it was {manifest.algorithm}"
        is_said = True
    versions = {name: table.version for name, table in manifest.tables.items()}
    for table in plan.tables:
        if versions.get(table.name, table.version) != table.version:
            yield f"table {table.name} has version {table.version} now"
            is_said = True

    # Compared as JSON: a tuple comes back from a manifest as a list.
    ours, theirs = json.loads(json.dumps(plan.config)), manifest.config
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            yield f"{key} is {ours.get(key)!r} now, it was {theirs.get(key)!r}"
            is_said = True
    inputs = plan.inputs | ({ADDED: plan.added} if plan.added else {})
    changed = [
        name
        for name in sorted({*inputs, *manifest.inputs})
        if inputs.get(name) != manifest.inputs.get(name)
    ]
    if changed:
        yield f"{a_few(changed)} {'was' if len(changed) == 1 else 'were'} changed or made again"
        is_said = True
    if not is_said:
        yield "its input is another one, or was cut otherwise"


def prepare(plan: StagePlan, paths: RunPaths) -> PreparedStage:
    """Make the folders, find the finished units, remove what a killed run left half written.

    A unit that is done stays done if all its files are as they were written.
    """
    folder = paths.stage(plan.name)
    data = files.join(folder, plan.data_folder)
    for name in (SCRATCH, UNITS, *(table.name for table in (*plan.tables, REJECTS))):
        files.make_folder(files.join(data, name))
    for leftover in files.list_files(files.join(data, SCRATCH, "*")):
        files.remove(leftover.path)

    is_finished = _is_finished_here(plan, paths)
    done = finished_units(data) if is_finished else _sound_units(plan, data)
    units = plan.all_units
    if done:
        logger.info(
            "%s: %d of %d units were done before, going on", plan.name, len(done), len(units)
        )
    pending = tuple(unit for unit in units if unit.index not in done)
    return PreparedStage(
        plan=plan,
        folder=folder,
        pending=pending,
        done=tuple(done.values()),
        manifest_version=files.version_of(paths.manifest_path(plan.name)),
    )


def _is_finished_here(plan: StagePlan, paths: RunPaths) -> bool:
    """Say whether the plan's data are there and whole, with a manifest.

    Then what its phases left for each other has been removed, and no unit misses it: the stage runs
    again for another reason, such as entities that were added.
    """
    try:
        manifest = paths.manifest(plan.name)
    except StageError:
        return False
    if manifest is None or not manifest.files:
        return False
    is_of_plan = all(entry.path.startswith(f"{plan.data_folder}/") for entry in manifest.files)
    return is_of_plan and not first_damage(paths.stage(plan.name), manifest.files, hashed=False)


def _sound_units(plan: StagePlan, data: str) -> dict[int, UnitReport]:
    """Return the units that are done and whole, and forget the others.

    A phase reads what the ones before it left: if one of their units has to be done again, so have
    the phase's.
    """
    done = finished_units(data)
    damage_of = {
        index: first_damage(data, report.files, hashed=True) for index, report in done.items()
    }
    sound: dict[int, UnitReport] = {}
    are_all_sound = True
    for _, units in plan.numbered_phases:
        indexes = [unit.index for unit in units]
        if are_all_sound:
            sound |= {index: done[index] for index in indexes if damage_of.get(index) == ""}
        are_all_sound = are_all_sound and all(index in sound for index in indexes)

    damaged = [text for text in damage_of.values() if text]
    if damaged:
        logger.warning(
            "%s: %s; %d of %d finished units are done again",
            plan.name,
            damaged[0],
            len(done) - len(sound),
            len(done),
        )
    for index in done.keys() - sound.keys():
        files.remove(unit_path(data, index))
    return sound
