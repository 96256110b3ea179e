"""Wire a stage's phases as a Beam graph, and process its units.

A phase is `Create(units) | Reshuffle | ParDo(ProcessUnit)`; the reports of all phases go to
`Finish` as side inputs. Only reports cross the runner's memory. The graph writes the manifest, not the
driver: a launcher need not wait for the job.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsIter

from pipeline.engine.bucket_flags import honour_flags_of_worker
from pipeline.engine.finish import finish_stage
from pipeline.engine.progress import ProgressAddress
from pipeline.engine.stage import PreparedStage
from pipeline.engine.tasks import Unit
from pipeline.engine.units import UnitReport, UnitWorker, write_unit
from pipeline.engine.worker_threads import LOCAL_WORKERS
from schemas.machine import usable_cores
from schemas.parent import end_with_parent

# What a worker process runs that a runner starts: ours, and Beam's own on other machines.
WORKER_MODULES = ("pipeline.engine.local_worker", "apache_beam.runners.worker.sdk_worker_main")


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

    def process(
        self, unit: Unit[Any], _reports_before: Iterable[UnitReport] = ()
    ) -> Iterator[UnitReport]:
        """Process one unit; the side input is there to be waited for, and never read."""
        yield write_unit(self._folder, self._stage, unit, self._worker.process, self._address)


def is_runners_worker() -> bool:
    """Say whether this process is a worker that Beam's runner has started, not the program."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name in WORKER_MODULES


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
    # A phase's reports are all there when it has ended: as a side input they hold the next one back.
    barrier: tuple[AsIter, ...] = ()

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
        barrier = (AsIter(reports),)

    (
        pipeline
        | "Once" >> beam.Create([None], reshuffle=False)
        | "Finish"
        >> beam.Map(
            functools.partial(_finish, prepared), *(AsIter(reports) for reports in all_reports)
        ).with_output_types(str)
    )


def _finish(prepared: PreparedStage, _once: None, *reports: Iterable[UnitReport]) -> str:
    """Write the manifest from the reports of all phases; return its path."""
    return finish_stage(prepared, [*itertools.chain.from_iterable(reports)])
