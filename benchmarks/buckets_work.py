"""Do what `buckets` measures, in a process of its own: a stage, a training run, digests of rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.linking_data import command, set_flags
from pipeline.database.connection import open_run
from pipeline.engine import files
from pipeline.engine.tables import RunPaths
from pipeline.flow import STAGES

SETS = {
    "train.log_every": 20, "train.checkpoint_every": 30, "train.loggers": [], "train.validate": False,
}  # fmt: skip


def stage(
    out: Path,  # noqa: ARG001 - every variant gets one
    name: str,
    run: str,
    config: str,
    workers: int,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Run one command of the pipeline."""
    command(
        "-m", "pipeline.cli", name, "--config", config, "--run", run, "--workers", str(workers),
        *set_flags(settings),
    )  # fmt: skip
    return {}


def digests(out: Path, run: str) -> dict[str, Any]:  # noqa: ARG001 - every variant gets one
    """Return the number of rows of each table, and a hash of all of them in any order."""
    paths = RunPaths(root=run)
    tables = sorted({table.name for one in STAGES for table in one.writes})
    found = {}
    with open_run(paths) as connection:
        there = {
            name for (name,) in connection.sql("SELECT view_name FROM duckdb_views()").fetchall()
        }
        for table in (name for name in tables if name in there):
            rows = connection.sql(
                f'SELECT count(*), coalesce(sum(hash(t)::HUGEINT), 0)::VARCHAR FROM "{table}" AS t'
            ).fetchall()
            found[table] = list(rows[0])
    return found


def train(out: Path, shards: str, model: str, to: str, steps: int) -> dict[str, Any]:
    """Train from prepared shards; return the speed by the run's own summary."""
    address = f"{to}/{out.name}"
    command(
        "-m", "trelm_train.cli", "run", "--shards", shards, "--model", model, "--out", address,
        *set_flags({"train.steps": steps, **SETS}),
    )  # fmt: skip
    summary = json.loads(files.read_bytes(f"{address}/summary.json"))
    return {"tokens_per_s": summary["tokens_per_s"], "loss": summary["loss_last"]}
