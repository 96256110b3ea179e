"""A corpus gives the same documents however it is stored and cut."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import zstandard

from pipeline.config import DocumentsConfig
from pipeline.documents import stage as documents
from pipeline.documents.corpus import kind_of
from pipeline.documents.stage import labels_of, measure_of
from pipeline.engine.tables import RunPaths
from pipeline.sources import SourceError
from schemas import DOCUMENTS
from tests.conftest import SAMPLE
from tests.pausing import PATIENCE_S
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


OTHER_FORMATS = {
    "array.json": (
        '[{"id": "a", "text": "Paris."},\n{"id": "b", "text": "Rome."}]',
        "one JSON array",
    ),
    "corpus.csv": ('id,text\n1,"Paris is in France."\n', "a table in CSV"),
    "rows.tsv.gz": ("1\tParis\n2\tRome\n", "a table in CSV"),
    "table": ("id\ttext\n1\tParis\n", "a table in CSV"),
    "wiki_00": (
        '<doc id="12" url="u" title="T">\nT\n\nParis.\n</doc>\n',
        "output of WikiExtractor",
    ),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_other_formats_are_refused_by_name(tmp_path: Path, name: str) -> None:
    """They would pass as one text of markup. Asked for as text, they are texts."""
    content, problem = OTHER_FORMATS[name]
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    paths = RunPaths(root=str(tmp_path / "run"))
    with pytest.raises(SourceError, match=rf"{name}.*{problem}"):
        documents.plan(DocumentsConfig(inputs=(str(path),)), paths)
    counters = run_plan(
        documents.plan(DocumentsConfig(inputs=(str(path),), format="text"), paths), paths
    ).counters
    assert counters["rows_out"] == 1


@pytest.mark.parametrize("name", ["array.json", "corpus.csv"])
def test_the_way_out_that_is_named_works(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(OTHER_FORMATS[name][0])
    paths = RunPaths(root=str(tmp_path / "run"))
    with pytest.raises(SourceError) as caught:
        documents.plan(DocumentsConfig(inputs=(str(path),)), paths)
    command = caught.value.message.partition("for example with ")[2].partition(";  format")[0]
    command = command.partition("; format =")[0]
    command = command.replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, timeout=PATIENCE_S)
    made = str(tmp_path / "corpus.parquet")
    run_plan(documents.plan(DocumentsConfig(inputs=(made,)), paths), paths)
    texts = {row["text"] for row in rows_of(paths, "documents", DOCUMENTS)}
    assert all(text.startswith(("Paris", "Rome")) for text in texts)
    assert texts


TAR = io.BytesIO()
with tarfile.open(fileobj=TAR, mode="w") as archive:
    member = tarfile.TarInfo("a.txt")
    member.size = 6
    archive.addfile(member, io.BytesIO(b"Paris."))

# Content, and part of the message.
MORE_FORMATS = {
    "a.tar": (TAR.getvalue(), "a tar archive"),
    "a.tar.gz": (gzip.compress(TAR.getvalue()), "a tar archive"),
    "twice.gz": (gzip.compress(gzip.compress(b"Paris.")), "inside a compressed one"),
    "strings.json": (b'["Paris.", "Rome."]', "one JSON array"),
    "one.json": (b'["Paris."]', "one JSON array"),
    "long.json": (b'["' + b"Paris. " * 20_000 + b'", "Rome."]', "one JSON array"),
    "empty.json": (b"[]\n", "one JSON array"),
    "objects.json": (b"[\n {}, {}]", "one JSON array"),
    "rows.json": (b'[["a", "Paris."], ["b", "Rome."]]', "one JSON array"),
    "numbers.json": (b"[1, 2, 3]", "one JSON array"),
    "trec": (b"<DOC>\n<DOCNO> 1 </DOCNO>\n<TEXT>Paris.</TEXT>\n</DOC>\n", "TREC"),
    "doc": (b"<doc>\nParis.\n</doc>\n", "<doc> elements"),
    "tei": (b'<TEI xmlns="http://www.tei-c.org/ns/1.0">\n<text>Paris.</text></TEI>', "XML"),
    "rss": (b'<rss version="2.0"><channel><title>T</title></channel></rss>', "XML"),
    "flat": (b"<!-- made by hand -->\n<note>Paris.</note>\n", "XML"),
    "note.rtf": (rb"{\rtf1\ansi Paris.}", "RTF"),
    "web.wet": (b"WARC/1.0\r\nWARC-Type: warcinfo\r\n\r\n", "WARC"),
    "inbox": (b"From a@b.c Thu Jan  1 00:00:00 2026\nFrom: A <a@b.c>\n\nParis.\n", "mbox"),
    "base.db": (b"SQLite format 3\0" + b"\x10\0\x01\x01" * 30, "SQLite"),
    "a.feather": (b"ARROW1\0\0" + b"\xff\xff\xff\xff" * 9, "Arrow"),
    "old.feather": (b"FEA1" + b"\0" * 9, "Feather"),
    "a.pdf": (b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n", "PDF"),
    "wide.txt": ("Paris is in France.".encode("utf-16"), "UTF-16"),
    "little.txt": ("Paris is in France.".encode("utf-16-le"), "UTF-16"),
    "big.txt": ("Paris is in France.".encode("utf-16-be"), "UTF-16"),
}


@pytest.mark.parametrize("name", MORE_FORMATS)
def test_more_formats_are_refused_by_name(tmp_path: Path, name: str) -> None:
    content, problem = MORE_FORMATS[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=rf"{name}.*{problem}"):
        kind_of(str(path))
    assert kind_of(str(path), "text") == "text"


@pytest.mark.parametrize("head", ["id,body\n", '"id";"body"\r\n', "id\tbody\n"])
def test_a_table_is_known_by_the_column_that_is_set(tmp_path: Path, head: str) -> None:
    path = tmp_path / "table"
    path.write_text(f"{head}1,Paris\n")
    config = DocumentsConfig(inputs=(str(path),), text_field="body")
    with pytest.raises(SourceError, match="a table in CSV"):
        documents.plan(config, RunPaths(root=str(tmp_path / "run")))
    assert kind_of(str(path)) == "text"
    path.write_text("id,the body\n1,Paris\n")
    with pytest.raises(SourceError, match="a table in CSV"):
        kind_of(str(path), text_field="the body")


@pytest.mark.parametrize(
    "text",
    [
        "[1] A note.",
        "Text, in short, is\nthis.",
        "[[link]] text",
        "a, b, text",
        "[1, 2] say so.",
        '[["Heroes"]] is a song.',
        '["Well"] he said',
        "<p align=center><img src=x></p>\n# Title",
        "<b><i>Paris</i></b> is in France.",
        "<3 you",
        "<name> is a placeholder",
        "From Paris to Rome\nNote: by train",
        "{Paris} is",
        "%PDF is a sign",
        "a\0b",
        "Paris\0 is in France\0.",
        "\0\0\0\0",
        "WARC/1.0 is a format",
    ],
)
def test_texts_that_look_like_other_formats(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text)
    assert kind_of(str(path)) == "text"
