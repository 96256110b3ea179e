"""Run our side of `dump_parse`: stage `kb` outside Beam, unit by unit; functions that
`benchmarks.child` calls.

Only what any program may use of the stage: its plan, the plan's phases, `write_unit`.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.child import own_peak_rss_mb
from benchmarks.dump_parse_limits import open_stdlib
from pipeline.config import KbConfig
from pipeline.engine.stage import PreparedStage, prepare
from pipeline.engine.tables import RunPaths
from pipeline.engine.tasks import Unit
from pipeline.engine.units import UnitReport, UnitWorker, write_unit
from pipeline.kb import stage as kb

KIT_UNIT_MB = 0.0  # the stage's own choice


def process_units(
    out: Path, path: str, unit_mb: float, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Plan the stage and run its units one after the other."""
    prepared = _prepared(out, path, unit_mb, options)
    reports = _run(prepared)
    return {"counters": _counters(reports), "units": len(reports)}


def process_units_by_scan(out: Path, path: str, unit_mb: float) -> dict[str, Any]:
    """Run the units with the scanner of entities, whatever the size of the dump."""
    prepared = _prepared(out, path, unit_mb)
    phases = tuple(
        replace(phase, worker=replace(phase.worker, is_long=True))
        if isinstance(phase.worker, kb.KbWorker)
        else phase
        for phase in prepared.plan.phases
    )
    prepared = replace(prepared, plan=replace(prepared.plan, phases=phases))
    reports = _run(prepared)
    return {"counters": _counters(reports), "units": len(reports)}


def process_units_in_pool(out: Path, path: str, unit_mb: float, processes: int) -> dict[str, Any]:
    """Run the units by several processes, which take a unit when they are free; their start is not
    timed.
    """
    context = multiprocessing.get_context(
        "spawn"
    )  # Beam's and Arrow's threads do not survive a fork
    barrier = context.Barrier(processes + 1)
    with context.Pool(processes, initializer=_wait, initargs=(barrier,)) as pool:
        barrier.wait()
        start = time.perf_counter()
        prepared = _prepared(out, path, unit_mb)
        taken: list[tuple[float, float]] = []
        for phase, units in prepared.plan.numbered_phases:
            write = partial(_write_in_worker, prepared.data, phase.worker)
            taken += pool.imap_unordered(write, units)
        seconds = time.perf_counter() - start
    peaks, cpu_seconds = zip(*taken, strict=True)
    return {
        "seconds": seconds,
        "cpu_seconds": sum(cpu_seconds),
        "rss_mb": max(peaks),
        "units": len(peaks),
    }


def kit_files(out: Path, paths: list[str]) -> dict[str, Any]:
    """Run the stage on several genuine dumps, each alone."""
    return {path: _kit_file(out / str(number), path) for number, path in enumerate(paths)}


def _kit_file(out: Path, path: str) -> dict[str, Any]:
    """Run the stage on one dump; count what went in, by the standard library alone, and what became
    of it.
    """
    with open_stdlib(path) as file:
        entities_in = len(json.load(file))
    prepared = _prepared(out, path, KIT_UNIT_MB, {"statements": True})
    try:
        reports = _run(prepared)
    except Exception as error:  # noqa: BLE001 - a crash is a figure here
        return {
            "entities_in": entities_in,
            "crashes": 1,
            "error": repr(error),
            "all_accounted_for": False,
        }
    counters, rows = _counters(reports), Counter[str]()
    for report in reports:
        rows.update({name: part.rows for name, part in report.parts.items()})
    skipped = {name: count for name, count in counters.items() if name.startswith("skipped_")}
    accounted = counters["rows_out"] + sum(skipped.values()) + counters["rejects"]
    return {
        "entities_in": entities_in,
        "rows_out": counters["rows_out"],
        "rows": dict(rows),
        "skipped": skipped,
        "rejects": counters["rejects"],
        "crashes": 0,
        "all_accounted_for": entities_in == counters["rows_in"] == accounted,
    }


def _prepared(
    out: Path, path: str, unit_mb: float, options: dict[str, Any] | None = None
) -> PreparedStage:
    paths = RunPaths(root=str(out))
    config = KbConfig(dumps=(path,), unit_mb=unit_mb, **(options or {}))
    return prepare(kb.plan(config, paths), paths)


def _run(prepared: PreparedStage) -> list[UnitReport]:
    reports = []
    for phase, units in prepared.plan.numbered_phases:
        reports += [write_unit(prepared.data, "kb", unit, phase.worker.process) for unit in units]
    replaced = {index for report in reports for index in report.replaces}
    return [report for report in reports if report.index not in replaced]


def _wait(barrier: Any) -> None:  # noqa: ANN401 - has no public type
    """Return at once: an answer means that the process has started and has imported this module."""
    barrier.wait()


def _write_in_worker(folder: str, worker: UnitWorker[Any], unit: Unit[Any]) -> tuple[float, float]:
    """Write a unit; return the peak memory of the process so far, and the processor time of the
    unit.
    """
    start = time.process_time()
    write_unit(folder, "kb", unit, worker.process)
    return own_peak_rss_mb(), time.process_time() - start


def _counters(reports: Iterable[UnitReport]) -> Counter[str]:
    counters: Counter[str] = Counter()
    for report in reports:
        counters.update(report.counters)
    return counters
