"""Stages `titles` and `documents`: every kind of corpus, anchors through redirects, wrong inputs,
the kit's articles.
"""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import DocumentsConfig, KbConfig, RunConfig
from pipeline.documents import stage as documents
from pipeline.documents import titles_stage as titles
from pipeline.documents.repeats import repeat_reason
from pipeline.documents.stage import labels_of
from pipeline.documents.titles_stage import TitleMap
from pipeline.engine.beam_runner import RunnerSettings
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.kb import stage as kb
from pipeline.run_stage import run_stage
from pipeline.sources import SourceError
from schemas import ANCHORS, DOCUMENTS, REDIRECTS, REJECTS
from schemas.errors import ConfigError
from tests.conftest import SAMPLE
from tests.pipeline.inputs_run import recut, rows_of, run_plan

SQL = tuple(str(SAMPLE / f"wikidatawiki-{table}.sql.gz") for table in ("redirect", "page"))


def config(*inputs: Path, **settings: object) -> DocumentsConfig:
    """Configuration with these inputs."""
    return DocumentsConfig(inputs=tuple(map(str, inputs)), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def kb_run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A run with the sample's knowledge base and titles."""
    paths = RunPaths(root=str(tmp_path_factory.mktemp("run")))
    run_plan(kb.plan(KbConfig(dumps=(str(SAMPLE / "entities.json"),), redirects=SQL), paths), paths)
    run_plan(titles.plan(config(SAMPLE / "pages.xml"), paths), paths)
    return paths


def test_titles_lead_to_items(kb_run: RunPaths) -> None:
    manifest = kb_run.require("titles")
    assert manifest.counters == {"rows_in": 19, "rows_out": 3, "skipped_page": 16}
    title_map = TitleMap(kb_run.artefact("titles", "titles"))
    assert title_map.find(["Paris", "paris", "No such title"]) == [90, 90, 0]
    for redirect in rows_of(kb_run, "titles", REDIRECTS):
        source, target = title_map.find([redirect["source"], redirect["target"]])
        assert source == target != 0
    assert title_map.find([]) == []


def test_sample_articles(kb_run: RunPaths) -> None:
    plan = documents.plan(config(SAMPLE / "pages.xml"), kb_run)
    manifest = run_plan(plan, kb_run)
    assert manifest.counters["rows_in"] == 19
    assert manifest.counters["rows_out"] == 14
    texts = {row["doc_id"]: row for row in rows_of(kb_run, "documents", DOCUMENTS)}
    anchors = rows_of(kb_run, "documents", ANCHORS)
    assert texts["9000001"]["title"] == "Paris"
    assert texts["9000001"]["source"] == "pages.xml"
    surfaces = {
        (texts[row["doc_id"]]["text"][row["start"] : row["end"]], row["qid"]) for row in anchors
    }
    assert ("France", 142) in surfaces
    assert len(anchors) > 50
    run_plan(recut(plan, 5), kb_run)
    assert rows_of(kb_run, "documents", ANCHORS) == anchors, "the same for any split"


@pytest.mark.slow
def test_documents_and_titles_through_beam(tmp_path: Path) -> None:
    kb_config = KbConfig(dumps=(str(SAMPLE / "entities.json"),))
    run = RunConfig(
        run=str(tmp_path),
        kb=kb_config,
        documents=config(SAMPLE / "pages.xml", SAMPLE / "documents.jsonl"),
    )
    for stage in ("kb", "titles", "documents"):
        assert run_stage(stage, run, RunnerSettings())
        assert not run_stage(stage, run, RunnerSettings()), "up to date"
    paths = RunPaths(root=str(tmp_path))
    wanted = {
        json.loads(line)["id"] for line in (SAMPLE / "documents.jsonl").read_text().splitlines()
    }
    assert wanted < {row["doc_id"] for row in rows_of(paths, "documents", DOCUMENTS)}


def read(
    tmp_path: Path, *inputs: Path, **settings: object
) -> tuple[list[tuple[str, ...]], list[tuple[str, str]]]:
    """Documents and rejects of a corpus without a knowledge base."""
    paths = RunPaths(root=str(tmp_path / "out"))
    manifest = run_plan(documents.plan(config(*inputs, **settings), paths), paths)
    kept = rows_of(paths, "documents", DOCUMENTS)
    rejects = rows_of(paths, "documents", REJECTS)
    skipped = sum(n for name, n in manifest.counters.items() if name.startswith("skipped_"))
    assert manifest.counters["rows_in"] == len(kept) + len(rejects) + skipped
    return [tuple(row.values()) for row in kept], [
        (row["key"].rpartition("/")[2], row["reason"]) for row in rejects
    ]


def counters_of(tmp_path: Path) -> dict[str, int]:
    return RunPaths(root=str(tmp_path / "out")).require("documents").counters


@pytest.mark.parametrize("unit_mb", [64.0, 0.001])
def test_blank_documents_are_skipped(tmp_path: Path, unit_mb: float) -> None:
    """A third of the rows of a published corpus is blank: no reason to fail."""
    blank = ["", " \n", "\u00a0\u3000", "\ufeff", "\0\u200b"]
    texts = [blank[number // 2 % 5] if number % 2 else f"text {number}" for number in range(40)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    kept, rejects = read(tmp_path, path, unit_mb=unit_mb)
    assert (len(kept), rejects) == (20, [])
    assert counters_of(tmp_path)["skipped_empty"] == 20


def test_pages_that_are_no_articles_are_skipped(tmp_path: Path) -> None:
    """Redirects and disambiguation pages; the manifest says which templates were dropped."""
    page = (
        "<page><title>{title}</title><ns>0</ns><id>{number}</id><revision><id>{number}</id>"
        "<model>wikitext</model><text>{text}</text></revision></page>\n"
    )
    contents = [
        "One{{efn|x}} text{{efn|y}}. {{Cite book}}",
        "'''Two''' may mean: [[A]] {{Geodis}}",
        "Three: [[B]], [[C]] {{hndis|Three}}",
        "#REDIRECT [[One]]",
        "Four __DISAMBIG__",
        "Five {{disambiguation needed}} is text.",
        "{{Infobox}}",
    ]
    path = tmp_path / "pages.xml"
    path.write_text(
        "<mediawiki><siteinfo><dbname>enwiki</dbname></siteinfo>\n"
        + "".join(
            page.format(title=f"T{number}", number=number, text=text)
            for number, text in enumerate(contents, 1)
        )
        + "</mediawiki>"
    )
    paths = RunPaths(root=str(tmp_path / "out"))
    run_plan(kb.plan(KbConfig(dumps=(str(SAMPLE / "entities.json"),)), paths), paths)
    for unit_mb in (64.0, 0.0001):
        run_plan(titles.plan(config(path, unit_mb=unit_mb), paths), paths)
        manifest = run_plan(documents.plan(config(path, unit_mb=unit_mb), paths), paths)
        assert manifest.counters["rows_out"] == 2
        assert manifest.counters["skipped_disambiguation"] == 3
        assert manifest.counters["skipped_redirect"] == 1
        assert manifest.counters["skipped_empty"] == 1
        assert json.loads(manifest.extra["dropped_templates"]) == {
            "efn": 2, "cite book": 1, "disambiguation needed": 1, "infobox": 1,
        }  # fmt: skip


def test_text_files(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfFirst.\n\nSecond.\n")
    (folder / "b.v2.txt.bz2").write_bytes(bz2.compress(b"nul\0here"))
    (folder / "c.txt").write_bytes(b"caf\xe9")
    (folder / "d.txt").write_bytes(b"")
    (folder / "e.md").write_bytes(b"  \n")
    kept, rejects = read(tmp_path, folder)
    assert kept == [
        ("a", "", "First.\n\nSecond.\n", "a.txt"),
        ("b.v2", "", "nul\ufffdhere", "b.v2.txt.bz2"),
    ]
    assert rejects == [("c.txt:3", "not UTF-8")]
    assert counters_of(tmp_path)["skipped_empty"] == 2


JSONL = (
    b'{"id": "a", "title": "T", "text": "one", "more": [1]}\n'
    b'{"id": 7, "title": null, "text": "two"}\n'
    b"\n"
    b'{"text": "three"}\n'
    b'{"id": "a", "text": "again"}\n'
    b'{"id": "b"}\n'
    b'{"id": "c", "text": 5.5}\n'
    b'{"id": "d", "text": "\\ud800"}\n'
    b'{"id": "e", "text": "\xff"}\n'
    b'["f"]\n'
    b'{"id": "g", "text": " "}'
)


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_bytes(JSONL)
    kept, rejects = read(tmp_path, path)
    position = JSONL.index(b'{"text": "three"}')
    assert kept == [
        ("7", "", "two", "docs.jsonl"),
        ("a", "T", "one", "docs.jsonl"),
        (f"docs:{position}", "", "three", "docs.jsonl"),
    ]
    reasons = sorted(reason for _, reason in rejects)
    first, again = (JSONL.index(line) for line in (b'{"id": "a"', b'{"id": "a", "text": "again"'))
    repeats = repeat_reason(f"{path}:{again}", f"{path}:{first}")
    assert reasons == sorted(
        [repeats, "no field 'text'"] + ["not a JSON object of UTF-8 strings"] * 4
    )
    assert counters_of(tmp_path)["skipped_empty"] == 1
    kept, _ = read(tmp_path, path, id_field="", text_field="title")
    assert kept == [("docs:0", "T", "T", "docs.jsonl")]


@pytest.mark.parametrize("unit_mb", [64.0, 0.001, 0.0001])
def test_repeated_ids_do_not_depend_on_the_split(tmp_path: Path, unit_mb: float) -> None:
    """The first document of an id stays, whatever unit it is in; the others name both places."""
    link = {"start": 0, "end": 4, "qid": "Q1"}
    places, wanted_rejects = [], []
    for name, numbers in (("a", range(25)), ("b", range(25, 40))):
        path, content = tmp_path / f"{name}.jsonl", b""
        for number in numbers:
            places.append(f"{path}:{len(content)}")
            row = {"id": number % 30, "text": f"text {number}", "links": [link]}
            content += json.dumps(row).encode() + b"\n"
        path.write_bytes(content)
    for number in range(10):
        reason = repeat_reason(places[number + 30], places[number])
        wanted_rejects.append((str(number), reason))

    inputs = (tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    kept, rejects = read(tmp_path, *inputs, unit_mb=unit_mb, links_field="links")
    assert sorted(kept) == sorted(
        (str(n), "", f"text {n}", "a.jsonl" if n < 25 else "b.jsonl") for n in range(30)
    )
    assert sorted(rejects) == sorted(wanted_rejects)
    anchors = rows_of(RunPaths(root=str(tmp_path / "out")), "documents", ANCHORS)
    assert sorted(row["doc_id"] for row in anchors) == sorted(str(n) for n in range(30))


@pytest.mark.parametrize("ending", ["", ".bz2"])
def test_repeated_pages_do_not_depend_on_the_split(tmp_path: Path, ending: str) -> None:
    """Both places are those of the pages: they said p.xml:0 … p.xml:0."""
    pages = [
        f"<page><title>T{number}</title><ns>0</ns><id>{number % 4 + 1}</id><revision><id>9</id>"
        f"<model>wikitext</model><text>text {number}</text></revision></page>"
        for number in range(6)
    ]
    text = "<mediawiki><siteinfo><dbname>enwiki</dbname></siteinfo>\n" + "\n".join(pages)
    path = tmp_path / f"p.xml{ending}"
    content = f"{text}\n</mediawiki>".encode()
    path.write_bytes(bz2.compress(content) if ending else content)
    paths = RunPaths(root=str(tmp_path / "out"))
    run_plan(kb.plan(KbConfig(dumps=(str(SAMPLE / "entities.json"),)), paths), paths)
    prefix = "4+" if ending else ""
    wanted = [
        (
            str(number % 4 + 1),
            repeat_reason(
                *(f"{path}:{prefix}{text.index(pages[at])}" for at in (number, number - 4))
            ),
            f"text {number}",
        )
        for number in (4, 5)
    ]
    for unit_mb in (64.0, 0.0001):
        run_plan(titles.plan(config(path, unit_mb=unit_mb), paths), paths)
        run_plan(documents.plan(config(path, unit_mb=unit_mb), paths), paths)
        rejects = rows_of(paths, "documents", REJECTS)
        assert sorted((row["key"], row["reason"], row["payload"]) for row in rejects) == wanted


def test_jsonl_ids_do_not_depend_on_the_split(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl.bz2"
    path.write_bytes(
        bz2.compress(b"".join(b'{"text": "document %d"}\n' % number for number in range(20_000)), 1)
    )
    paths = RunPaths(root=str(tmp_path / "out"))
    plan = documents.plan(config(path), paths)
    run_plan(plan, paths)
    whole = rows_of(paths, "documents", DOCUMENTS)
    run_plan(recut(plan, 7), paths)
    assert rows_of(paths, "documents", DOCUMENTS) == whole
    assert len(whole) == 20_000


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    rows = {"key": [1, 2, 3, 4], "body": ["one", "two", None, ""], "other": [0.5] * 4}
    pq.write_table(pa.table(rows), path, row_group_size=1)
    kept, rejects = read(tmp_path, path, id_field="key", text_field="body")
    assert kept == [("1", "", "one", "corpus.parquet"), ("2", "", "two", "corpus.parquet")]
    assert [reason for _, reason in rejects] == ["'body' is not a string"]
    assert counters_of(tmp_path)["skipped_empty"] == 1
    plan = documents.plan(
        config(path, text_field="body", unit_mb=0.0001), RunPaths(root=str(tmp_path))
    )
    tasks = plan.phase_named("documents").tasks
    assert [(task.start, task.end) for task in tasks] == [
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 4),
    ]
    paths = RunPaths(root=str(tmp_path / "cut"))
    run_plan(plan, paths)
    assert [row["doc_id"] for row in rows_of(paths, "documents", DOCUMENTS)] == [
        "corpus:0",
        "corpus:1",
    ]
    with pytest.raises(SourceError, match="no column 'text' among key, body, other"):
        documents.plan(config(path), paths)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "the corpus is empty: every file has 0 bytes"),
        (
            "a.jsonl",
            b'{"id": "x"}\n',
            r"the corpus is empty: no document with text \(rejects 1, rows_in 1\)",
        ),
        ("a.html", b"<!DOCTYPE html><p>x", "HTML or XML, not a MediaWiki export"),
        (
            "a.xml",
            b"<mediawiki>\n<page><title>T</title>",
            "stage 'titles' has not finished here; run `trelm-pipeline documents --run",
        ),
    ],
)
def test_wrong_inputs(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / name).write_bytes(content)
    with pytest.raises(StageError, match=message):
        read(tmp_path, *(tmp_path.glob(f"*/{name}")))


def test_missing_inputs(tmp_path: Path) -> None:
    paths = RunPaths(root=str(tmp_path))
    with pytest.raises(ConfigError, match=r"documents\.inputs is empty"):
        documents.plan(config(), paths)
    with pytest.raises(SourceError, match="looks like jsonl, not parquet"):
        documents.plan(config(SAMPLE / "documents.jsonl", format="parquet"), paths)
    with pytest.raises(StageError, match="stage 'kb' has not finished"):
        titles.plan(config(SAMPLE / "pages.xml"), paths)


def test_labels() -> None:
    assert labels_of(["/x/a.jsonl.gz", "/x/b.txt"]) == {"/x/a.jsonl.gz": "a", "/x/b.txt": "b"}
    assert labels_of(["/x/a.txt", "/y/a.txt"]) == {"/x/a.txt": "x/a", "/y/a.txt": "y/a"}
    assert labels_of(["/x/.txt", "/x/a.b"]) == {"/x/.txt": ".txt", "/x/a.b": "a.b"}


@pytest.mark.slow
@pytest.mark.kit
@pytest.mark.parametrize(
    ("export", "pages", "articles", "redirects", "min_anchors"),
    [
        # The rest are disambiguation pages.
        ("enwiki-gensim-106articles.xml.bz2", 206, 98, 99, 8_000),
        ("enwiki-dbpedia-minidump.xml.bz2", 27, 23, 2, 500),
    ],
)
def test_genuine_articles(
    tmp_path: Path,
    kit: Path,
    export: str,
    pages: int,
    articles: int,
    redirects: int,
    min_anchors: int,
) -> None:
    paths = RunPaths(root=str(tmp_path))
    run_plan(
        kb.plan(KbConfig(dumps=(str(kit / "wikidata" / "assembled-subset-A.json.gz"),)), paths),
        paths,
    )
    wiki = config(kit / "text" / export)
    run_plan(recut(titles.plan(wiki, paths), 3), paths)
    counters = run_plan(recut(documents.plan(wiki, paths), 3), paths).counters
    assert (counters["rows_in"], counters["rows_out"], counters["skipped_redirect"]) == (
        pages,
        articles,
        redirects,
    )
    skipped = counters["skipped_redirect"] + counters["skipped_disambiguation"]
    assert pages == articles + skipped + counters.get("skipped_namespace", 0)
    assert "rejects" not in counters
    texts = {row["doc_id"]: row["text"] for row in rows_of(paths, "documents", DOCUMENTS)}
    anchors = rows_of(paths, "documents", ANCHORS)
    assert len(anchors) >= min_anchors
    for row in anchors:
        surface = texts[row["doc_id"]][row["start"] : row["end"]]
        assert surface
        assert surface == surface.strip()
    markup = sum(
        text.count(mark)
        for text in texts.values()
        for mark in ("{{", "}}", "{|", "'''", "<ref", "[[File:")
    )
    assert markup == 0
