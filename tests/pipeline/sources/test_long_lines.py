"""Lines that are too long: rejects where rows are rejected, errors elsewhere, and never held in memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import DocumentsConfig, KbConfig
from pipeline.documents import stage as documents
from pipeline.engine.tables import RunPaths
from pipeline.engine.tasks import ByteRange
from pipeline.index.added_file import read_added
from pipeline.kb import stage as kb
from pipeline.kb.indented import read_indented
from pipeline.link.gold import load_gold
from pipeline.sources import SourceError, read_lines
from pipeline.templates.template_file import read_templates
from schemas import REJECTS, bounded_lines
from schemas.errors import TrelmError
from tests.pipeline.cases import ROOT, SAMPLE, in_process
from tests.pipeline.inputs_run import rows_of, run_plan
from trelm_train.evaluate.lama import read_jsonl
from trelm_train.evaluate.text_loss import read_text

LIMIT = 3000
REASON = f"the line is longer than {LIMIT / (1 << 20):g} MB"


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """A bound that a small file exceeds."""
    monkeypatch.setattr(bounded_lines, "MAX_LINE_BYTES", LIMIT)
    return LIMIT


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize("last", [b"\n", b""])
def test_a_long_line_is_passed_over_once(
    tmp_path: Path, limit: int, ending: str, parts: int, last: bytes
) -> None:
    """However the file is cut; the longest line that is allowed is read."""
    short, longest, longer = b"a" * 10 + b"\n", b"b" * limit + b"\n", b"c" * (limit + 1) + b"\n"
    over_chunks = b"d" * 3_000_000 + b"\n"
    content = short + longest + longer + short + over_chunks + longest + longer[:-1] + last
    path = tmp_path / f"lines{ending}"
    path.write_bytes(gzip.compress(content) if ending else content)
    size = path.stat().st_size
    cuts = [size * part // parts for part in range(parts + 1)]
    long: list[tuple[str, str, bytes]] = []
    lines = [
        line
        for low, high in zip(cuts, cuts[1:], strict=False)
        for _, line in read_lines(
            ByteRange(path=str(path), start=low, end=high),
            on_long=lambda position, reason, start: long.append((position, reason, start)),
        )
    ]
    assert lines == [short, longest, short, longest]
    prefix = "0+" if ending else ""
    places = [
        content.index(longer),
        content.index(over_chunks),
        content.rindex(b"\n" + longer[:-1]) + 1,
    ]
    assert long == [
        (f"{prefix}{place}", REASON, letter * 2000)
        for place, letter in zip(places, (b"c", b"d", b"c"), strict=True)
    ]
    with pytest.raises(SourceError, match=r"the line at \S+ is longer than .* one record per line"):
        list(read_lines(ByteRange(path=str(path), start=0, end=size)))


def test_long_lines_of_a_corpus_are_rejects(tmp_path: Path, limit: int) -> None:
    rows = [
        json.dumps({"id": name, "text": "x" * size})
        for name, size in (("1", 9), ("2", 5000), ("3", 2))
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n")
    paths = RunPaths(root=str(tmp_path / "run"))
    config = DocumentsConfig(inputs=(str(tmp_path / "in.jsonl"),))
    manifest = run_plan(documents.plan(config, paths), paths)
    assert manifest.counters == {"rows_in": 3, "rows_out": 2, "rejects": 1}
    (reject,) = rows_of(paths, "documents", REJECTS)
    place = f"{tmp_path / 'in.jsonl'}:{len(rows[0]) + 1}"
    assert (reject["key"], reject["reason"]) == (place, REASON)
    assert rows[1].startswith(reject["payload"][:100])


def test_long_lines_of_a_dump_are_rejects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (SAMPLE / "entities.json").read_bytes().splitlines(keepends=True)
    bound = max(map(len, lines))
    monkeypatch.setattr(bounded_lines, "MAX_LINE_BYTES", bound)
    (tmp_path / "d.json").write_bytes(
        b"".join([*lines[:-1], b'{"id": "Q7", "x": "' + b"y" * bound + b'"}\n', lines[-1]])
    )
    plain, longer = (RunPaths(root=str(tmp_path / name)) for name in ("plain", "longer"))
    whole = run_plan(kb.plan(KbConfig(dumps=(str(SAMPLE / "entities.json"),)), plain), plain)
    with_long = run_plan(kb.plan(KbConfig(dumps=(str(tmp_path / "d.json"),)), longer), longer)
    assert with_long.counters["rows_out"] == whole.counters["rows_out"]
    assert with_long.counters["rows_in"] == whole.counters["rows_in"] + 1
    assert with_long.counters["rejects"] == 1 + whole.counters.get("rejects", 0)
    assert any("is longer than" in row["reason"] for row in rows_of(longer, "kb", REJECTS))


def test_too_many_long_lines_fail_the_stage_as_other_rejects_do(tmp_path: Path, limit: int) -> None:
    (tmp_path / "in.jsonl").write_text(
        '{"id": "1", "text": "a"}\n{"id": "2", "text": "' + "x" * limit + '"}\n'
    )
    done = in_process(
        "documents", "--run", str(tmp_path / "r"), "--input", str(tmp_path / "in.jsonl")
    )
    assert done.returncode == 1
    assert "1 of 2 inputs were rejected" in done.stderr


@pytest.mark.parametrize(
    ("read", "line"),
    [
        (load_gold, b'{"doc_id": "1", "text": "%s", "mentions": []}\n'),
        (read_added, b'{"id": "U1", "label": "%s"}\n'),
        (read_templates, b'{"relation": "P19", "template": "[X] %s [Y] ."}\n'),
        (lambda path: read_jsonl(Path(path)), b'{"sub_label": "%s"}\n'),
        (lambda path: read_text(Path(path)), b"%s\n"),
    ],
)
def test_files_that_are_read_as_a_whole_name_the_line(
    tmp_path: Path, limit: int, read: Callable[[str], object], line: bytes
) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"\n" + line % b"a")
    read(str(tmp_path / "in.jsonl"))
    (tmp_path / "in.jsonl").write_bytes(b"\n" + line % (b"a" * (limit + 1)))
    with pytest.raises(TrelmError, match=r"in.jsonl:2: the line is longer than .* one record"):
        read(str(tmp_path / "in.jsonl"))


def test_an_indented_document_is_read_with_and_without_a_mark(tmp_path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "i.json").write_bytes(mark + b' [\n {\n  "id": "Q1"\n }\n]\n')
        assert [json.loads(record) for record in read_indented(str(tmp_path / "i.json"))] == [
            {"id": "Q1"}
        ]
        (tmp_path / "i.json").write_bytes(mark + b'{\n "id": "Q1"\n}\n')
        assert [json.loads(record) for record in read_indented(str(tmp_path / "i.json"))] == [
            {"id": "Q1"}
        ]


PEAK = """
import resource, sys
from pathlib import Path
from pipeline.config import DocumentsConfig, KbConfig
from pipeline.documents import stage as documents
from pipeline.engine.tables import RunPaths
from pipeline.kb import stage as kb
from pipeline.link.gold import load_gold
from schemas.errors import TrelmError
from tests.pipeline.inputs_run import run_plan
from trelm_train.evaluate.lama import read_jsonl
kind, path, run = sys.argv[1:]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, paths = peak(), RunPaths(root=run)
try:
    if kind == "documents":
        run_plan(documents.plan(DocumentsConfig(inputs=(path,)), paths), paths)
    elif kind == "kb":
        run_plan(kb.plan(KbConfig(dumps=(path,)), paths), paths)
    elif kind == "gold":
        load_gold(path)
    else:
        read_jsonl(Path(path))
