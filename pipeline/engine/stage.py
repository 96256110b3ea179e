"""Running a stage: plan, resume, process units, and write the manifest last.

A map-only stage is `Create(units) | Reshuffle | ParDo(ProcessUnit) | ToList | Finish`; one of several phases has this
chain for each, and a phase starts when all units of the one before are done. What a phase leaves for the next lies in
files: in memory only reports cross. Rows go to `STAGE/data-FINGERPRINT/`; the manifest names them, so the stage's output
appears all at once, and an older output stays whole until then. The graph writes the manifest, not the driver: a
launcher need not wait.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton

from pipeline import __version__
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.progress import ProgressAddress
from pipeline.engine.tables import RunPaths
from pipeline.engine.units import Unit, UnitReport, UnitWorker, UnitWriter, finished_units
from schemas.manifest import MANIFEST_NAME, Manifest, PartFile, TableFiles
from schemas.rejects import REJECTS
from schemas.table import Table

FinishHook = Callable[["PreparedStage", Sequence[UnitReport]], dict[str, str]]
SPILL = (
    "_spill"  # folder for what one phase leaves for the next; removed when the stage has finished
)
logger = logging.getLogger("trelm")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Units that may run in any order, and what is done with each. A unit's index is its own among all phases."""

    name: str
    units: Sequence[Unit]
    worker: UnitWorker


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """All that a stage's graph needs; made on the launching machine, before any work."""

    name: str
    tables: tuple[Table, ...]
    units: Sequence[Unit]
    worker: UnitWorker
    inputs: dict[str, str]  # what it reads: name -> fingerprint
    config: dict[str, Any]
    before: tuple[Phase, ...] = ()  # phases that come first, in order
    then: tuple[Phase, ...] = ()  # phases that follow, in order
    finish: FinishHook | None = (
        None  # runs once, after all units; returns other artefacts, paths from the stage's folder
    )
    max_reject_rate: float = 0.01
    root: str = ""  # folder of the run: paths below it count relative to it, so a run can be moved
    extra: dict[str, str] = field(default_factory=dict)
    measure: str = "rows"  # what the units' ranges count: bytes, rows, files; empty for a mixture
    noun: str = "rows"  # what its records are called

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All phases, in order; for a map-only stage."""
        main = Phase(name=self.name, units=self.units, worker=self.worker)
        return (*self.before, main, *self.then)

    @property
    def all_units(self) -> list[Unit]:
        """Units of all phases."""
        others = (unit for phase in (*self.before, *self.then) for unit in phase.units)
        return [*self.units, *others]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all that decides the stage's rows; units of other phases follow from it."""
        versions = {table.name: table.version for table in self.tables}
        ranges = [(unit.path.removeprefix(self.root), unit.start, unit.end) for unit in self.units]
        text = json.dumps(
            [self.name, __version__, versions, self.inputs, self.config, ranges], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def data_folder(self) -> str:
        """Folder of this version's files, relative to the stage's."""
        return f"data-{self.fingerprint}"


@dataclass(frozen=True, kw_only=True)
class PreparedStage:
    """A plan on the file system: which units are left."""

    plan: StagePlan
    folder: str  # of the stage
    pending: tuple[Unit, ...]
    done: tuple[UnitReport, ...]

    @property
    def data(self) -> str:
        """Folder of the stage's files."""
        return files.join(self.folder, self.plan.data_folder)


def is_current(plan: StagePlan, paths: RunPaths) -> bool:
    """Whether the stage has finished with exactly these inputs and this configuration."""
    manifest = paths.manifest(plan.name)
    return manifest is not None and manifest.fingerprint == plan.fingerprint


def prepare(plan: StagePlan, paths: RunPaths) -> PreparedStage:
    """Make the folders, find the finished units, remove what a killed run left half written."""
    folder = paths.stage(plan.name)
    data = files.join(folder, plan.data_folder)
    for name in ("_tmp", "_units", *(table.name for table in (*plan.tables, REJECTS))):
        files.make_folder(files.join(data, name))
    for leftover in files.list_files(files.join(data, "_tmp", "*")):
        files.remove(leftover.path)
    done, units = finished_units(data), plan.all_units
    if done:
        logger.info(
            "%s: %d of %d units were done before, going on", plan.name, len(done), len(units)
        )
    pending = tuple(unit for unit in units if unit.index not in done)
    return PreparedStage(plan=plan, folder=folder, pending=pending, done=tuple(done.values()))


class ProcessUnit(beam.DoFn):  # type: ignore[misc]
    """Reads one unit, writes its part files, yields its report."""

    def __init__(
        self, stage: str, folder: str, worker: UnitWorker, address: ProgressAddress | None
    ) -> None:
        self._stage = stage
        self._folder = folder
        self._worker = worker
        self._address = address
        self._is_set_up = False

    def process(self, unit: Unit, _done_before: int = 0) -> Iterator[UnitReport]:
        """One unit. The worker opens its models and indexes at the first: they may be made by the phase before."""
        if not self._is_set_up:
            self._worker.setup()
            self._is_set_up = True
        yield write_unit(self._folder, self._stage, unit, self._worker.process, self._address)


def write_unit(
    folder: str,
    stage: str,
    unit: Unit,
    process: Callable[[Unit, UnitWriter], None],
    address: ProgressAddress | None = None,
) -> UnitReport:
    """Write one unit, or nothing at all."""
    out = UnitWriter(folder, stage, unit, address)
    try:
        process(unit, out)
        return out.finish()
    except BaseException:
        out.abandon()
        raise


def build_graph(
    pipeline: beam.Pipeline, prepared: PreparedStage, address: ProgressAddress | None = None
) -> None:
    """Wire a map-only stage."""
    plan = prepared.plan
    phases = plan.phases
    left = {unit.index for unit in prepared.pending}
    all_reports: list[Any] = []
    barrier: tuple[
        AsSingleton, ...
    ] = ()  # the number of units done: it is known when the phase has ended
    for phase in phases:
        mark = f" {phase.name}" if len(phases) > 1 else ""
        process = ProcessUnit(plan.name, prepared.data, phase.worker, address)
        reports = (
            pipeline
            | f"Units{mark}"
            >> beam.Create(
                [u for u in phase.units if u.index in left], reshuffle=False
            ).with_output_types(Unit)
            | f"Spread{mark}" >> beam.Reshuffle().with_output_types(Unit)
            | f"Process {phase.name}" >> beam.ParDo(process, *barrier).with_output_types(UnitReport)
        )
        all_reports.append(reports)
        if phase is not phases[-1]:
            barrier = (AsSingleton(reports | f"Done{mark}" >> beam.combiners.Count.Globally()),)
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
    """Check the counts, build what the stage builds at its end, write the manifest, remove older outputs.

    Raises:
        StageError: rows were lost, or too many were rejected.
    """
    plan = prepared.plan
    by_index = {report.index: report for report in (*prepared.done, *reports)}
    replaced = {index for report in by_index.values() for index in report.replaces}
    everything = [by_index[index] for index in sorted(by_index) if index not in replaced]
    counters: Counter[str] = Counter()
    for report in everything:
        counters.update(report.counters)
    check_counters(plan, counters)
    extra = dict(plan.extra)
    if plan.finish is not None:
        extra |= plan.finish(prepared, everything)
    parts = {
        table.name: [
            report.parts[table.name] for report in everything if table.name in report.parts
        ]
        for table in (*plan.tables, REJECTS)
    }
    return write_manifest(prepared, parts, counters, extra)


def write_manifest(
    prepared: PreparedStage,
    parts: Mapping[str, Sequence[PartFile]],
    counters: Counter[str],
    extra: dict[str, str],
) -> str:
    """Make the stage's output exist: write its manifest, then remove older outputs. Returns the manifest's path."""
    plan = prepared.plan
    manifest = Manifest(
        stage=plan.name,
        fingerprint=plan.fingerprint,
        code_version=__version__,
        tables={
            table.name: _table_files(table, plan, parts[table.name])
            for table in (*plan.tables, REJECTS)
        },
        counters=dict(sorted(counters.items())),
        inputs=plan.inputs,
        config=plan.config,
        extra=extra,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    path = files.join(prepared.folder, MANIFEST_NAME)
    files.write_bytes(path, manifest.to_json().encode())
    _remove_older(prepared)
    return path


def check_counters(plan: StagePlan, counters: Counter[str]) -> None:
    """Rows in = rows out + rejects + skipped, and rejects are few.

    Raises:
        StageError: otherwise.
    """
    rows_in, rejects = counters["rows_in"], counters["rejects"]
    skipped = sum(count for name, count in counters.items() if name.startswith("skipped_"))
    accounted = counters["rows_out"] + rejects + skipped
    if rows_in != accounted:
        raise StageError(
            f"{plan.name}: {rows_in} rows in, but {accounted} accounted for; this is a fault of the program: report it"
        )
    if rejects > plan.max_reject_rate * max(rows_in, 1):
        raise StageError(
            f"{plan.name}: {rejects} of {rows_in} inputs were rejected, over the limit of {plan.max_reject_rate:.2%}; "
            f"look at {plan.name}/{plan.data_folder}/rejects, mend the input or raise max_reject_rate"
        )


def _table_files(table: Table, plan: StagePlan, parts: Sequence[PartFile]) -> TableFiles:
    listed = tuple(replace(part, path=f"{plan.data_folder}/{part.path}") for part in parts)
    return TableFiles(version=table.version, rows=sum(part.rows for part in parts), files=listed)


def _remove_older(prepared: PreparedStage) -> None:
    older = {
        metadata.path.split("/data-")[-1].split("/")[0]
        for metadata in files.list_files(files.join(prepared.folder, "data-*", "**"))
    }
    for name in older:
        if f"data-{name}" != prepared.plan.data_folder:
            files.remove(files.join(prepared.folder, f"data-{name}"))
    for name in ("_tmp", SPILL):
        files.remove(files.join(prepared.data, name))
