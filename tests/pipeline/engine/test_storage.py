"""Units, tables, errors, manifests."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.engine import files
from pipeline.engine.errors import StageError, message_in
from pipeline.engine.finish import check_counters
from pipeline.engine.tables import (
    RunPaths,
    open_table,
    read_rows,
    read_table,
    row_ranges,
    sized_row_ranges,
)
from pipeline.engine.tasks import ByteRange, Unit
from pipeline.engine.units import UnitReport, UnitWriter, finished_units
from pipeline.link.gold import load_gold, parse_qid
from pipeline.link.spacy_annotator import pieces
from schemas import ALIASES, DOCUMENTS, REJECTS, SchemaError
from schemas.manifest import Manifest


def document(number: int) -> tuple[str, str, str, str]:
    return (str(number), "", f"text {number} " + "x" * 50, "s")


def test_a_unit_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    for name in ("_tmp", "_units", "documents", "rejects"):
        (tmp_path / name).mkdir()
    out = UnitWriter(
        str(tmp_path), "documents", Unit(index=3, of=7, task=ByteRange(path="p", start=0, end=9))
    )
    out.write(DOCUMENTS, DOCUMENTS.from_rows([document(number) for number in range(10)]))
    out.reject("k", "bad", "p" * 1000)
    out.count("rows_in", 11)
    assert not list((tmp_path / "documents").iterdir())
    report = out.finish()
    part = tmp_path / "documents" / "part-00003-of-00007.parquet"
    assert report.parts["documents"].sha256 == hashlib.sha256(part.read_bytes()).hexdigest()
    assert report.parts["documents"].num_bytes == part.stat().st_size
    assert finished_units(str(tmp_path)) == {3: report}
    assert UnitReport.from_json(report.to_json()) == report
    rejected = read_table([str(tmp_path / "rejects" / part.name)], REJECTS).to_pylist()
    assert [len(row["payload"]) for row in rejected] == [500]
    abandoned = UnitWriter(
        str(tmp_path), "documents", Unit(index=4, of=7, task=ByteRange(path="p", start=0, end=9))
    )
    abandoned.write(DOCUMENTS, DOCUMENTS.from_rows([document(number) for number in range(70_000)]))
    assert list((tmp_path / "_tmp").iterdir())
    abandoned.abandon()
    assert not list((tmp_path / "_tmp").iterdir())


def test_rows_are_read_by_range(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = str(tmp_path / "d.parquet")
    rows = DOCUMENTS.from_rows([document(number) for number in range(25)])
    pq.write_table(rows, path, row_group_size=10)
    for start, end in ((0, 25), (3, 12), (9, 10), (10, 10), (24, None)):
        found = [
            row["doc_id"]
            for part in read_rows(path, DOCUMENTS, start, end)
            for row in part.to_pylist()
        ]
        assert found == [str(number) for number in range(start, 25 if end is None else end)]
    for units in (row_ranges([path], 7, DOCUMENTS), sized_row_ranges([path], 500, DOCUMENTS)):
        assert [unit.start for unit in units] == [0, *(unit.end for unit in units[:-1])]
        assert units[-1].end == 25
        assert len(units) > 1
    with pytest.raises(StageError, match="but 'aliases' was expected"), open_table(path, ALIASES):
        pass
    (tmp_path / "not.parquet").write_text("no")
    with (
        pytest.raises(StageError, match="not.parquet"),
        open_table(str(tmp_path / "not.parquet"), ALIASES),
    ):
        pass


def test_a_writer_refuses_wrong_rows(tmp_path: Path) -> None:
    out = UnitWriter(
        str(tmp_path), "documents", Unit(index=0, of=1, task=ByteRange(path="p", start=0, end=9))
    )
    with pytest.raises(SchemaError):
        out.write(DOCUMENTS, ALIASES.empty())


def test_errors_survive_wrapping() -> None:
    error = StageError("x.gz: truncated at byte 7")
    wrapped = RuntimeError(f"{error} [while running 'Process kb']")
    assert message_in(str(wrapped)) == error.message == "x.gz: truncated at byte 7"
    assert (
        StageError(str(wrapped)).message == "x.gz: truncated at byte 7"
    )  # runners rebuild exceptions
    assert message_in("anything else") is None


def test_manifest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a TRELM manifest"):
        Manifest.from_json("{}", "m.json")
    manifest = Manifest(stage="kb", fingerprint="f", code_version="0", tables={})
    assert Manifest.from_json(manifest.to_json(), "m") == manifest
    with pytest.raises(StageError, match="trelm-pipeline kb --run"):
        RunPaths(root=str(tmp_path)).require("kb")


def test_lost_rows_are_a_fault() -> None:
    class Plan:
        name, data_folder, max_reject_rate = "kb", "d", 0.5

    from collections import Counter

    check_counters(Plan, Counter(rows_in=3, rows_out=1, rejects=1, skipped_lexeme=1))
    with pytest.raises(StageError, match="fault of the program"):
        check_counters(Plan, Counter(rows_in=3, rows_out=1))


def test_files(tmp_path: Path) -> None:
    files.write_bytes(str(tmp_path / "a" / "b.txt"), b"x")
    assert files.expand((str(tmp_path / "a"),)) == files.expand((str(tmp_path / "a" / "*.txt"),))
    assert files.size_of(str(tmp_path / "a" / "b.txt")) == 1
    assert files.stamp(str(tmp_path / "a" / "b.txt")).startswith(str(tmp_path / "a" / "b.txt:1:"))
    for act in (files.size_of, files.stamp, files.open_read):
        with pytest.raises(StageError, match="none"):
            act(str(tmp_path / "none"))
    files.remove(str(tmp_path / "a"))
    files.remove(str(tmp_path / "a"))
    with pytest.raises(StageError, match="no such file or folder"):
        files.expand((str(tmp_path / "a"),))


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves the old file and nothing beside it; links and pipes stay what they are."""
    path = tmp_path / "page.html"
    files.write_bytes(str(path), b"old")

    def full() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(StageError, match=r"page\.html: cannot be written .*No space"):
        files.write_stream(str(path), full())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]

    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    link = tmp_path / "link.html"
    link.symlink_to(path)
    files.write_bytes(str(link), b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert len(synced) == 2, "the file, then the folder"

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    files.write_bytes(str(pipe), b"text")
    reader.join(timeout=60)
    assert read == [b"text"]
    assert pipe.is_fifo()


def test_a_users_file_with_a_temporary_name_stays(tmp_path: Path) -> None:
    own = tmp_path / "a.csv.tmp"
    own.write_text("mine")
    files.write_bytes(str(tmp_path / "a.csv"), b"1")
    assert own.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.tmp"]


def test_pieces_are_whole_lines_and_lose_nothing() -> None:
    text = ("word " * 300 + "\n") * 5 + "x" * 9_000
    found = list(pieces(text))
    assert "".join(piece for _, piece in found) == text
    assert [start for start, _ in found] == [
        0,
        *np.cumsum([len(piece) for _, piece in found])[:-1].tolist(),
    ]
    assert found[0][1].endswith("\n")


def test_parse_qid() -> None:
    assert (parse_qid("Q42"), parse_qid(42), parse_qid(None)) == (42, 42, None)
    for wrong in ("x", -5, "Q-5", 0, 1.5):
        with pytest.raises(ValueError, match=r"x|number|invalid literal"):
            parse_qid(wrong)


@pytest.mark.parametrize(
    "mention",
    [
        '{"start": 0, "end": 1e999, "qid": "Q1"}',
        '{"start": 0.9, "end": 5, "qid": "Q1"}',
        '{"start": 0, "end": 5, "qid": -5}',
        '{"start": 0, "end": 5, "qid": ' + "[" * 100_000,
    ],
)
def test_gold_with_impossible_numbers(tmp_path: Path, mention: str) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text('{"doc_id": "1", "text": "Paris", "mentions": [%s]}\n' % mention)  # noqa: UP031 - braces
    with pytest.raises(StageError, match=r"gold.jsonl:1: not a gold document"):
        load_gold(str(path))