except TrelmError as error:
    print(error)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["documents", "kb", "gold", "lama"])
def test_a_line_of_250_mb_takes_little_memory(tmp_path: Path, kind: str) -> None:
    """The bound of the issue is three times its size; all parts of a stage are in it."""
    row = b'{"type": "item", "id": "Q1", "text": "ok", "doc_id": "1", "mentions": []}\n'
    with (tmp_path / "in.jsonl").open("wb") as file:
        file.write(row + b'{"id": "2", "text": "')
        for _ in range(250):
            file.write(b"some words " * 90_909)
        file.write(b'"}\n' + row.replace(b"Q1", b"Q2"))
    assert (tmp_path / "in.jsonl").stat().st_size > 249_000_000
    done = subprocess.run(
        [sys.executable, "-c", PEAK, kind, str(tmp_path / "in.jsonl"), str(tmp_path / "run")],
        check=True, text=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    (tmp_path / "in.jsonl").unlink()
    assert int(done.stdout.splitlines()[-1]) < 3 * 250_000_000


PAGE_PEAK = """
import resource, sys
from pathlib import Path
from pipeline.documents.corpus import read_articles
from pipeline.engine.tasks import ByteRange
path, long = sys.argv[1], []
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
span = ByteRange(path=path, start=0, end=Path(path).stat().st_size)
texts = [page.text for page in read_articles(span, None, on_long=lambda *found: long.append(found[1]))]
print(texts, long)
print(peak() - before)
"""


@pytest.mark.slow
def test_a_page_of_150_mb_is_a_reject_and_is_not_held(tmp_path: Path) -> None:
    """It took 21 times its size."""
    page = (
        b"<page><title>T</title><ns>0</ns><id>1</id><revision><text>%s</text></revision></page>\n"
    )
    start, end = page.split(b"%s")
    with (tmp_path / "p.xml").open("wb") as file:
        file.write(b"<mediawiki>\n" + page % b"ok" + start)
        for _ in range(150):
            file.write(b"some words " * 90_909)
        file.write(end + page % b"too" + b"</mediawiki>\n")
    done = subprocess.run(
        [sys.executable, "-c", PAGE_PEAK, str(tmp_path / "p.xml")],
        check=True, text=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    (tmp_path / "p.xml").unlink()
    found, peak = done.stdout.splitlines()
    assert found == "['ok', 'too'] ['the page is longer than 64 MB']"
    assert int(peak) < 2 * 64_000_000
