"""Rejects of a stage that failed: its error gives the command that reads them, and no view has them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.pipeline.cases import in_process


def sql(run: Path, query: str) -> list[dict[str, object]]:
    done = in_process("sql", "--run", str(run), "--format", "json", query)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("is_first", [True, False])
def test_how_they_are_read(sample_run: Path, tmp_path: Path, *, is_first: bool) -> None:
    """Of the first stage of a run, and of a later one; a name that a shell and SQL must have quoted."""
    run = tmp_path / "it's a run"
    if not is_first:
        shutil.copytree(sample_run / "kb", run / "kb")
    (tmp_path / "in.jsonl").write_text(
        '{"id": "1", "text": "a"}\n{"id": "2", "txt": "b"}\nno JSON\n'
    )
    done = in_process("documents", "--run", str(run), "--input", str(tmp_path / "in.jsonl"))
    assert done.returncode == 1
    assert "2 of 3 inputs were rejected" in done.stderr
    command = re.search(r"with: (trelm-pipeline sql .*), correct the input", done.stderr)
    assert command is not None, done.stderr

    read = in_process(*shlex.split(command.group(1))[1:], "--format", "csv")
    assert read.returncode == 0, read.stderr
    assert sorted(line.split(",")[0] for line in read.stdout.splitlines()) == [
        "\"no field 'text'\"", '"not a JSON object of UTF-8 strings"', '"reason"',
    ]  # fmt: skip

    assert sql(run, "SELECT count(*) AS n FROM rejects WHERE stage = 'documents'") == [{"n": 0}]
    assert "documents" not in {row["table"] for row in sql(run, "")}
    kept = in_process(
        "documents", "--run", str(run), "--input", str(tmp_path / "in.jsonl"), "--set", "max_reject_rate=0.9"
    )  # fmt: skip
    assert kept.returncode == 0, kept.stderr
    assert sql(run, "SELECT count(*) AS n FROM rejects WHERE stage = 'documents'") == [{"n": 2}]


def test_an_older_output_stays_in_the_views(sample_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(sample_run, tmp_path / "run"))
    before = sql(run, "SELECT count(*) AS n FROM documents")
    (tmp_path / "in.jsonl").write_text('{"x": 1}\n')
    assert (
        in_process("documents", "--run", str(run), "--input", str(tmp_path / "in.jsonl")).returncode
        == 1
    )
    assert sql(run, "SELECT count(*) AS n FROM documents") == before
    assert sql(run, "SELECT * FROM rejects WHERE stage = 'documents'") == []


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    done = in_process("sql", "--run", str(tmp_path), "SELECT 1")
    assert (done.returncode, "holds no finished stage" in done.stderr) == (1, True)
