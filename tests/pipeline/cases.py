"""Shared by the pipeline's tests: the program in a process of its own, the sample's configuration, rows of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipeline.database.connection import open_run
from pipeline.engine.tables import RunPaths

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "examples" / "tiny"
GOLD = SAMPLE / "gold.jsonl"

Row = tuple[object, ...]


def program(
    *arguments: str, env: dict[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run trelm-pipeline and wait."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        check=False, text=True, capture_output=True, cwd=cwd, env={**os.environ, **(env or {})}, timeout=240,
    )  # fmt: skip


def sample_arguments(run: Path, *more: str) -> list[str]:
    """Arguments that run on the sample in another folder."""
    return ["--config", str(SAMPLE / "pipeline.toml"), "--run", str(run), *more]


def rows_of(run: Path, table: str) -> list[Row]:
    """All rows of a table, sorted."""
    with open_run(RunPaths(root=str(run))) as connection:
        return sorted(connection.sql(f'SELECT * FROM "{table}"').fetchall(), key=repr)
