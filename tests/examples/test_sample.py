"""The promises of examples/tiny/README.md."""

import gzip
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

Json = dict[str, Any]

TINY = Path(__file__).parents[2] / "examples" / "tiny"
PROBE_FILES = sorted((TINY / "probes").glob("P*.jsonl"))
XML = "{http://www.mediawiki.org/xml/export-0.11/}"


def read_jsonl(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def entities() -> dict[str, Json]:
    lines = (TINY / "entities.json").read_text(encoding="utf-8").splitlines()
    parsed = [json.loads(line.removesuffix(",")) for line in lines[1:-1]]
    ids = Counter(entity["id"] for entity in parsed)
    assert max(ids.values()) == 1
    return {entity["id"]: entity for entity in parsed}


@pytest.fixture(scope="module")
def documents() -> list[Json]:
    return read_jsonl(TINY / "documents.jsonl")


@pytest.fixture(scope="module")
def gold() -> list[Json]:
    return read_jsonl(TINY / "gold.jsonl")


def statements(entity: Json) -> list[Json]:
    claims = entity["claims"] or {}
    return [statement for same_property in claims.values() for statement in same_property]


def targets(entity: Json) -> set[tuple[str, str]]:
    """(property, item) of every statement that is not deprecated."""
    return {
        (statement["mainsnak"]["property"], f"Q{value['value']['numeric-id']}")
        for statement in statements(entity)
        if (value := statement["mainsnak"].get("datavalue"))
        and value["type"] == "wikibase-entityid"
        if statement["rank"] != "deprecated"
    }


def split(text: str) -> list[str]:
    """Sentences; the points of `D.C.` end none."""
    return re.split(r"(?<=\w\w\.) ", text)


def redirects() -> dict[str, str]:
    """Merged id → id it was merged into, from the two SQL dumps."""
    page_sql, redirect_sql = (
        gzip.decompress((TINY / f"wikidatawiki-{name}.sql.gz").read_bytes()).decode()
        for name in ("page", "redirect")
    )
    titles = dict(re.findall(r"\((\d+),0,'(Q\d+)',1,", page_sql))
    return {
        titles[page]: target for page, target in re.findall(r"\((\d+),0,'(Q\d+)',", redirect_sql)
    }


def test_dump_has_the_shape_of_a_dump(entities: dict[str, Json]) -> None:
    lines = (TINY / "entities.json").read_text(encoding="utf-8").splitlines()

    assert (lines[0], lines[-1]) == ("[", "]")
    assert all(line.endswith("},") for line in lines[1:-2])
    assert lines[-2].endswith("}")
    kinds = Counter(entity["type"] for entity in entities.values())
    assert kinds == {"item": 358, "property": 46}


def test_dump_holds_the_quirks_it_promises(entities: dict[str, Json]) -> None:
    everything = [statement for entity in entities.values() for statement in statements(entity)]
    snaks = [statement["mainsnak"] for statement in everything]

    assert {statement["rank"] for statement in everything} == {"preferred", "normal", "deprecated"}
    assert {snak["snaktype"] for snak in snaks} == {"value", "somevalue", "novalue"}
    assert {snak["datavalue"]["type"] for snak in snaks if "datavalue" in snak} == {
        "wikibase-entityid",
        "time",
        "quantity",
        "string",
        "globecoordinate",
        "monolingualtext",
    }
    assert sum("datatype" not in snak for snak in snaks) == 2
    assert sum(list(entity["labels"]) == ["mul"] for entity in entities.values()) == 9
    for key in ("aliases", "claims", "descriptions", "sitelinks"):
        assert any(entity.get(key) == [] for entity in entities.values()), key


def test_statements_use_declared_properties_and_unique_ids(entities: dict[str, Json]) -> None:
    everything = [statement for entity in entities.values() for statement in statements(entity)]

    assert {statement["mainsnak"]["property"] for statement in everything} <= set(entities)
    assert max(Counter(statement["id"] for statement in everything).values()) == 1


def test_statements_point_into_the_dump_or_to_a_merged_item(entities: dict[str, Json]) -> None:
    merged = redirects()
    outside = {target for entity in entities.values() for _, target in targets(entity)} - set(
        entities
    )
    outside = {target for target in outside if target.replace("Q", "P") not in entities}  # P1696

    assert outside == set(merged) == {f"Q400000000{n}" for n in (1, 2, 3, 4)}
    assert set(merged.values()) <= set(entities)


def test_inverse_properties_are_mutual(entities: dict[str, Json]) -> None:
    inverse = {
        (entity["id"], target.replace("Q", "P"))
        for entity in entities.values()
        for pid, target in targets(entity)
        if pid == "P1696"
    }

    assert ("P36", "P1376") in inverse
    assert {(b, a) for a, b in inverse} == inverse


def test_nearly_every_item_has_a_type_and_a_link(entities: dict[str, Json]) -> None:
    items = [entity for entity in entities.values() if entity["type"] == "item"]

    assert sum("P31" in (item["claims"] or {}) for item in items) >= 300
    assert sum("enwiki" in item["sitelinks"] for item in items) >= 330


@pytest.mark.parametrize(
    ("name", "qids"),
    [
        ("Paris", {"Q90", "Q830149", "Q167646"}),
        ("Jordan", {"Q810", "Q40059"}),
        ("Washington", {"Q23", "Q61", "Q1223"}),
        ("Georgia", {"Q230", "Q1428"}),
        ("Cambridge", {"Q350", "Q49111", "Q35794"}),
        ("London", {"Q84", "Q92561"}),
        ("Amazon", {"Q3783", "Q3884"}),
        ("Mercury", {"Q308", "Q925", "Q1150", "Q15869"}),
        ("Java", {"Q3757", "Q251"}),
        ("Victoria", {"Q2132", "Q36687", "Q9439", "Q5505"}),
    ],
)
def test_names_are_ambiguous(entities: dict[str, Json], name: str, qids: set[str]) -> None:
    named = set()
    for qid, entity in entities.items():
        terms = [
            *entity["labels"].values(),
            *(a for same in (entity["aliases"] or {}).values() for a in same),
        ]
        if qid.startswith("Q") and any(term["value"] == name for term in terms):
            named.add(qid)

    assert qids <= named


def test_documents_are_short_and_not_empty(documents: list[Json]) -> None:
    assert len(documents) == 82
    assert len({document["id"] for document in documents}) == 82
    for document in documents:
        sentences = split(document["text"])
        assert 3 <= len(sentences) <= 10, document["id"]
        assert all(
            len(sentence.split()) >= 3 and sentence.endswith(".") for sentence in sentences
        ), document["id"]
    assert sum(len(split(document["text"])) for document in documents) == 452


def test_gold_covers_the_documents_and_its_offsets_hold(
    documents: list[Json], gold: list[Json], entities: dict[str, Json]
) -> None:
    assert [(row["doc_id"], row["text"]) for row in gold] == [
        (row["id"], row["text"]) for row in documents
    ]
    for row in gold:
        end = 0
        for mention in row["mentions"]:
            surface = row["text"][mention["start"] : mention["end"]]
            assert mention["start"] >= end, "mentions are in order and do not overlap"
            assert surface == surface.strip() != ""
            assert not re.match(r"\w", row["text"][mention["end"] : mention["end"] + 1]), surface
            assert mention["qid"] is None or entities[mention["qid"]]["type"] == "item"
            end = mention["end"]


def test_gold_has_nil_rare_and_frequent_entities(gold: list[Json]) -> None:
    counts = Counter(mention["qid"] for row in gold for mention in row["mentions"])

    assert sum(counts.values()) == 1039
    assert counts.pop(None) == 35
    assert len(counts) == 300
    assert sum(count == 1 for count in counts.values()) >= 50
    assert max(counts.values()) >= 20


def test_every_capitalised_word_inside_a_sentence_is_a_mention(gold: list[Json]) -> None:
    for row in gold:
        text = list(row["text"])
        for mention in row["mentions"]:
            text[mention["start"] : mention["end"]] = "_" * (mention["end"] - mention["start"])
        assert not re.findall(r"(?<!\. )(?<!^)\b[A-Z]\w+", "".join(text)), row["doc_id"]


def test_pages_are_a_mediawiki_export(entities: dict[str, Json]) -> None:
    pages = ET.parse(TINY / "pages.xml").getroot().findall(f"{XML}page")  # our own file
    namespaces = Counter(page.findtext(f"{XML}ns") for page in pages)
    is_redirect = {
        page.findtext(f"{XML}title"): page.find(f"{XML}redirect") is not None for page in pages
    }
    titles = {
        entity["sitelinks"]["enwiki"]["title"]
        for entity in entities.values()
        if "enwiki" in entity.get("sitelinks", {})
    }
    links = [
        link
        for page in pages
        for link in re.findall(r"\[\[([^\]|#]+)", page.findtext(f"{XML}revision/{XML}text", ""))
        if page.findtext(f"{XML}ns") == "0"
    ]

    assert namespaces == {"0": 17, "14": 1, "1": 1}
    assert sum(is_redirect.values()) == 3
    assert len(links) == 104
    unresolved = (
        set(links) - titles - {title for title, redirect in is_redirect.items() if redirect}
    )
    assert unresolved == {
        "Category:Capitals in Europe",
        "Category:Towns in Texas",
        "Link",
        "Nether Sallowick",
    } | {"File:Invented picture of a river.jpg"}


def test_relations_name_the_probe_files(entities: dict[str, Json]) -> None:
    relations = read_jsonl(TINY / "probes" / "relations.jsonl")

    assert {relation["relation"] for relation in relations} == {path.stem for path in PROBE_FILES}
    for relation in relations:
        assert relation["template"].count("[X]") == relation["template"].count("[Y]") == 1
        assert relation["type"] in {"1-1", "N-1", "N-M"}
        assert relation["label"] == entities[relation["relation"]]["labels"]["en"]["value"]


@pytest.mark.parametrize("path", PROBE_FILES, ids=lambda path: path.stem)
def test_probes_are_facts_of_the_dump_with_common_single_words(
    path: Path, entities: dict[str, Json], documents: list[Json]
) -> None:
    words = Counter(word for row in documents for word in re.findall(r"\w+", row["text"].lower()))
    merged = redirects()
    facts = read_jsonl(path)

    assert facts
    for fact in facts:
        claimed = {
            (pid, merged.get(target, target)) for pid, target in targets(entities[fact["sub_uri"]])
        }
        assert (path.stem, fact["obj_uri"]) in claimed, fact
        assert fact["obj_uri"] in entities
        assert words[fact["obj_label"]] >= 3, fact


def test_probes_are_enough_and_unique() -> None:
    facts = [fact for path in PROBE_FILES for fact in read_jsonl(path)]

    assert len(facts) == 329
    assert len({fact["uuid"] for fact in facts}) == len(facts)
