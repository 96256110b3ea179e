"""A disk that is full while DuckDB writes: an error that says what to do, and no torn file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from pipeline.database import run_database
from pipeline.database.connection import spill_folder, working_database
from pipeline.engine.errors import StageError
from tests.pipeline.cases import ROOT, in_process, sample_arguments

LIMITED = """
import resource, signal, sys
from pipeline.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
main(sys.argv[2:])
"""


# While the file is made, while a transaction ends, while all is brought to the disk.
@pytest.mark.parametrize("num_bytes", [4096, 12288, 100_000])
def test_a_database_that_cannot_grow(sample_run: Path, tmp_path: Path, num_bytes: int) -> None:
    run = Path(shutil.copytree(sample_run, tmp_path / "run"))
    (run / "run.duckdb").unlink()
    before = sorted(run.rglob("*"))
    arguments = ["stats", *sample_arguments(run)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(num_bytes), *arguments],
        check=False, text=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{run / 'run.duckdb'}: cannot be written" in done.stderr
    assert "free space on this disk, and the same command goes on" in done.stderr
    assert sorted(run.rglob("*")) == before, "no torn file, and none beside it"

    done = in_process(*arguments)
    assert done.returncode == 0, done.stderr
    assert "stats: up to date" in done.stderr
    with duckdb.connect(str(run / "run.duckdb")) as connection:
        connection.execute("SET file_search_path = $run", {"run": str(run)})
        assert connection.sql("SELECT count(*) FROM links").fetchall()[0][0] > 0


def test_an_older_database_goes(
    sample_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its views name files that a new output has removed."""
    run = Path(shutil.copytree(sample_run, tmp_path / "run"))

    def full(*_: object) -> None:
        raise duckdb.IOException("IO Error: No space left on device")

    monkeypatch.setattr(run_database, "_write", full)
    done = in_process("stats", *sample_arguments(run), "--redo")
    assert (done.returncode, (run / "run.duckdb").exists()) == (1, False)
    assert "No space left on device); the tables are whole" in done.stderr
    monkeypatch.undo()
    assert in_process("stats", *sample_arguments(run)).returncode == 0
    assert (run / "run.duckdb").exists()


def test_what_does_not_fit_into_memory_or_disk() -> None:
    def sort() -> None:
        with working_database(0.02) as connection:
            connection.execute("SET max_temp_directory_size = '0KB'")
            connection.execute(
                "CREATE TABLE t AS SELECT random() AS a FROM range(9000000) ORDER BY a"
            )

    with pytest.raises(StageError, match="DuckDB cannot go on .*free space in") as error:
        sort()
    assert spill_folder() in error.value.message


@pytest.mark.parametrize("kind", ["parquet", "json", "csv", "table"])
def test_an_answer_is_written_whole_or_not_at_all(
    sample_run: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    query = ["sql", "--run", str(sample_run), "--format", kind, "--out", str(out), "FROM aliases"]
    assert in_process(*query).returncode == 0
    whole = out.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "1000", *query],
        check=False, text=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"{out}: cannot be written" in done.stderr
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out", whole)]
