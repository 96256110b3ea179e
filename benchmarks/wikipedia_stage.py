"""Run one stage as a user does, and say what it took: bytes read and written, rows, phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.linking_data import command
from pipeline.config import load_config
from pipeline.engine.tables import RunPaths
from pipeline.engine.units import UnitReport
from pipeline.flow import STAGES
from pipeline.run_stage import plan_stage
from schemas.outputs import UNITS

MEGABYTE = 1e6
IO_COUNTS = Path("/proc/self/io")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Say what one phase of a stage took, on all workers together."""

    stage: str
    name: str
    num_units: int
    seconds: float
    longest_s: float


def run(
    out: Path,  # noqa: ARG001 - every variant gets one; the run stays
    name: str,
    root: str,
    settings: Sequence[str],
    workers: int,
    finished: str = "",
) -> dict[str, Any]:
    """Run the command of a stage in an own folder beside the finished stages of another run.

    Args:
        out: an empty folder, unused: the run stays for later stages.
        name: the command.
        root: where the run lies afterwards; a folder that is there already is used.
        settings: `key=value` each, as after `--set`.
        workers: processes.
        finished: a run whose folders are linked in first.
    """
    folder = Path(root)
    folder.mkdir(parents=True, exist_ok=True)
    for stage in Path(finished).iterdir() if finished else ():
        if stage.is_dir() and not (folder / stage.name).exists():
            (folder / stage.name).symlink_to(stage)

    flags = [flag for setting in settings for flag in ("--set", setting)]
    before = _io_mb()
    command(
        "-m", "pipeline.cli", name, "--redo", "--run", root, "--workers", str(workers), *flags
    )  # fmt: skip
    after = _io_mb()
    stages = [stage.name for stage in STAGES if stage.command == name]
    manifests = [RunPaths(root=root).finished(stage) for stage in stages]
    return {
        "read_mb": after["rchar"] - before["rchar"],
        "written_mb": after["wchar"] - before["wchar"],
        "stored_mb": sum(part.num_bytes for one in manifests for part in one.files) / MEGABYTE,
        "rows": {name: table.rows for one in manifests for name, table in one.tables.items()},
        "phases": [vars(phase) for stage in stages for phase in phases_of(stage, root, settings)],
    }


def phases_of(stage: str, root: str, settings: Sequence[str]) -> list[Phase]:
    """Return what each phase of a finished stage took, by the reports of its units."""
    config = load_config("", (*settings, f"run={root}"))
    folder = Path(root) / stage
    (reports,) = folder.glob(f"data-*/{UNITS}")
    seconds = {
        report.index: report.seconds
        for report in (UnitReport.from_json(path.read_text()) for path in reports.glob("*.json"))
    }
    return [
        Phase(
            stage=stage,
            name=phase.name,
            num_units=len(units),
            seconds=sum(seconds[unit.index] for unit in units),
            longest_s=max((seconds[unit.index] for unit in units), default=0.0),
        )
        for phase, units in plan_stage(stage, config).numbered_phases
    ]


def _io_mb() -> dict[str, float]:
    """Return what this process, and its children that have ended, read and wrote, in megabytes.

    As the system's calls count it: what lies in the file cache too, what is mapped not.
    """
    lines = IO_COUNTS.read_text().splitlines() if IO_COUNTS.exists() else ["rchar: 0", "wchar: 0"]
    return {name: int(value) / MEGABYTE for name, value in (line.split(": ") for line in lines)}
