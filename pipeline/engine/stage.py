"""Run a stage: plan it, find what is done already, process its units, write the manifest last.

A stage is a list of phases, and a phase is a list of tasks that one worker does in any order. On
Beam a phase is
`Create(units) | Reshuffle | ParDo(ProcessUnit)`; a phase starts when all units of the phase before
it are done, and the reports of all phases go to `ToList | Finish`. What a phase leaves for the next
one lies in files: only reports cross the runner's memory. Rows go to `STAGE/data-FINGERPRINT/`. The
manifest names their files, so the stage's output appears all at once, and an older output stays
whole until then. The graph writes the manifest, not the driver: a launcher need not wait for the
job.

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

import datetime
import functools
import hashlib
import json
import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import apache_beam as beam
from apache_beam.pvalue import AsSingleton

from pipeline import __version__, flow
from pipeline.engine import files
from pipeline.engine.bucket_flags import honour_flags_of_worker
from pipeline.engine.damage import first_damage
from pipeline.engine.errors import StageError
from pipeline.engine.progress import ProgressAddress
from pipeline.engine.stage_folders import SCRATCH, SPILL
from pipeline.engine.tables import ADDED, DATA_PREFIX, RunPaths, with_added
from pipeline.engine.tasks import Task, Unit, number_units
from pipeline.engine.units import (
    UnitReport,
    UnitWorker,
    UnitWriter,
    below,
    finished_units,
    unit_path,
)
from pipeline.engine.worker_threads import LOCAL_WORKERS
from schemas.listing import a_few
from schemas.machine import usable_cores
from schemas.manifest import MANIFEST_NAME, Manifest, PartFile, TableFiles
from schemas.outputs import UNITS
from schemas.parent import end_with_parent
from schemas.rejects import REJECTS
from schemas.table import Table

FinishHook = Callable[["PreparedStage", Sequence[UnitReport]], dict[str, str]]
T = TypeVar("T", bound=Task)
NOT_FINISHED = "it has not finished here"
# Of the hash that names a version of a stage's output.
FINGERPRINT_DIGITS = 16
# What a worker process runs that a runner starts: ours, and Beam's own on other machines.
WORKER_MODULES = ("pipeline.engine.local_worker", "apache_beam.runners.worker.sdk_worker_main")
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


class ProcessUnit(beam.DoFn):  # type: ignore[misc]
    """Read one unit, write its part files, yield its report."""

    def __init__(
        self,
        stage: str,
        folder: str,
        worker: UnitWorker[Any],
        address: ProgressAddress | None,
        *,
        is_one_per_core: bool = False,
    ) -> None:
        self._stage = stage
        self._folder = folder
        self._worker = worker
        self._address = address
        self._is_one_per_core = is_one_per_core

    def setup(self) -> None:
        """Take the flags for buckets; end with the program, where the runner has started this process."""
        honour_flags_of_worker()
        if is_runners_worker():
            end_with_parent()
        if self._is_one_per_core:
            # A library would else take all cores for each of the machine's processes.
            os.environ.setdefault(LOCAL_WORKERS, str(usable_cores()))

    def process(self, unit: Unit, _done_before: int = 0) -> Iterator[UnitReport]:  # type: ignore[type-arg]
        """Process one unit; the side input is only there to be waited for."""
        yield write_unit(self._folder, self._stage, unit, self._worker.process, self._address)


def is_runners_worker() -> bool:
    """Say whether this process is a worker that Beam's runner has started, not the program."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name in WORKER_MODULES


def write_unit(
    folder: str,
    stage: str,
    unit: Unit[T],
    process: Callable[[Unit[T], UnitWriter], None],
    address: ProgressAddress | None = None,
) -> UnitReport:
    """Write the rows of one unit, or nothing at all, and return its report."""
    writer = UnitWriter(folder, stage, unit, address)

    try:
        with files.recording() as others:
            process(unit, writer)
        return writer.finish(others)
    except BaseException:
        # Also on Ctrl-C: no temporary file stays behind.
        writer.abandon()
        raise


def build_graph(
    pipeline: beam.Pipeline,
    prepared: PreparedStage,
    address: ProgressAddress | None = None,
    *,
    is_one_per_core: bool = False,
) -> None:
    """Wire the phases of a stage, one after the other, and the step that writes its manifest.

    Args:
        pipeline: to which the steps are added.
        prepared: the stage.
        address: where units report their progress.
        is_one_per_core: whether a worker's machine runs a process per core.
    """
    plan = prepared.plan
    pending = {unit.index for unit in prepared.pending}
    all_reports: list[Any] = []
    # The number of units done is known when a phase has ended: as a side input it holds the next
    # phase back.
    barrier: tuple[AsSingleton, ...] = ()

    for phase, units in plan.numbered_phases:
        suffix = f" {phase.name}" if len(plan.phases) > 1 else ""
        process = ProcessUnit(
            plan.name, prepared.data, phase.worker, address, is_one_per_core=is_one_per_core
        )
        pending_units = [unit for unit in units if unit.index in pending]
        reports = (
            pipeline
            | f"Units{suffix}"
            >> beam.Create(pending_units, reshuffle=False).with_output_types(Unit)
            | f"Spread{suffix}" >> beam.Reshuffle().with_output_types(Unit)
            | f"Process {phase.name}" >> beam.ParDo(process, *barrier).with_output_types(UnitReport)
        )
        all_reports.append(reports)
        if phase is not plan.phases[-1]:
            num_done = reports | f"Done{suffix}" >> beam.combiners.Count.Globally()
            barrier = (AsSingleton(num_done),)

    merged = (
        all_reports[0]
        if len(all_reports) == 1
        else tuple(all_reports) | "All reports" >> beam.Flatten()
    )
    (
        merged
        | "Reports" >> beam.combiners.ToList()
        | "Finish" >> beam.Map(functools.partial(finish_stage, prepared)).with_output_types(str)
    )


