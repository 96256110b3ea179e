"""A table whose bytes were changed gets no view, and stops no other one."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import duckdb
import pytest

from pipeline.database.run_database import NAME, write_database
from pipeline.engine.tables import RunPaths


@pytest.mark.slow
def test_a_damaged_file_costs_its_own_view_alone(
    sample_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(shutil.copytree(sample_run, tmp_path / "run"))
    manifest = RunPaths(root=str(run)).finished("stats")
    part = next(entry.path for entry in manifest.files if "tail_summary" in entry.path)
    content = bytearray((run / "stats" / part).read_bytes())
    # The length stays, and the footer, where Parquet keeps what the columns are, is no footer.
    content[-200:-8] = b"\xff" * 192
    (run / "stats" / part).write_bytes(content)

    with caplog.at_level(logging.WARNING):
        write_database(RunPaths(root=str(run)))
    (said,) = [record.getMessage() for record in caplog.records]
    assert "table tail_summary has a damaged file" in said
    assert "--verify" in said

    with duckdb.connect(str(run / NAME), read_only=True) as connection:
        views = {
            name
            for (name,) in connection.execute("SELECT view_name FROM duckdb_views()").fetchall()
        }
    assert "tail_summary" not in views
    assert {"links", "entity_frequency", "facts"} <= views
