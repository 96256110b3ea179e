"""Running a stage: plan, resume, process units, and write the manifest last.

A map-only stage is `Create(units) | Reshuffle | ParDo(ProcessUnit) | ToList | Finish`. Its rows go to
`STAGE/data-FINGERPRINT/`; the manifest names them, so the stage's output appears all at once, and an older output stays
whole until then. The graph writes the manifest, not the driver: a launcher need not wait.
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
from typing import Any, cast

import apache_beam as beam
from apache_beam.pvalue import AsSingleton

from pipeline import __version__
from pipeline.storage import files
from pipeline.storage.errors import StageError
from pipeline.storage.progress import ProgressAddress
from pipeline.storage.tables import RunPaths
from pipeline.storage.units import ShuffleWorker, Unit, UnitReport, UnitWorker, UnitWriter, finished_units
from schemas.manifest import MANIFEST_NAME, Manifest, PartFile, TableFiles
from schemas.rejects import REJECTS
from schemas.table import Table

FinishHook = Callable[["PreparedStage", Sequence[UnitReport]], dict[str, str]]
PrepareHook = Callable[[str, UnitWriter], None]
logger = logging.getLogger("trelm")


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """All that a stage's graph needs; made on the launching machine, before any work."""

    name: str
    tables: tuple[Table, ...]
    units: Sequence[Unit]
    worker: UnitWorker | ShuffleWorker  # the latter for a shuffle job
    inputs: dict[str, str]  # what it reads: name -> fingerprint
    config: dict[str, Any]
    prepare: PrepareHook | None = None  # runs once, before any unit: gets the data folder and a writer of its own
    finish: FinishHook | None = (
        None  # runs once, after all units; returns other artefacts, paths from the stage's folder
    )
    max_reject_rate: float = 0.01
    root: str = ""  # folder of the run: paths below it count relative to it, so a run can be moved
    extra: dict[str, str] = field(default_factory=dict)
    measure: str = "rows"  # what the units' ranges count: bytes, rows, files; empty for a mixture
    noun: str = "rows"  # what its records are called

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all that decides the stage's rows."""
        versions = {table.name: table.version for table in self.tables}
        ranges = [(unit.path.removeprefix(self.root), unit.start, unit.end) for unit in self.units]
        text = json.dumps([self.name, __version__, versions, self.inputs, self.config, ranges], sort_keys=True)
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
    done = finished_units(data)
    if done:
        logger.info("%s: %d of %d units were done before, going on", plan.name, len(done), len(plan.units))
    pending = tuple(unit for unit in plan.units if unit.index not in done)
    return PreparedStage(plan=plan, folder=folder, pending=pending, done=tuple(done.values()))


class ProcessUnit(beam.DoFn):  # type: ignore[misc]
    """Reads one unit, writes its part files, yields its report."""

    def __init__(self, stage: str, folder: str, worker: UnitWorker, address: ProgressAddress | None) -> None:
        self._stage = stage
        self._folder = folder
        self._worker = worker
        self._address = address
        self._is_set_up = False

    def process(self, unit: Unit, _prepared: UnitReport | None = None) -> Iterator[UnitReport]:
        """One unit. The worker opens its models and indexes at the first: they may be made by the prepare hook."""
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


@dataclass(frozen=True, kw_only=True)
class RunPrepareHook:
    """Runs the prepare hook as one more unit, numbered after the others; a resumed run takes its report."""

    prepared: PreparedStage

    def __call__(self, _once: int) -> UnitReport:  # noqa: D102
        plan, number = self.prepared.plan, len(self.prepared.plan.units)
        done = {report.index: report for report in self.prepared.done}
        if number in done:
            return done[number]
        unit = Unit(index=number, of=number + 1, path="", start=0, end=0)
        assert plan.prepare is not None
        hook = plan.prepare
        return write_unit(self.prepared.data, plan.name, unit, lambda _, out: hook(self.prepared.data, out))


def build_graph(pipeline: beam.Pipeline, prepared: PreparedStage, address: ProgressAddress | None = None) -> None:
    """Wire a map-only stage."""
    plan = prepared.plan
    units = (
        pipeline
        | "Units" >> beam.Create(list(prepared.pending), reshuffle=False).with_output_types(Unit)
        | "Spread" >> beam.Reshuffle().with_output_types(Unit)
    )
    worker = cast(UnitWorker, plan.worker)
    process = ProcessUnit(plan.name, prepared.data, worker, address)
    label = f"Process {plan.name}"
    if plan.prepare is None:
        reports = units | label >> beam.ParDo(process).with_output_types(UnitReport)
    else:
        ready = (
            pipeline
            | "Once" >> beam.Create([0]).with_output_types(int)
            | f"Prepare {plan.name}" >> beam.Map(RunPrepareHook(prepared=prepared)).with_output_types(UnitReport)
        )
        written = units | label >> beam.ParDo(process, AsSingleton(ready)).with_output_types(UnitReport)
        reports = (written, ready) | "All reports" >> beam.Flatten()
    (
        reports
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
    everything = [by_index[index] for index in sorted(by_index)]
    counters: Counter[str] = Counter()
    for report in everything:
        counters.update(report.counters)
    check_counters(plan, counters)
    extra = dict(plan.extra)
    if plan.finish is not None:
        extra |= plan.finish(prepared, everything)
    parts = {
        table.name: [report.parts[table.name] for report in everything if table.name in report.parts]
        for table in (*plan.tables, REJECTS)
    }
    return write_manifest(prepared, parts, counters, extra)


def write_manifest(
    prepared: PreparedStage, parts: Mapping[str, Sequence[PartFile]], counters: Counter[str], extra: dict[str, str]
) -> str:
    """Make the stage's output exist: write its manifest, then remove older outputs. Returns the manifest's path."""
    plan = prepared.plan
    manifest = Manifest(
        stage=plan.name,
        fingerprint=plan.fingerprint,
        code_version=__version__,
        tables={table.name: _table_files(table, plan, parts[table.name]) for table in (*plan.tables, REJECTS)},
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
    files.remove(files.join(prepared.data, "_tmp"))
