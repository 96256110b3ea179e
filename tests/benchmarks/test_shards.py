"""The shards benchmark: what it generates, what it prints, that variants count the same tokens,
what it refuses.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks import child, harness, shards, shards_data
from benchmarks.shards_read import LISTS
from schemas import EXAMPLES
from tests.benchmarks.test_dump_parse import DOCUMENTED
from tests.pipeline.cases import in_process


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> shards.Setup:
    monkeypatch.setattr(shards_data, "FILE_ROWS", 10_000)
    return shards.Setup(
        folder=tmp_path, run="", copies=1, read_tokens=500_000, rounds=1, quick=True
    )


def test_generated_rows_are_rows_of_examples(setup: shards.Setup) -> None:
    files = shards_data.generated_rows(setup.folder, setup.read_tokens)
    assert files == shards_data.generated_rows(setup.folder, setup.read_tokens)  # made once
    assert len(files) == 2
    for path in files:
        EXAMPLES.check(pq.read_schema(path), path)
        metadata = pq.read_metadata(path)
        assert metadata.row_group(0).num_rows == 8192
        for row in pq.read_table(path, partitioning=None).slice(0, 500).to_pylist():
            assert len(row["input_ids"]) == row["n_tokens"] <= 128
            assert row["word_starts"] == sorted(set(row["word_starts"]))
            assert row["word_starts"][-1] < row["n_tokens"] - 1
            assert len({len(row[name]) for name in LISTS if name.startswith("span_")}) == 1
            assert len({len(row[name]) for name in LISTS if name.startswith("fact_")}) == 1
            assert all(span < len(row["span_start"]) for span in row["fact_tail_span"])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["read_ids", "read_all"])
def test_reading_prints_the_documented_object(
    setup: shards.Setup, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    (fields,) = shards.CASES[case](setup)
    harness.emit(fields)
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() >= DOCUMENTED
    assert (printed["case"], printed["unit"], printed["ok"]) == (case, "tokens/s", True)
    assert printed["tokens"] > 500_000
    assert printed["columns"] == (1 if case == "read_ids" else 11)


def in_this_process(variant: harness.Variant, scratch: Path) -> dict[str, Any]:
    """Quicker than a process each."""
    request = {
        "target": variant.target,
        "arguments": dict(variant.arguments),
        "core": None,
        "scratch": str(scratch),
    }
    return child.run(request)


@pytest.mark.slow
@pytest.mark.kit
def test_building_counts_the_tokens_of_the_tokenizer(
    kit: Path,
    sample_run: Path,
    setup: shards.Setup,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = shutil.copytree(sample_run, tmp_path / "run")
    model = kit / shards_data.SMALL_BERT
    done = in_process("importance", "--run", str(run), "--model", str(model))
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(harness, "run_once", in_this_process)
    (fields,) = shards.CASES["build_roberta"](replace(setup, run=str(run)))
    assert fields.keys() >= DOCUMENTED
    assert fields["ok"]
    assert set(fields["tokens"]) == {"ours", "call", "encode_batch"}
    assert fields["counters"]["rows_in"] > 500
    assert fields["limits"]["encode_batch"] > 0


@pytest.mark.parametrize("wrong", [["--copies", "0"], ["--case", "write"], ["--read-tokens", "-1"]])
def test_bad_arguments_are_refused(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["shards", *wrong])
    with pytest.raises(SystemExit, match="2"):
        shards.main()
    assert wrong[0] in capsys.readouterr().err
