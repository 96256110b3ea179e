"""Run stage `stats` as a user does, on the local runner, and the questions asked of its tables."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

from pipeline.config import load_config
from pipeline.database.connection import open_run
from pipeline.engine.beam_runner import RunnerSettings
from pipeline.engine.tables import RunPaths
from pipeline.run_stage import run_stage

BAND_QUERY = """
SELECT band, count(*) AS entities, sum(num_mentions) AS mentions, avg(num_documents) AS documents
FROM entity_frequency GROUP BY band
"""
COUNTED = {"entity": "entity_frequency", "surface": "surface_frequency", "pair": "cooccurrence"}


def count(out: Path, run: str, workers: int) -> dict[str, Any]:
    """Run the stage on a run of links to the given folder; return the rows of its tables."""
    root = out / "run"
    root.mkdir()
    for stage in ("link", "kb"):
        (root / stage).symlink_to(Path(run) / stage)
    run_stage("stats", load_config("", (f"run={root}",)), RunnerSettings(workers=workers))
    manifest = json.loads((root / "stats" / "manifest.json").read_text())
    rows = {name: manifest["tables"][table]["rows"] for name, table in COUNTED.items()}
    return {**rows, "band_query_s": _band_query_s(str(root)), "counters": manifest["counters"]}


def _band_query_s(run: str) -> float:
    """Time the band query, opening the run included; median of five, in seconds."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        with open_run(RunPaths(root=run)) as connection:
            connection.sql(BAND_QUERY).fetchall()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
