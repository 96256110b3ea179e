"""The statistics benchmark: what it generates, that the SQL beside it counts the same, what it
refuses.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.statistics_data import NIL_SHARE, make_run
from benchmarks.statistics_sql import count_by_sql
from pipeline.config import StatsConfig
from pipeline.database.connection import open_run
from pipeline.engine.tables import RunPaths
from pipeline.stats import stage as stats
from tests.conftest import ROOT
from tests.pipeline.inputs_run import run_plan


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    folder.mkdir()
    make_run(folder, 20_000)
    return folder


def test_links_are_as_described_and_follow_from_the_seed(run: Path, tmp_path: Path) -> None:
    make_run(tmp_path, 20_000)
    rows = []
    for folder in (run, tmp_path):
        with open_run(RunPaths(root=str(folder))) as connection:
            rows.append(
                connection.sql(
                    "SELECT doc_id, start, sentence_start, surface, qid FROM links"
                ).fetchall()
            )
    assert rows[0] == rows[1]
    qids = np.array([row[4] or 0 for row in rows[0]])
    assert (qids == 0).mean() == pytest.approx(NIL_SHARE, abs=0.02)
    _, counts = np.unique(qids[qids > 0], return_counts=True)
    assert counts.max() > 50 * np.median(counts), "few entities have most mentions"
    assert len({row[:2] for row in rows[0]}) == len(rows[0]), "spans are distinct"


@pytest.mark.slow
def test_the_sql_counts_what_the_stage_counts(run: Path, tmp_path: Path) -> None:
    paths = RunPaths(root=str(run))
    run_plan(stats.plan(StatsConfig(unit_rows=5_000, num_bootstrap=10), paths), paths)
    counted = count_by_sql(tmp_path, str(run), 32, 128)
    with open_run(paths) as connection:
        tables = {
            "entity": "entity_frequency",
            "surface": "surface_frequency",
            "pair": "cooccurrence",
        }
        for name, table in tables.items():
            assert (
                counted[name]
                == connection.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0]
                > 1_000
            ), name
        columns = "qid_a, qid_b, num_sentences, num_documents"
        ours = connection.sql(f"SELECT {columns} FROM cooccurrence ORDER BY ALL").fetchall()
        theirs = connection.sql(
            f"SELECT {columns} FROM '{tmp_path}/pair.parquet' ORDER BY ALL"
        ).fetchall()
        assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["statistics", "importance"])
def test_unknown_cases_are_refused(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--case", "nothing"],
        check=False, text=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert "invalid choice: 'nothing'" in done.stderr
