"""Shared by the pipeline's tests: the program in a process of its own, the sample's configuration,
rows of a run.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

from pipeline.cli import PROGRAM, cli
from pipeline.database.connection import open_run
from pipeline.engine.tables import RunPaths
from schemas import LINKS
from schemas.command_line import call
from tests.pausing import PATIENCE_S, Pause

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
        check=False, text=True, capture_output=True, cwd=cwd, env={**os.environ, **(env or {})}, timeout=PATIENCE_S,
    )  # fmt: skip


def in_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run trelm-pipeline in this process: quicker, where the process itself is not what is tested."""
    # Bytes below the text, as a real standard output has: answers are written as bytes.
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = call(
            lambda: cli.main(list(arguments), prog_name="trelm-pipeline", standalone_mode=False),
            PROGRAM,
        )
    texts = []
    for stream in (stdout, stderr):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return subprocess.CompletedProcess(arguments, code, *texts)


def kill_at(pause: Pause, *arguments: str) -> None:
    """Start trelm-pipeline, wait until it pauses, then kill it and its children."""
    running = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=pause.environment(),
    )
    pause.wait(running)
    os.killpg(running.pid, signal.SIGKILL)
    assert running.wait(PATIENCE_S) == -signal.SIGKILL, "it was at work when the kill came"


def sample_arguments(run: Path, *more: str) -> list[str]:
    """Arguments that run on the sample in another folder."""
    return ["--config", str(SAMPLE / "pipeline.toml"), "--run", str(run), *more]


def rows_of(run: Path, table: str) -> list[Row]:
    """All rows of a table, sorted."""
    with open_run(RunPaths(root=str(run))) as connection:
        return sorted(connection.sql(f'SELECT * FROM "{table}"').fetchall(), key=repr)


def num_linked(links: list[Row]) -> int:
    """Number of rows of `links` that lead to an item: `importance` has a row for each."""
    column = [column.name for column in LINKS.columns].index("qid")
    return sum(row[column] is not None for row in links)
