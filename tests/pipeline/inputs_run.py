"""Runs a stage's plan without Beam: units in order, then the manifest."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.engine.stage import Phase, StagePlan, finish_stage, prepare, write_unit
from pipeline.engine.tables import RunPaths, read_batches
from pipeline.sources.work import number_units
from schemas.manifest import Manifest
from schemas.table import Table


def run_plan(plan: StagePlan, paths: RunPaths) -> Manifest:
    """All units of a plan, in this process."""
    Path(paths.root).mkdir(exist_ok=True)
    prepared = prepare(replace(plan, max_reject_rate=1.0), paths)
    left = {unit.index for unit in prepared.pending}
    reports = []
    for phase in prepared.plan.phases:
        phase.worker.setup()
        units = [unit for unit in phase.units if unit.index in left]
        reports += [
            write_unit(prepared.data, plan.name, unit, phase.worker.process) for unit in units
        ]
    finish_stage(prepared, reports)
    return paths.require(plan.name)


def rows_of(paths: RunPaths, stage: str, table: Table) -> list[dict[str, Any]]:
    """Rows of a table of a run, in an order that does not depend on the units."""
    parts = [read_batches(path, table, table.column_names) for path in paths.files(stage, table)]
    return sorted((row for part in parts for batch in part for row in batch.to_pylist()), key=str)


def recut(plan: StagePlan, parts: int) -> StagePlan:
    """The same plan with every byte range cut into so many."""
    ranges = []
    for unit in plan.units:
        cuts = [unit.start + unit.size * part // parts for part in range(parts + 1)]
        ranges += [(unit.path, low, high) for low, high in pairwise(cuts)]
    shift = len(ranges) - len(plan.units)
    return replace(
        plan,
        units=number_units(ranges),
        before=_shifted(plan.before, shift),
        then=_shifted(plan.then, shift),
    )


def _shifted(phases: tuple[Phase, ...], shift: int) -> tuple[Phase, ...]:
    """Phases whose units are numbered after the ordinary ones."""
    return tuple(
        replace(phase, units=[replace(unit, index=unit.index + shift) for unit in phase.units])
        for phase in phases
    )
