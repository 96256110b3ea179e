"""Names that statements give: whose ranks and languages count, and values of shapes that no name
has.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.dump_parse_peers import TABLES, Rows, add_entity
from pipeline.index.alias_index_writer import SEVERAL
from pipeline.index.name_keys import SOURCE_BITS
from pipeline.kb.names import NAME_PROPERTIES, ODD_NAMES
from schemas.kb import ALIAS_SOURCES
from tests.pipeline.kb.test_entity_rows import Json, build, claim, item, rows_of, to


def text(value: Any, language: Any = "en", rank: str = "normal") -> Json:
    """A statement with a monolingual text."""
    return claim(
        {"text": value, "language": language}, "monolingualtext", rank, datatype="monolingualtext"
    )


def string(value: str) -> Json:
    """A statement with a string."""
    return claim(value, "string", datatype="string")


FRANCE = item(
    "Q142",
    claims={
        "P31": [to(6_256)],
        "P1549": [text("French"), text("Français", "fr"), text("Gaul", rank="deprecated"), text("  French ")],
        "P1813": [text("FR"), text("France", "mul"), text("Francia", "es")],
        "P1448": [text("French Republic", rank="preferred"), text("Kingdom of France"), text("République", "fr")],
        "P1449": [text("the Hexagon"), {"mainsnak": {"snaktype": "somevalue"}, "rank": "normal"}],
    },
)  # fmt: skip
GEORGE_SAND = item(
    "Q3816", claims={"P742": [string("George Sand")], "P1559": [text("Aurore Dupin", "fr")]}
)


def named(entity: Json, **rules: Any) -> list[tuple[str, str]]:
    """(surface, source) of an entity, without its label."""
    found = [(row["surface"], row["source"]) for row in rows_of(entity, **rules)["aliases"]]
    return [(surface, source) for surface, source in found if source != "label"]


@pytest.mark.parametrize("statements", [False, True])
def test_best_rank_names_in_the_languages_kept(*, statements: bool) -> None:
    names = [("French", "demonym"), ("FR", "name"), ("France", "name"), ("French Republic", "name")]
    assert named(FRANCE, statements=statements) == [*names, ("the Hexagon", "name")]
    assert named(GEORGE_SAND, statements=statements) == [("George Sand", "name")]
    more = named(FRANCE, statements=statements, languages=("fr",))
    assert [name for name in more if name not in named(FRANCE)] == [
        ("Français", "demonym")
    ]  # République: not the best
    assert named(GEORGE_SAND, statements=statements, languages=("fr",))[1:] == [
        ("Aurore Dupin", "name")
    ]


def test_a_name_that_is_the_label_or_the_title_too_is_listed_under_each_source() -> None:
    entity = item(
        claims={"P1448": [text("label of Q1")]}, sitelinks={"enwiki": {"title": "label of Q1"}}
    )
    found = [(row["surface"], row["source"]) for row in rows_of(entity)["aliases"]]
    assert found == [("label of Q1", source) for source in ("label", "title", "name")]


def test_names_that_cannot_be_searched_for_are_dropped() -> None:
    entity = item(claims={"P1813": [text("\u200f\u00a0"), text("x" * 251), text("ok")]})
    rows, _, builder = build([json.dumps(entity).encode()])
    assert [row["surface"] for row in rows["aliases"]] == ["label of Q1", "ok"]
    assert builder.counts == {"names_dropped": 2}


ODD = [
    claim(5, "monolingualtext"), claim([1], "monolingualtext"), claim(None, "string"), claim({}, "monolingualtext"),
    claim({"text": "no language"}, "monolingualtext"), claim({"language": "en"}, "monolingualtext"), text(5), text(None),
    text("x", ["en"]), to(5), {"mainsnak": {"datavalue": {"error": "bad"}}}, {"mainsnak": {}},
]  # fmt: skip


@pytest.mark.parametrize("statements", [False, True])
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: json.dumps(odd["mainsnak"].get("datavalue")))
def test_values_of_odd_shapes_are_counted_and_lose_nothing_else(
    odd: Json, *, statements: bool
) -> None:
    entity = item(
        claims={"P1549": [odd, text("French")], "P742": [string("Voltaire")], "P31": [to(7)]}
    )
    rows, _, builder = build([json.dumps(entity).encode()], statements=statements)
    assert [row["surface"] for row in rows["aliases"][1:]] == ["French", "Voltaire"]
    assert rows["entities"][0]["instance_of"] == [7]
    assert builder.counts[ODD_NAMES] == 1


def test_other_properties_and_properties_themselves_give_no_names() -> None:
    assert named(item(claims={"P1476": [text("a title")], "P1549": []})) == []
    assert rows_of(
        {"id": "P9", "type": "property", "claims": {"P1813": [text("short")]}}
    ).keys() == {"properties"}


@pytest.mark.parametrize("entity", [FRANCE, GEORGE_SAND], ids=lambda entity: entity["id"])
def test_the_benchmark_peers_give_the_same_names(entity: Json) -> None:
    rows: Rows = {table.name: [] for table in TABLES}
    add_entity(entity, rows)
    assert set(rows["aliases"]) == {tuple(row.values()) for row in rows_of(entity)["aliases"]}


def test_every_source_has_a_bit_below_the_mark_of_several_items() -> None:
    assert set(SOURCE_BITS) == set(ALIAS_SOURCES) >= set(NAME_PROPERTIES.values())
    assert sum(SOURCE_BITS.values()) == SEVERAL - 1  # all bits, each once
