"""Every oddity of Wikidata's dumps that is known, by name."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter
from typing import Any

import pytest

from pipeline.kb.entity_rows import KbBuilder, KbRules, RecordOutcome, split_objects
from tests.pipeline.kb.scans import HAS_NUMBA, check_scan, compact

Json = dict[str, Any]


def item(qid: str = "Q1", **fields: Any) -> Json:
    """An item with an English label."""
    return {
        "type": "item",
        "id": qid,
        "labels": {"en": {"language": "en", "value": f"label of {qid}"}},
    } | fields


def claim(value: Any, kind: str = "wikibase-entityid", rank: str = "normal", **snak: Any) -> Json:
    """A statement."""
    mainsnak = {
        "snaktype": "value",
        "datavalue": {"type": kind, "value": value},
        "datatype": "wikibase-item",
    } | snak
    return {"mainsnak": mainsnak, "rank": rank, "type": "statement"}


def to(number: int, rank: str = "normal") -> Json:
    """A statement that points to an item."""
    return claim({"entity-type": "item", "numeric-id": number, "id": f"Q{number}"}, rank=rank)


def terms(**values: str) -> Json:
    """Labels or descriptions per language."""
    return {language: {"language": language, "value": value} for language, value in values.items()}


def build(
    lines: list[bytes], **rules: Any
) -> tuple[dict[str, list[Json]], list[RecordOutcome], KbBuilder]:
    """Rows per table, outcomes, and the builder with its counts."""
    builder = KbBuilder(KbRules(**rules))
    outcomes = [outcome for line in lines for outcome in builder.add_line(line)]
    # The scanner must make the same of every case of this file; very long lines it leaves alone.
    if HAS_NUMBA and not builder._rules.statements and sum(map(len, lines)) < 1 << 20:
        check_scan([compact(line) for line in lines], builder._rules)
    return {table.name: rows.to_pylist() for table, rows in builder.take()}, outcomes, builder


def rows_of(*entities: Json, **rules: Any) -> dict[str, list[Json]]:
    """Rows per table of entities that must all be kept."""
    rows, outcomes, _ = build([json.dumps(entity).encode() for entity in entities], **rules)
    assert all(outcome.counter == "rows_out" for outcome in outcomes)
    return rows


def value_of(value: Any, kind: str, **snak: Any) -> Json:
    """The one `statements` row of a value."""
    (row,) = rows_of(item(claims={"P1": [claim(value, kind, **snak)]}), statements=True)[
        "statements"
    ]
    return {name: cell for name, cell in row.items() if cell is not None}


ONE, TWO = json.dumps(item("Q1")).encode(), json.dumps(item("Q2")).encode()


@pytest.mark.parametrize(
    "lines",
    [
        [b"[\n", ONE + b",\n", TWO + b"\n", b"]\n"],  # the official form
        [b"[\n", ONE + b",\n", TWO + b",\n", b"]"],  # a comma too many
        [b"[\n", ONE + b",\n", TWO],  # no end
        [ONE + b"\n", TWO + b"\n"],  # one object per line
        [
            b"\xef\xbb\xbf[" + ONE + b",\r\n",
            b"\r\n",
            TWO + b"]\r\n",
        ],  # joined brackets, Windows lines, a mark
        [ONE + b"," + TWO + b"\n"],  # dump parts joined without a newline
        [b'{"entities": {"Q1": ' + ONE + b', "Q2": ' + TWO + b"}}"],  # Special:EntityData
        [
            b'{ "success": 1, "entities" : {"Q1": ' + ONE + b', "Q2": ' + TWO + b"}}\n"
        ],  # the web API's
        [b'{"entities":{"Q1":' + ONE + b'}}{ "entities":{"Q2":' + TWO + b"}}\n"],
    ],
)
def test_gotcha_01_array_and_line_forms(lines: list[bytes]) -> None:
    rows, outcomes, _ = build(lines)
    assert [row["qid"] for row in rows["entities"]] == [1, 2]
    assert [outcome.counter for outcome in outcomes] == ["rows_out", "rows_out"]


def test_gotcha_02_items_properties_and_what_is_neither() -> None:
    entities = [
        item("Q1"),
        {"type": "property", "id": "P1", "datatype": "time", "labels": terms(en="inception")},
        {
            "type": "lexeme",
            "id": "L1",
            "lemmas": terms(en="run"),
            "forms": [],
            "senses": [],
            "claims": [],
        },
        {"type": "mediainfo", "id": "M5", "labels": {}, "statements": []},
    ]
    rows, outcomes, _ = build([json.dumps(entity).encode() for entity in entities])
    kinds = ["rows_out", "rows_out", "skipped_lexeme", "skipped_mediainfo"]
    assert [outcome.counter for outcome in outcomes] == kinds
    assert rows["properties"] == [
        {"pid": 1, "label": "inception", "description": "", "datatype": "time", "inverse": []}
    ]


def test_inverse_properties() -> None:
    inverse = claim({"entity-type": "property", "numeric-id": 22, "id": "P22"})
    old = claim({"entity-type": "property", "numeric-id": 25})
    (row,) = rows_of(
        {"type": "property", "id": "P40", "claims": {"P1696": [inverse, old, inverse]}}
    )["properties"]
    assert row["inverse"] == [22, 25]
    assert row["label"] == ""


def test_gotcha_03_page_metadata_changes_nothing() -> None:
    metadata = {
        "pageid": 129,
        "ns": 0,
        "title": "Q1",
        "lastrevid": 5,
        "modified": "2025-01-01T00:00:00Z",
    }
    expected = rows_of(item())
    expected["entities"][0]["revision"] = 5
    assert rows_of(item() | metadata) == expected


def test_gotcha_04_order_does_not_matter_and_repeats_are_counted() -> None:
    lines = [
        json.dumps(item(f"Q{number}", claims={"P31": [to(5)]})).encode() for number in range(1, 40)
    ]
    shuffled = lines + lines[:3]
    random.Random(0).shuffle(shuffled)
    rows, outcomes, _ = build(shuffled)
    expected, _, _ = build(lines)
    for table in expected:
        assert sorted(map(str, rows[table])) == sorted(map(str, expected[table]))
    assert Counter(outcome.counter for outcome in outcomes) == {
        "rows_out": 39,
        "skipped_repeated": 3,
    }


@pytest.mark.parametrize("empty", [[], {}, None])
def test_gotcha_05_empty_maps(empty: Any) -> None:
    maps = dict.fromkeys(("labels", "descriptions", "aliases", "claims", "sitelinks"), empty)
    expected = {"qid": 1, "label": "", "description": "", "enwiki_title": None, "num_sitelinks": 0}
    expected |= {"num_all_sitelinks": 0, "revision": None}
    expected |= {"num_statements": 0, "instance_of": [], "is_meta": False}
    assert rows_of(item(**maps)) == {"entities": [expected]}
    assert rows_of({"id": "Q1"}) == {"entities": [expected]}


def test_gotcha_06_somevalue_and_novalue() -> None:
    entity = item(
        claims={
            "P1": [
                {"mainsnak": {"snaktype": kind, "property": "P1"}}
                for kind in ("somevalue", "novalue")
            ]
        }
    )
    rows, _, builder = build([json.dumps(entity).encode()], statements=True)
    assert [(row["snaktype"], row["raw"], row["text"]) for row in rows["statements"]] == [
        ("somevalue", None, None),
        ("novalue", None, None),
    ]
    assert builder.counts == {
        "statements_somevalue": 1,
        "statements_novalue": 1,
        "statements_without_datatype": 2,
    }
    assert rows["entities"][0]["num_statements"] == 2


def test_gotcha_07_missing_datatype_is_kept_and_counted() -> None:
    statement = to(5)
    del statement["mainsnak"]["datatype"]
    rows, _, builder = build([json.dumps(item(claims={"P31": [statement]})).encode()])
    assert rows["triples"] == [{"subject": 1, "predicate": 31, "object": 5, "rank": "normal"}]
    assert builder.counts == {"statements_without_datatype": 1}


@pytest.mark.parametrize(
    ("ranks", "kept"),
    [
        (("normal", "normal"), [(5, "normal"), (6, "normal")]),
        (("normal", "preferred"), [(6, "preferred")]),
        (("deprecated", "normal"), [(6, "normal")]),
        (("deprecated", "deprecated"), []),
    ],
)
def test_gotcha_08_best_rank(ranks: tuple[str, str], kept: list[tuple[int, str]]) -> None:
    rows, _, builder = build(
        [json.dumps(item(claims={"P31": [to(5, ranks[0]), to(6, ranks[1])]})).encode()]
    )
    assert [(row["object"], row["rank"]) for row in rows.get("triples", [])] == kept
    assert rows["entities"][0]["instance_of"] == [qid for qid, _ in kept]
    assert builder.counts["statements_deprecated"] == ranks.count("deprecated")


def test_preferred_novalue_hides_normal_values() -> None:
    novalue = {"mainsnak": {"snaktype": "novalue"}, "rank": "preferred"}
    assert "triples" not in rows_of(item(claims={"P40": [to(5), novalue]}))


def test_equal_triples_are_one() -> None:
    assert len(rows_of(item(claims={"P31": [to(5), to(5)]}))["triples"]) == 1


@pytest.mark.parametrize(
    ("time", "precision", "expected"),
    [
        ("+2019-11-00T00:00:00Z", 10, {"year": 2019, "month": 11}),
        ("+2019-00-00T00:00:00Z", 9, {"year": 2019}),
        ("+2019-01-01T00:00:00Z", 9, {"year": 2019}),  # no month where the precision has none
        ("-0044-03-15T00:00:00Z", 11, {"year": -44, "month": 3, "day": 15}),
        ("-13800000000-00-00T00:00:00Z", 3, {"year": -13_800_000_000}),
        ("+00000002013-02-07T00:00:00Z", 11, {"year": 2013, "month": 2, "day": 7}),
    ],
)
def test_gotcha_09_times(time: str, precision: int, expected: Json) -> None:
    julian = "http://www.wikidata.org/entity/Q1985786"
    value = {
        "time": time,
        "timezone": 0,
        "before": 0,
        "after": 0,
        "precision": precision,
        "calendarmodel": julian,
    }
    row = value_of(value, "time", datatype="time")
    assert {name: row.get(name) for name in ("year", "month", "day")} == dict.fromkeys(
        ("year", "month", "day")
    ) | expected
    assert row["calendar"] == 1_985_786
    assert row["precision"] == precision
    assert "raw" not in row


@pytest.mark.parametrize(
    ("time", "calendar"),
    [
        ("yesterday", "Q1985727"),
        (f"+{'9' * 5000}-01-01T00:00:00Z", "Q1985727"),
        ("+2019-01-01T00:00:00Z", "Q99999999999"),
    ],
)
def test_odd_times_keep_their_json(time: str, calendar: str) -> None:
    value = {
        "time": time,
        "precision": 11,
        "calendarmodel": f"http://www.wikidata.org/entity/{calendar}",
    }
    row = value_of(value, "time")
    assert json.loads(row["raw"]) == value
    assert "year" not in row


def test_gotcha_10_quantities_keep_every_digit() -> None:
    unit = "http://www.wikidata.org/entity/Q11573"
    amount = "+1234567890123456789.000000001000"
    row = value_of({"amount": amount, "unit": unit}, "quantity")
    assert (row["amount"], row["unit"], "raw" in row) == (amount, "Q11573", False)
    bounded = {"amount": "+1", "unit": "1", "upperBound": "+1.50", "lowerBound": "+0.50"}
    row = value_of(bounded, "quantity")
    assert (row["amount"], row["unit"], json.loads(row["raw"])) == ("+1", "1", bounded)


def test_other_values() -> None:
    assert value_of("plain", "string")["text"] == "plain"
    row = value_of({"text": "Bonjour", "language": "fr"}, "monolingualtext")
    assert (row["text"], row["language"]) == ("Bonjour", "fr")
    earth, moon = (
        {"latitude": 1.5, "longitude": -2, "globe": f"http://www.wikidata.org/entity/{g}"}
        for g in ("Q2", "Q405")
    )
    assert value_of(earth, "globecoordinate").get("raw") is None
    assert value_of(earth, "globecoordinate")["latitude"] == 1.5
    assert json.loads(value_of(moon, "globecoordinate")["raw"]) == moon


def test_gotcha_23_unknown_datatypes_pass_through_raw() -> None:
    odd = {"id": "E10", "something": [1, 2]}
    row = value_of(odd, "entity-schema-value", datatype="entity-schema")
    assert json.loads(row["raw"]) == odd
    assert row["datatype"] == "entity-schema"


def test_odd_values_of_the_wrong_shape_lose_no_entity() -> None:
    odd = claim({"id": 5, "numeric-id": "x"}, "something new")
    for statements in (False, True):
        rows = rows_of(item(claims={"P1": [odd], "P31": [to(5)]}), statements=statements)
        assert [row["object"] for row in rows["triples"]] == [5]


def test_odd_values_do_not_crash_without_statements() -> None:
    odd = [
        claim(value, "odd")
        for value in ("text", 1, 1.5, True, [1], {"x": 1}, {"numeric-id": -5}, {"id": "X"}, None)
    ]
    rows = rows_of(item(claims={"P1": [*odd, {"mainsnak": {"datavalue": {"error": "bad"}}}]}))
    assert "triples" not in rows
    assert rows["entities"][0]["num_statements"] == 10


@pytest.mark.parametrize("statements", [False, True])
def test_gotcha_11_entity_values_of_all_ages(*, statements: bool) -> None:
    old, new, future = (
        {"entity-type": "item", "numeric-id": 5},
        {"entity-type": "item", "numeric-id": 6, "id": "Q6"},
        {"id": "Q7"},
    )
    claims = {"P31": [claim(value) for value in (old, new, future)]}
    assert rows_of(item(claims=claims), statements=statements)["entities"][0]["instance_of"] == [
        5,
        6,
        7,
    ]


@pytest.mark.parametrize(
    ("labels", "label"),
    [
        ({"en": "English", "mul": "all"}, "English"),
        ({"mul": "Ada Lovelace", "de": "Ada"}, "Ada Lovelace"),
        ({"en": "\u200e \u00a0", "mul": "Ada"}, "Ada"),  # nothing to read in English
        ({"de": "Wien", "fr": "Vienne"}, "Vienne"),  # asked for: fr, then de
        ({"nl": "Wenen"}, ""),
    ],
)
def test_label_rule(labels: dict[str, str], label: str) -> None:
    assert (
        rows_of(item(labels=terms(**labels)), languages=("fr", "de"))["entities"][0]["label"]
        == label
    )


def test_gotcha_12_mul_alone_is_found_by_default_and_has_no_description() -> None:
    entity = item(
        labels=terms(mul="Ada"), aliases={"mul": [{"language": "mul", "value": "Ada B."}]}
    )
    rows = rows_of(entity, languages=("en",))
    assert (rows["entities"][0]["label"], rows["entities"][0]["description"]) == ("Ada", "")
    assert [(row["surface"], row["source"]) for row in rows["aliases"]] == [
        ("Ada", "label"),
        ("Ada B.", "alias"),
    ]


def test_gotcha_17_aliases_of_all_languages_once_per_source() -> None:
    aliases = {
        "en": [{"value": "NYC"}, {"value": "nyc"}, {"value": "NYC "}],
        "de": [{"value": "Neu York"}],
    }
    entity = item(
        labels=terms(en="New York", mul="New York", de="Neu York", nl="Nieuw York"),
        aliases=aliases,
        sitelinks={"enwiki": {"site": "enwiki", "title": "New York", "badges": ["Q17437796"]}},
    )
    found = [
        (row["surface"], row["source"]) for row in rows_of(entity, languages=("de",))["aliases"]
    ]
    assert found == [
        ("New York", "label"),
        ("Neu York", "label"),
        ("NYC", "alias"),
        ("nyc", "alias"),
        ("Neu York", "alias"),
        ("New York", "title"),
    ]


def test_gotcha_16_names_that_cannot_be_searched_for() -> None:
    names = [
        "\u200f\u00a0",
        "x" * 251,
        "A\u00adB\u200b C\u00a0 D",
        "\U0001f3f4\U000e0067\U000e007f",
    ]
    rows, _, builder = build(
        [json.dumps(item(labels={}, aliases={"en": [{"value": name} for name in names]})).encode()]
    )
    assert [row["surface"] for row in rows["aliases"]] == ["AB C D", names[3]]
    assert builder.counts["names_dropped"] == 2


def test_gotcha_21_surrogate_pairs() -> None:
    line = b'{"id":"Q1","labels":{"en":{"value":"\\ud83c\\uddeb\\ud83c\\uddf7"}}}'
    rows, _, _ = build([line])
    assert rows["entities"][0]["label"] == "\U0001f1eb\U0001f1f7"


def test_gotcha_14_sitelinks_count_wikipedias_only() -> None:
    sites = (
        "enwiki",
        "dewiki",
        "be_x_oldwiki",
        "commonswiki",
        "specieswiki",
        "wikidatawiki",
        "enwikiquote",
        "frwikisource",
    )
    sitelinks = {site: {"site": site, "title": "T", "badges": []} for site in sites}
    (row,) = rows_of(item(sitelinks=sitelinks))["entities"]
    assert (row["num_sitelinks"], row["num_all_sitelinks"], row["enwiki_title"]) == (3, 8, "T")
    (row,) = rows_of(item(sitelinks={"enwiki": {"site": "enwiki", "title": 5}}))["entities"]
    assert (row["num_sitelinks"], row["enwiki_title"]) == (1, None), (
        "a title that is none loses no entity"
    )


@pytest.mark.parametrize("qid", [4_167_410, 4_167_836, 11_266_439, 13_406_463, 22_808_320])
def test_gotcha_15_meta_items_are_flagged(qid: int) -> None:
    assert rows_of(item(claims={"P31": [to(qid)]}))["entities"][0]["is_meta"] is True
    assert rows_of(item(claims={"P31": [to(5)]}))["entities"][0]["is_meta"] is False


def test_scholarly_articles_are_left_out_on_request() -> None:
    line = json.dumps(item(claims={"P31": [to(13_442_814)]})).encode()
    assert build([line])[1] == [RecordOutcome(counter="rows_out")]
    assert build([line], exclude_scholarly=True)[1] == [RecordOutcome(counter="skipped_scholarly")]


def test_gotcha_22_kinds_of_ids_do_not_collide() -> None:
    """Q7, P7 and L7 are three things, wherever they stand."""
    kinds = [("item", "Q7"), ("property", "P7"), ("lexeme", "L7"), ("form", "L7-F1")]
    values = [{"entity-type": kind, "id": id_} for kind, id_ in kinds]
    values.append({"entity-type": "property", "numeric-id": 7})
    rows = rows_of(item("Q7", claims={"P7": [claim(value) for value in values]}), statements=True)
    assert [(row["object"], row["predicate"]) for row in rows["triples"]] == [(7, 7)]
    found = [(row["item"], row["text"]) for row in rows["statements"]]
    assert found == [(7, None), (None, "P7"), (None, "L7"), (None, "L7-F1"), (None, "P7")]


def test_gotcha_22_large_ids_fit_and_larger_are_rejects() -> None:
    assert rows_of(item("Q4199999999"))["entities"][0]["qid"] == 4_199_999_999
    # From 4.2 billion on the numbers are those of a user's own items.
    for bad in ("Q4200000000", "Q4294967296", "Q0", "", "Q1x", "42", "Q9\n", "Q4\u0662"):
        _, (outcome,), _ = build([json.dumps(item() | {"id": bad}).encode()])
        assert (outcome.counter, outcome.reason) == ("rejects", "no entity id that fits 32 bits")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "Q1", "labels": {"en"', "not JSON in UTF-8"),
        (b'{"id": "Q1", "labels": {"en": {"value": "\xff"}}}', "not JSON in UTF-8"),
        (b'{"id": "Q1", "labels": "none"}', "not the shape of an entity: Expected"),
        (b'{"entities": 5}', "not the shape of an entity"),
        (b"<html>", "not JSON in UTF-8"),
    ],
)
def test_bad_records_are_rejects_with_a_reason(line: bytes, reason: str) -> None:
    rows, (outcome,), _ = build([line])
    assert outcome.counter == "rejects"
    assert outcome.reason.startswith(reason)
    assert outcome.record
    assert rows == {}


def test_gotcha_18_very_long_lines() -> None:
    claims = {f"P{number}": [to(target) for target in range(1, 80)] for number in range(1, 400)}
    line = json.dumps(item(claims=claims)).encode()
    assert len(line) > 5_000_000
    tracemalloc.start()
    rows, _, _ = build([line])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows["triples"]) == 79 * 399
    assert peak < 8 * len(line), "rows, and the line once more"


def test_statements_keep_ordinals_and_ranks() -> None:
    claims = {"P1": [claim("a", "string"), to(5), claim("b", "string", rank="deprecated")]}
    rows = rows_of(item(claims=claims), statements=True)["statements"]
    found = [(row["ordinal"], row["text"], row["item"], row["rank"]) for row in rows]
    assert found == [(0, "a", None, "normal"), (1, None, 5, "normal"), (2, "b", None, "deprecated")]


def test_an_id_that_the_api_does_not_know_is_no_entity() -> None:
    line = b'{"entities":{"Q9":{"id":"Q9","missing":""},"Q1":' + ONE + b"}}"
    rows, outcomes, _ = build([line])
    assert [outcome.counter for outcome in outcomes] == ["skipped_missing", "rows_out"]
    assert [row["qid"] for row in rows["entities"]] == [1]


@pytest.mark.parametrize("revision", [-1, 0, 2**63, 2**64, 10**40])
def test_odd_revisions_lose_no_entity(revision: int) -> None:
    assert rows_of(item(lastrevid=revision))["entities"][0]["revision"] is None


def test_deep_nesting_is_one_reject() -> None:
    deep = b'{"id":"Q9","x":' + b"[" * 2000 + b"]" * 2000 + b"}"
    rows, outcomes, _ = build([ONE, deep, TWO])
    assert [outcome.reason for outcome in outcomes] == ["", "nested too deeply", ""]
    assert len(rows["entities"]) == 2


def test_a_novalue_with_a_value_says_nothing() -> None:
    odd = to(5) | {"rank": "preferred"}
    odd["mainsnak"] = odd["mainsnak"] | {"snaktype": "novalue"}
    rows = rows_of(item(claims={"P31": [odd]}), statements=True)
    assert "triples" not in rows
    assert (rows["statements"][0]["item"], rows["statements"][0]["raw"]) == (None, None)


def test_split_objects_gives_up_on_anything_else() -> None:
    assert split_objects(b'{"a":1},{"b":2}') == [b'{"a":1}', b'{"b":2}']
    assert split_objects(b'{"a":1} and') == []