def finish_stage(prepared: PreparedStage, reports: Iterable[UnitReport]) -> str:
    """Check the counts, build what the stage builds at its end, write the manifest, remove older
    outputs.

    Raises:
        StageError: rows were lost, or too many were rejected.
    """
    plan = prepared.plan
    by_index = {report.index: report for report in (*prepared.done, *reports)}
    # A unit that wrote the rows of another one again stands for both.
    replaced = {index for report in by_index.values() for index in report.replaces}
    current = [by_index[index] for index in sorted(by_index) if index not in replaced]

    counters: Counter[str] = Counter()
    for report in current:
        counters.update(report.counters)
    check_counters(plan, counters)

    with files.recording() as written:
        extra = plan.finish(prepared, current) if plan.finish is not None else {}

    part_files = {
        table.name: [report.parts[table.name] for report in current if table.name in report.parts]
        for table in (*plan.tables, REJECTS)
    }
    # Units that were written again took their time all the same.
    seconds = sum(report.seconds for report in by_index.values())
    # Of a file that was written twice the later entry counts.
    others = [entry for report in current for entry in report.others]
    others += below(prepared.data, written)
    artefacts = {
        entry.path: replace(entry, path=f"{plan.data_folder}/{entry.path}")
        for entry in others
        if not entry.path.startswith(f"{SPILL}/")
    }
    return write_manifest(
        prepared, part_files, counters, extra, list(artefacts.values()), seconds=seconds
    )


def write_manifest(
    prepared: PreparedStage,
    part_files: Mapping[str, Sequence[PartFile]],
    counters: Counter[str],
    extra: dict[str, str],
    artefacts: Sequence[PartFile] = (),
    *,
    seconds: float,
) -> str:
    """Make the stage's output exist: write its manifest, then remove older outputs.

    Return the manifest's path.
    """
    plan = prepared.plan
    tables = {
        table.name: _table_files(table, plan, part_files[table.name])
        for table in (*plan.tables, REJECTS)
    }
    manifest = Manifest(
        stage=plan.name,
        fingerprint=plan.fingerprint,
        code_version=__version__,
        algorithm=plan.algorithm,
        tables=tables,
        artefacts=tuple(artefacts),
        counters=dict(sorted(counters.items())),
        inputs=plan.inputs | ({ADDED: plan.added} if plan.added else {}),
        config=plan.config,
        extra=extra,
        seconds=round(seconds, 3),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )

    # From this moment on the new output counts.
    path = files.join(prepared.folder, MANIFEST_NAME)
    content = manifest.to_json().encode()
    if not files.write_if_unchanged(path, content, prepared.manifest_version):
        _refuse_another(path, plan)
    return path


def _refuse_another(path: str, plan: StagePlan) -> None:
    """Refuse a manifest that somebody else has written in a bucket since the stage began.

    A runner may do this step twice, and a lost answer is asked for again: then it is ours.

    Raises:
        StageError: it is another one.
    """
    theirs = RunPaths(root=plan.root).manifest(plan.name)
    if theirs is None or theirs.fingerprint != plan.fingerprint:
        raise StageError(
            f"{path}: another program has written it while this one was at work, and its output stays; "
            "let one program at a time write in a run, and run this command again"
        )


def check_counters(plan: StagePlan, counters: Counter[str]) -> None:
    """Check that rows in = rows out + rejects + skipped, and that rejects are few.

    Raises:
        StageError: they are not.
    """
    rows_in, rejects = counters["rows_in"], counters["rejects"]

    # What is left out on purpose has a counter that says so in its name.
    skipped = sum(count for name, count in counters.items() if name.startswith("skipped_"))
    accounted = counters["rows_out"] + rejects + skipped
    if rows_in != accounted:
        raise StageError(
            f"{plan.name}: {rows_in} rows in, but {accounted} accounted for; "
            "this is a fault of the program; please report it"
        )
    if rejects > plan.max_reject_rate * max(rows_in, 1):
        raise StageError(
            f"{plan.name}: {rejects} of {rows_in} inputs were rejected, over the limit of "
            f"{plan.max_reject_rate:.2%}; {_how_to_read_rejects(plan)}, "
            "correct the input, or raise max_reject_rate"
        )


def _how_to_read_rejects(plan: StagePlan) -> str:
    """Say where the rejects of a stage lie that has not finished: no view shows them."""
    folder = files.join(plan.root, plan.name, plan.data_folder, REJECTS.name)
    if not files.is_local(folder):
        return f"look at {folder}"
    # The views show finished stages alone, so the files are named.
    pattern = f"{folder}/*.parquet".replace("'", "''")
    query = shlex.quote(f"SELECT reason, key FROM '{pattern}'")
    return f"look at them with: trelm-pipeline sql --run {shlex.quote(plan.root)} {query}"


def _table_files(table: Table, plan: StagePlan, part_files: Sequence[PartFile]) -> TableFiles:
    # The manifest counts paths from the stage's folder, a unit's report from the data folder.
    listed = tuple(replace(entry, path=f"{plan.data_folder}/{entry.path}") for entry in part_files)
    num_rows = sum(entry.rows for entry in part_files)
    return TableFiles(version=table.version, rows=num_rows, files=listed)
