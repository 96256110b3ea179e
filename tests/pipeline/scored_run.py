"""The sample with an importance of every linked mention: its cosine follows from the item."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.database.run_database import write_database
from pipeline.engine.tables import RunPaths
from tests.pipeline.cases import rows_of


def cosine_of(qid: object) -> float:
    """Return the made-up cosine of an item's mentions."""
    assert isinstance(qid, int)
    return 1 - (qid % 97 + 1) / 1000


def scored_copy(sample_run: Path, folder: Path) -> Path:
    """Return a copy of the finished sample run, with scores."""
    from benchmarks.made_run import write_stage
    from schemas import IMPORTANCE

    run = folder / "run"
    shutil.copytree(sample_run, run)
    rows = [
        (row[0], row[1], row[2], cosine_of(row[7]), 1.0, True)
        for row in rows_of(run, "links")
        if row[7] is not None
    ]
    write_stage(run, "importance", {"importance": (IMPORTANCE, [IMPORTANCE.from_rows(rows)])})
    write_database(RunPaths(root=str(run)))
    return run
