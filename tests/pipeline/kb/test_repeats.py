"""Items that the dumps have several times: united, whatever the cuts; another revision adds nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import KbConfig
from pipeline.engine import progress
from pipeline.engine.tables import RunPaths
from pipeline.kb.stage import plan
from schemas import ALIASES, ENTITIES, PROPERTIES, STATEMENTS, TRIPLES
from tests.pipeline.inputs_run import recut, rows_of, run_plan

Json = dict[str, Any]
TABLES = (ENTITIES, ALIASES, PROPERTIES, TRIPLES, STATEMENTS)


def fact(target: str, rank: str = "normal") -> Json:
    value = {"type": "wikibase-entityid", "value": {"entity-type": "item", "id": target}}
    return {"mainsnak": {"snaktype": "value", "datavalue": value}, "rank": rank}


def text(value: str) -> Json:
    snak = {"snaktype": "value", "datavalue": {"type": "string", "value": value}}
    return {"mainsnak": snak, "rank": "normal"}


# Three parts of one item, as three dumps may have them.
FIRST: Json = {
    "id": "Q1",
    "labels": {"en": {"value": "Rhine"}},
    "aliases": {"en": [{"value": "Rhein"}, {"value": "River Rhine"}]},
    "claims": {"P31": [fact("Q4022")], "P17": [fact("Q183"), fact("Q39")], "P18": [text("a.jpg")]},
}
SECOND: Json = {
    "id": "Q1",
    "labels": {"en": {"value": "the Rhine"}},
    "descriptions": {"en": {"value": "river in Europe"}},
    "aliases": {"en": [{"value": "Rhein"}, {"value": "Rhin"}]},
    "sitelinks": {"enwiki": {"title": "Rhine"}, "dewiki": {"title": "Rhein"}},
    "claims": {"P31": [fact("Q355304"), fact("Q4022")], "P18": [text("b.jpg"), text("a.jpg")]},
}
THIRD: Json = {
    "id": "Q1",
    "claims": {"P17": [fact("Q55", "preferred"), fact("Q183")], "P47": [fact("Q2")]},
}
OTHERS: list[Json] = [
    {"id": f"Q{number}", "labels": {"en": {"value": "x" * 40}}} for number in range(100, 130)
]


def run(folder: Path, *dumps: list[Json], parts: int = 1, **options: Any) -> RunPaths:
    folder.mkdir()
    paths, files = RunPaths(root=str(folder / "run")), []
    for number, entities in enumerate(dumps):
        path = folder / f"{number}.jsonl"
        path.write_text("".join(f"{json.dumps(entity)}\n" for entity in entities))
        files.append(str(path))
    config = KbConfig(dumps=tuple(files), statements=True, **options)
    run_plan(recut(plan(config, paths), parts), paths)
    return paths


def of_rhine(paths: RunPaths) -> dict[str, list[Json]]:
    """The rows of Q1 by table."""
    return {
        table.name: [
            row for row in rows_of(paths, "kb", table) if row.get("qid", row.get("subject")) == 1
        ]
        for table in TABLES
    }


@pytest.mark.parametrize("parts", [1, 3, 8])
@pytest.mark.parametrize("in_one_file", [False, True])
def test_an_item_gets_what_any_dump_says(tmp_path: Path, *, parts: int, in_one_file: bool) -> None:
    dumps = [[FIRST, *OTHERS[:9]], [*OTHERS[9:20], SECOND], [THIRD, *OTHERS[20:]]]
    if in_one_file:
        dumps = [[entity for dump in dumps for entity in dump]]
    paths = run(tmp_path / "run", *dumps, parts=parts)
    rows = of_rhine(paths)

    (entity,) = rows["entities"]
    assert entity == {
        "qid": 1,
        "label": "Rhine",  # the first occurrence leads
        "description": "river in Europe",  # and later ones fill what it lacks
        "enwiki_title": "Rhine",
        "num_sitelinks": 2,
        "num_all_sitelinks": 2,
        "num_statements": 4,  # the most that one of them has, and no fewer than there are triples
        "instance_of": [4022, 355304],
        "is_meta": False,
        "revision": None,
    }
    assert sorted((row["surface"], row["source"]) for row in rows["aliases"]) == [
        ("Rhein", "alias"), ("Rhin", "alias"), ("Rhine", "label"), ("Rhine", "title"),
        ("River Rhine", "alias"), ("the Rhine", "label"),
    ]  # fmt: skip
    # Of P17 the best rank of all counts.
    assert sorted((row["predicate"], row["object"], row["rank"]) for row in rows["triples"]) == [
        (17, 55, "preferred"), (31, 4022, "normal"), (31, 355304, "normal"), (47, 2, "normal"),
    ]  # fmt: skip
    pictures = [
        (row["ordinal"], row["text"]) for row in rows["statements"] if row["predicate"] == 18
    ]
    assert sorted(pictures) == [(0, "a.jpg"), (1, "b.jpg")]

    counters = paths.require("kb").counters
    wanted = {
        "rows_in": 33, "rows_out": 31, "skipped_repeated": 2, "items_united": 1,
        "aliases_from_repeats": 3, "triples_from_repeats": 1,
    }  # fmt: skip
    assert {name: counters[name] for name in wanted} == wanted
    # Nothing else changed.
    others = [row["qid"] for row in rows_of(paths, "kb", ENTITIES)]
    assert sorted(others) == [1, *range(100, 130)]


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize(
    ("revisions", "wanted"),
    [
        ((7, 7, 7), {"Rhein", "Rhin"}),  # parts of one state
        ((7, 8, 7), {"Rhein"}),  # a later state: no old names come back with a newer dump
        ((7, None, 8), {"Rhein", "Rhin"}),  # the dump does not say: a part
        ((None, 7, 8), {"Rhein", "Rhin"}),
    ],
)
def test_another_revision_is_another_state(
    tmp_path: Path, parts: int, revisions: tuple[int | None, ...], wanted: set[str]
) -> None:
    entities = [
        entity | ({} if revision is None else {"lastrevid": revision})
        for entity, revision in zip((FIRST, SECOND, THIRD), revisions, strict=True)
    ]
    paths = run(tmp_path / "run", [*entities[:2], *OTHERS, entities[2]], parts=parts)
    rows = of_rhine(paths)
    aliases = {row["surface"] for row in rows["aliases"] if row["source"] == "alias"}
    assert aliases == wanted | {"River Rhine"}
    has_third = revisions[2] == revisions[0] or revisions[0] is None
    assert (47 in {row["predicate"] for row in rows["triples"]}) == has_third
    assert paths.require("kb").counters["rows_out"] == 31


def test_the_same_dump_twice_is_the_dump(tmp_path: Path) -> None:
    content = [FIRST, {"id": "P1", "labels": {"en": {"value": "p"}}}, *OTHERS]
    once, twice = (
        run(tmp_path / "once", content),
        run(tmp_path / "twice", content, content, parts=3),
    )
    for table in TABLES:
        assert rows_of(twice, "kb", table) == rows_of(once, "kb", table), table.name
    assert twice.require("kb").counters["items_united"] == 31


def test_items_are_united_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = [[FIRST, *OTHERS], [*OTHERS, SECOND]]
    whole = run(tmp_path / "whole", *content)
    monkeypatch.setattr("pipeline.kb.repeats.UNITED_AT_ONCE", 4)
    portions = run(tmp_path / "portions", *content, parts=2)
    for table in TABLES:
        assert rows_of(portions, "kb", table) == rows_of(whole, "kb", table), table.name


def test_what_is_left_out_stays_left_out(tmp_path: Path) -> None:
    """Left out by its first occurrence; a later one that would be left out adds nothing."""
    article: Json = {"id": "Q1", "claims": {"P31": [fact("Q13442814")]}}
    for name, content, wanted in (
        ("first", [article, *OTHERS, FIRST], []),
        ("later", [FIRST, article, *OTHERS, article], [4022]),
    ):
        paths = run(tmp_path / name, content, exclude_scholarly=True)
        rows = of_rhine(paths)
        assert [row["object"] for row in rows["triples"] if row["predicate"] == 31] == wanted


def test_progress_counts_a_record_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are written again were counted when they were written first."""
    sent: dict[str, int] = {}

    def send(_self: object, **counts: int) -> None:
        for name, count in counts.items():
            sent[name] = sent.get(name, 0) + count

    monkeypatch.setattr(progress.ProgressSender, "send", send)
    paths = run(tmp_path / "run", [FIRST, *OTHERS], [*OTHERS, SECOND, {"id": "Q0"}])
    counters = paths.require("kb").counters
    assert (
        (sent["records"], sent["rejects"]) == (counters["rows_in"], counters["rejects"]) == (63, 1)
    )
