"""Stage `kb`: the sample's dump, any split, wrong inputs, the kit's genuine dumps."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import KbConfig, RunConfig
from pipeline.engine.beam_runner import RunnerSettings
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.kb.stage import plan
from pipeline.run_stage import run_stage
from pipeline.sources import SourceError
from schemas import ALIASES, ENTITIES, PROPERTIES, REDIRECTS, REJECTS, STATEMENTS, TRIPLES
from schemas.errors import ConfigError
from tests.conftest import SAMPLE
from tests.pipeline.inputs_run import recut, rows_of, run_plan
from tests.pipeline.sources.conftest import gzip_members

DUMP = SAMPLE / "entities.json"
SQL = tuple(str(SAMPLE / f"wikidatawiki-{table}.sql.gz") for table in ("redirect", "page"))
ALL = (ENTITIES, ALIASES, PROPERTIES, TRIPLES, STATEMENTS)


def config(*dumps: Path, **settings: object) -> KbConfig:
    """Configuration with these dumps."""
    return KbConfig(dumps=tuple(map(str, dumps)), **settings)  # type: ignore[arg-type]


def test_sample_through_beam(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    assert run_stage(
        "kb", RunConfig(run=run, kb=config(DUMP, redirects=SQL, statements=True)), RunnerSettings()
    )
    paths = RunPaths(root=run)
    counters = paths.require("kb").counters
    assert counters["rows_in"] == counters["rows_out"] + counters["skipped_namespace"]
    entities = {row["qid"]: row for row in rows_of(paths, "kb", ENTITIES)}
    assert entities[142]["label"] == "France"
    assert sum(row["is_meta"] for row in entities.values()) == 3
    assert {"source": "Q4000000001", "target": "Q142"} in rows_of(paths, "kb", REDIRECTS)
    assert {"surface": "France", "qid": 142, "source": "label", "count": 1} in rows_of(
        paths, "kb", ALIASES
    )
    assert all(entities[row["subject"]] for row in rows_of(paths, "kb", TRIPLES))
    assert rows_of(paths, "kb", REJECTS) == []


def test_any_storage_and_split_gives_the_same_rows(tmp_path: Path) -> None:
    lines = DUMP.read_bytes()
    contents = {
        "d.json": lines,
        "d.gz": gzip_members(lines, [50_000, 1]),
        "d.bz2": bz2.compress(lines, 1),
    }
    found = []
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        for parts in (1, 4):
            paths = RunPaths(root=str(tmp_path / f"{name}-{parts}"))
            manifest = run_plan(recut(plan(config(path, statements=True), paths), parts), paths)
            assert "skipped_repeated" not in manifest.counters
            found.append([rows_of(paths, "kb", table) for table in ALL])
    assert len(found[0][0]) > 150
    assert all(rows == found[0] for rows in found)


def test_gotcha_01_official_gz_form(tmp_path: Path) -> None:
    """Batches in members of their own, and `[`, `,` and `]` between them: a batch's last line has
    no newline.
    """
    entities = [
        line.strip().rstrip(b",") for line in DUMP.read_bytes().splitlines() if len(line) > 3
    ]
    batches = [b",\n".join(entities[low : low + 40]) for low in range(0, len(entities), 40)]
    pieces = [b"[\n", *(piece for batch in batches for piece in (batch, b",\n"))][:-1] + [b"\n]\n"]
    path = tmp_path / "d.json.gz"
    path.write_bytes(b"".join(gzip.compress(piece) for piece in pieces))
    for parts in (1, 2, 9):
        paths = RunPaths(root=str(tmp_path / f"run-{parts}"))
        counters = run_plan(recut(plan(config(path), paths), parts), paths).counters
        assert counters["rows_in"] == counters["rows_out"] == len(entities)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_gotcha_04_repeats_across_units_are_kept_once(tmp_path: Path, parts: int) -> None:
    lines = DUMP.read_bytes().splitlines(keepends=True)
    changed = [
        line.replace(b'"en":{"language":"en","value":"', b'"en":{"language":"en","value":"later ')
        for line in lines
    ]
    assert changed != lines
    whole, again = tmp_path / "a.json", tmp_path / "b.json"
    whole.write_bytes(b"".join(lines))
    again.write_bytes(
        b"".join([b"[\n", *changed[40:120], b'{"id":"Q4000000077"},\n{"id":"Q4000000078",}\n]\n'])
    )
    paths = RunPaths(root=str(tmp_path / "run"))
    counters = run_plan(
        recut(plan(config(whole, again, statements=True), paths), parts), paths
    ).counters
    assert counters["skipped_repeated"] == 80
    assert (
        counters["rows_in"]
        == counters["rows_out"] + counters["skipped_repeated"] + counters["rejects"]
    )
    alone = RunPaths(root=str(tmp_path / "alone"))
    run_plan(plan(config(whole, statements=True), alone), alone)
    for table in ALL:
        kept = [row for row in rows_of(paths, "kb", table) if row.get("qid") != 4_000_000_077]
        if table is ALIASES:
            # The later labels are names too; everything else the items had before.
            later = [row for row in kept if row["surface"].startswith("later ")]
            assert 0 < len(later) <= 80
            assert counters["aliases_from_repeats"] == len(later)
            kept = [row for row in kept if row not in later]
        assert kept == rows_of(alone, "kb", table), table.name
    # The other repeats are properties: of these the first stays.
    assert counters["items_united"] == 67
    assert counters["triples_from_repeats"] == 0
    assert [row["key"].rpartition(":")[0] for row in rows_of(paths, "kb", REJECTS)] == [str(again)]


@pytest.mark.parametrize("parts", [1, 4])
def test_repeats_of_what_is_left_out(tmp_path: Path, parts: int) -> None:
    """The first occurrence is a scholarly article: the later one is a repeat of it, wherever the
    file is cut.
    """
    claim = {"mainsnak": {"datavalue": {"type": "wikibase-entityid", "value": {"id": "Q13442814"}}}}
    first, later = (
        {"id": "Q1", "claims": {"P31": [claim]}},
        {"id": "Q1", "labels": {"en": {"value": "later"}}},
    )
    others = [
        {"id": f"Q{number}", "labels": {"en": {"value": "x" * 50}}} for number in range(2, 30)
    ]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(entity) + "\n" for entity in [first, *others, later, first]))
    paths = RunPaths(root=str(tmp_path / "run"))
    counters = run_plan(
        recut(plan(config(path, exclude_scholarly=True), paths), parts), paths
    ).counters
    wanted = {"rows_in": 31, "rows_out": 28, "skipped_scholarly": 1, "skipped_repeated": 2}
    assert {name: counters[name] for name in wanted} == wanted
    assert [row["qid"] for row in rows_of(paths, "kb", ENTITIES) if row["qid"] == 1] == []


def test_a_bad_last_line_is_no_truncation(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"id":"Q1"}\n{"id":"Q9","labels":7}')
    paths = RunPaths(root=str(tmp_path / "run"))
    assert run_plan(plan(config(path), paths), paths).counters == {
        "rows_in": 2,
        "rows_out": 1,
        "rejects": 1,
    }


@pytest.mark.parametrize("name", ["d.json.bz2", "d.json.gz"])
def test_damage_at_the_start_is_lost_alone_when_asked(tmp_path: Path, name: str) -> None:
    lines = DUMP.read_bytes()
    content = bytearray(
        bz2.compress(lines * 3, 1)
        if name.endswith("bz2")
        else gzip.compress(lines[:20_000]) + gzip.compress(lines[20_000:])
    )
    content[1000] ^= 0x10
    path = tmp_path / name
    path.write_bytes(content)
    paths = RunPaths(root=str(tmp_path / "run"))
    with pytest.raises(SourceError, match="is corrupt"):
        run_plan(plan(config(path), paths), paths)
    counters = run_plan(plan(config(path, skip_corrupt=True), paths), paths).counters
    assert counters["rows_out"] > 100
    assert counters["rejects"] >= 1


def test_bad_entities_become_rejects(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_bytes(b'[\n{"id":"Q1"},\n{"id":"Q2","labels":7},\n{broken,\n{"id":"Q3"}\n]\n')
    paths = RunPaths(root=str(tmp_path / "run"))
    counters = run_plan(plan(config(path), paths), paths).counters
    assert (counters["rows_in"], counters["rows_out"], counters["rejects"]) == (4, 2, 2)
    rejects = {
        row["key"].rpartition(":")[2]: row["reason"] for row in rows_of(paths, "kb", REJECTS)
    }
    assert rejects["39"] == "not JSON in UTF-8"
    assert rejects["15"].startswith("not the shape of an entity")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"", "the file is empty"),
        ("a.json", b"-- MySQL dump", "this is an SQL dump"),
        ("a.json", b"Q1,France", "starts with neither"),
        ("a.json", b"[\n]\n", "no Wikidata item in it"),
        ("a.json", b'{"id":"L1","type":"lexeme"}\n', "no Wikidata item in it"),
    ],
)
def test_wrong_inputs(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    paths = RunPaths(root=str(tmp_path / "run"))
    with pytest.raises(StageError, match=message):
        run_plan(plan(config(path), paths), paths)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_gotcha_19_a_page_instead_of_a_dump(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    """`latest` is missing for days while a dump is made; what comes instead is a page that says so."""
    path = tmp_path / "latest-all.json.gz"
    path.write_bytes(compress(b"\n<!DOCTYPE html><html><title>404 Not Found</title></html>"))
    with pytest.raises(
        SourceError, match=r"this is HTML or XML, not a Wikidata JSON dump \(a failed download\?\)"
    ):
        plan(config(path), RunPaths(root=str(tmp_path / "run")))
    address = KbConfig(dumps=("https://dumps.example/latest-all.json.gz",))
    with pytest.raises(ConfigError, match="download one with a date in its name"):
        plan(address, RunPaths(root=str(tmp_path / "run")))


@pytest.mark.parametrize(
    ("name", "compress", "keep", "message"),
    [
        ("a.json", bytes, 5_000, r"byte 2839: the file ends inside an entity"),
        (
            "a.json.gz",
            gzip.compress,
            10_000,
            "byte 0: the file ends inside the gzip member that starts here",
        ),
        (
            "a.json.bz2",
            bz2.compress,
            10_000,
            "byte 4: the file ends inside the bz2 block that starts here",
        ),
    ],
)
def test_gotcha_20_truncated_files_fail_with_their_offset(
    tmp_path: Path, name: str, compress: Callable[[bytes], bytes], keep: int, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(compress(DUMP.read_bytes())[:keep])
    paths = RunPaths(root=str(tmp_path / "run"))
    with pytest.raises(SourceError, match=message):
        run_plan(plan(config(path), paths), paths)
    assert paths.manifest("kb") is None


def test_missing_inputs(tmp_path: Path) -> None:
    paths = RunPaths(root=str(tmp_path))
    with pytest.raises(ConfigError, match=r"kb\.dumps is empty"):
        plan(config(), paths)
    with pytest.raises(StageError, match="no such file"):
        plan(config(tmp_path / "none.json"), paths)
    with pytest.raises(SourceError, match="without its table 'page'"):
        plan(config(DUMP, redirects=SQL[:1]), paths)
    with pytest.raises(SourceError, match="no SQL dump"):
        plan(config(DUMP, redirects=(str(DUMP),)), paths)


def test_truncated_sql_dump(tmp_path: Path) -> None:
    pages = gzip.decompress(Path(SQL[1]).read_bytes())
    cut = tmp_path / "wikidatawiki-page.sql"
    cut.write_bytes(pages[: len(pages) - 40])
    paths = RunPaths(root=str(tmp_path / "run"))
    with pytest.raises(SourceError, match="an INSERT that does not parse"):
        run_plan(plan(config(DUMP, redirects=(SQL[0], str(cut))), paths), paths)


def test_corrupt_block_is_lost_alone_when_asked(tmp_path: Path) -> None:
    members = [gzip.compress(line, mtime=0) for line in DUMP.read_bytes().splitlines(keepends=True)]
    broken = bytearray(members[50])
    broken[len(broken) // 2] ^= 0x55
    path = tmp_path / "d.json.gz"
    path.write_bytes(b"".join([*members[:50], bytes(broken), *members[51:]]))
    paths = RunPaths(root=str(tmp_path / "run"))
    with pytest.raises(SourceError, match="is corrupt"):
        run_plan(plan(config(path), paths), paths)
    counters = run_plan(plan(config(path, skip_corrupt=True), paths), paths).counters
    assert counters["rejects"] == 1
    assert counters["rows_in"] == counters["rows_out"] + 1
    assert rows_of(paths, "kb", REJECTS)[0]["reason"] == "corrupt block or member"


KIT_DUMPS = {  # entities in the file: items, properties
    "wikibrain-testDump.json.bz2": (400, 1304),
    "qrank-twenty_entities.json.bz2": (20, 0),
    "assembled-subset-A.json.gz": (21_744, 71),
    "wdtk-mock-dump-with-bugs.json": (55, 46),
    "wdtk-mock-dump-for-long-testing.json": (55, 46),
}


@pytest.mark.slow
@pytest.mark.kit
@pytest.mark.parametrize(("name", "counts"), KIT_DUMPS.items())
def test_genuine_dumps(tmp_path: Path, kit: Path, name: str, counts: tuple[int, int]) -> None:
    paths = RunPaths(root=str(tmp_path))
    manifest = run_plan(
        recut(plan(config(kit / "wikidata" / name, statements=True), paths), 3), paths
    )
    assert (manifest.tables["entities"].rows, manifest.tables["properties"].rows) == counts
    assert manifest.counters["rows_in"] == manifest.counters["rows_out"] == sum(counts)
    assert "rejects" not in manifest.counters


@pytest.mark.slow
@pytest.mark.kit
def test_genuine_dump_against_a_plain_reading(tmp_path: Path, kit: Path) -> None:
    """The standard library's JSON and the rules, written once more in the simplest way."""
    path = kit / "wikidata" / "wikibrain-testDump.json.bz2"
    wanted = set()
    for line in bz2.decompress(path.read_bytes()).splitlines():
        entity = json.loads(line.strip().rstrip(b",")) if len(line) > 3 else {}
        for pid, statements in entity.get("claims", {}).items():
            best = "preferred" if any(s["rank"] == "preferred" for s in statements) else "normal"
            for snak in [
                s["mainsnak"]
                for s in statements
                if s["rank"] == best and s["mainsnak"]["snaktype"] == "value"
            ]:
                value = snak["datavalue"]["value"]
                if (
                    snak["datavalue"]["type"] == "wikibase-entityid"
                    and value["entity-type"] == "item"
                ):
                    wanted.add((int(entity["id"][1:]), int(pid[1:]), value["numeric-id"], best))
    paths = RunPaths(root=str(tmp_path))
    run_plan(plan(config(path), paths), paths)
    assert {tuple(row.values()) for row in rows_of(paths, "kb", TRIPLES)} == wanted
