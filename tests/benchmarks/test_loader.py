"""The loader benchmark: what it prints, that all variants count the same tokens, what it refuses
and leaves out.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import harness, loader, loader_ours, loader_peers, shards_data
from benchmarks.harness import run_once
from tests.benchmarks.test_dump_parse import DOCUMENTED
from tests.benchmarks.test_shards import in_this_process
from trelm_train.data.sentences import COLUMNS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shards_data, "FILE_ROWS", 4000)
    monkeypatch.setattr(harness, "run_once", in_this_process)
    return tmp_path


def counted(files: list[str], split: str | None) -> int:
    tables = [
        pq.read_table(path, columns=["n_tokens", "split"], partitioning=None).to_pydict()
        for path in files
    ]
    rows = [
        pair for table in tables for pair in zip(table["n_tokens"], table["split"], strict=True)
    ]
    return sum(length for length, name in rows if split in (None, name))


@pytest.mark.slow
def test_every_case_prints_the_documented_object(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = loader.Setup(
        folder=folder, tokens=200_000, rounds=1, cases=tuple(loader.CASES), peers=("to_pylist",),
        quick=False,
    )  # fmt: skip
    for fields in loader.run(setup):
        harness.emit(fields)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [fields["case"] for fields in printed] == list(loader.CASES)
    files = shards_data.generated_rows(folder, 200_000)
    assert len(files) == 2
    for fields in printed:
        assert fields.keys() >= DOCUMENTED
        assert fields["unit"] == "tokens/s"
        assert fields["peers"].keys() == {"to_pylist"}
        assert fields["tokens"] == counted(files, None if fields["case"] == "read" else "train")
        if fields["case"] != "read":
            assert 0.8 < fields["padding_efficiency"] <= 1, "of a small epoch"
            assert 0 < fields["seek_ms"] < 10_000
            padding = fields["aims"]["padding_efficiency"]
            assert padding["met"] == (fields["padding_efficiency"] >= 0.95)
            assert fields["ok"] == all(aim["met"] is not False for aim in fields["aims"].values())
            assert fields["aims"]["cpu_ratio_to_peers.hf_rows"]["met"] is None


def test_peers_count_all_tokens(folder: Path, tmp_path: Path) -> None:
    files = shards_data.generated_rows(folder, 100_000)
    columns = list(COLUMNS.values())
    assert loader_peers.to_pylist(tmp_path, files, columns)["tokens"] == counted(files, None)
    assert loader_ours.read(tmp_path, files)["tokens"] == counted(files, None)
    assert loader_peers.decode(tmp_path, files, columns)["rows"] == 4000 * len(files)


@pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="pip install datasets to run this test"
)
@pytest.mark.filterwarnings("ignore")
def test_hugging_face_peers_count_them_too(folder: Path) -> None:
    """In processes of their own: the library starts threads and patches what it finds."""
    setup = loader.Setup(
        folder=folder,
        tokens=50_000,
        rounds=1,
        cases=("read",),
        peers=tuple(loader.PEERS),
        quick=True,
    )
    files = shards_data.generated_rows(folder, 50_000)
    for variant in loader.variants_of(setup):
        if variant.name in ("hf_rows", "hf_arrow", "hf_random"):
            answer = run_once(variant, folder)
            assert answer["result"]["tokens"] == counted(files, None)


def test_a_missing_library_is_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "PEERS", {"hf_rows": "no_such_package"})
    setup = loader.Setup(
        folder=folder, tokens=50_000, rounds=1, cases=("read",), peers=("hf_rows",), quick=True
    )
    (fields,) = loader.run(setup)
    assert fields["skipped"] == {"hf_rows": "pip install no_such_package"}
    assert fields["peers"] == {}


@pytest.mark.parametrize(
    "wrong",
    [["--tokens", "0"], ["--case", "write"], ["--rounds", "-1"]],
    ids=lambda wrong: wrong[0],
)
def test_bad_arguments_are_refused(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["loader", *wrong])
    with pytest.raises(SystemExit, match="2"):
        loader.main()
    assert wrong[0] in capsys.readouterr().err
