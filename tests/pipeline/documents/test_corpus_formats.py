"""A corpus gives the same documents however it is stored and cut."""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import pytest
import zstandard

from pipeline.config import DocumentsConfig
from pipeline.documents import stage as documents
from pipeline.documents.stage import labels_of, measure_of
from pipeline.engine.tables import RunPaths
from schemas import DOCUMENTS
from tests.conftest import SAMPLE
from tests.pipeline.inputs_run import recut, rows_of, run_plan
from tests.pipeline.sources.conftest import gzip_members, zstd_frames

LINES = b"".join(
    json.dumps({"id": n, "text": f"text {n} é " * (n % 60 + 1)}).encode() + b"\n"
    for n in range(900)
)
STORED = {
    "d.jsonl": LINES,
    "d.jsonl.gz": gzip_members(LINES, [20_000, 1]),
    "d.jsonl.bz2": bz2.compress(LINES, 1),
    "d.jsonl.zst": zstd_frames(LINES, [20_000, 1]),
}


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("parts", [1, 5])
def test_json_lines(tmp_path: Path, name: str, parts: int) -> None:
    path = tmp_path / name
    path.write_bytes(STORED[name])
    paths = RunPaths(root=str(tmp_path / "run"))
    plan = recut(documents.plan(DocumentsConfig(inputs=(str(path),)), paths), parts)
    assert plan.measure == "bytes"
    counters = run_plan(plan, paths).counters
    assert counters["rows_in"] == counters["rows_out"] == 900
    texts = {(row["doc_id"], row["text"]) for row in rows_of(paths, "documents", DOCUMENTS)}
    assert texts == {
        (str(json.loads(line)["id"]), json.loads(line)["text"]) for line in LINES.splitlines()
    }


def test_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress("Köln".encode()))
    paths = RunPaths(root=str(tmp_path / "run"))
    run_plan(documents.plan(DocumentsConfig(inputs=(str(tmp_path / "a.txt.zst"),)), paths), paths)
    kept = [(row["doc_id"], row["text"]) for row in rows_of(paths, "documents", DOCUMENTS)]
    assert kept == [("a", "Köln")]


def test_known_endings_are_no_part_of_an_id() -> None:
    assert labels_of([f"/x/{name}" for name in ("a.jsonl.zst", "b.xml.bz2")]) == {
        "/x/a.jsonl.zst": "a",
        "/x/b.xml.bz2": "b",
    }


@pytest.mark.parametrize(
    ("kinds", "measure"),
    [({"jsonl"}, "bytes"), ({"jsonl", "wiki-xml"}, "bytes"), ({"text"}, "files"), ({"parquet"}, "rows"),
     ({"text", "jsonl"}, "")],
)  # fmt: skip
def test_what_progress_counts(kinds: set[str], measure: str) -> None:
    assert measure_of(kinds) == measure


def test_articles(tmp_path: Path) -> None:
    """A zst export is known by its content."""
    path = tmp_path / "pages"
    path.write_bytes(zstd_frames((SAMPLE / "pages.xml").read_bytes(), [5_000]))
    assert documents.corpus.kind_of(str(path)) == "wiki-xml"
