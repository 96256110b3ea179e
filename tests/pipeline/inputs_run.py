"""Runs a stage's plan without Beam: units in order, then the manifest."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.engine.finish import finish_stage
from pipeline.engine.stage import StagePlan, prepare
from pipeline.engine.tables import RunPaths, read_batches
from pipeline.engine.tasks import ByteRange
from pipeline.engine.units import write_unit
from schemas.manifest import Manifest
from schemas.table import Table


def run_plan(plan: StagePlan, paths: RunPaths) -> Manifest:
    """All units of a plan, in this process."""
    Path(paths.root).mkdir(exist_ok=True)
    prepared = prepare(replace(plan, max_reject_rate=1.0), paths)
    left = {unit.index for unit in prepared.pending}
    reports = []
    for phase, units in prepared.plan.numbered_phases:
        reports += [
            write_unit(prepared.data, plan.name, unit, phase.worker.process)
            for unit in units
            if unit.index in left
        ]
    finish_stage(prepared, reports)
    return paths.require(plan.name)


def rows_of(paths: RunPaths, stage: str, table: Table) -> list[dict[str, Any]]:
    """Rows of a table of a run, in an order that does not depend on the units."""
    parts = [read_batches(path, table, table.column_names) for path in paths.files(stage, table)]
    return sorted((row for part in parts for batch in part for row in batch.to_pylist()), key=str)


def recut(plan: StagePlan, parts: int) -> StagePlan:
    """Cut every byte range of a plan into several."""
    tasks = []
    for task in plan.phase_named(plan.name).tasks:
        cuts = [task.start + task.size * part // parts for part in range(parts + 1)]
        tasks += [ByteRange(path=task.path, start=low, end=high) for low, high in pairwise(cuts)]
    phases = tuple(
        replace(phase, tasks=tasks) if phase.name == plan.name else phase for phase in plan.phases
    )
    return replace(plan, phases=phases)
