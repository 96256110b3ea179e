"""Run the peer of `dump_parse` that is qwikidata: its dump iterator and its entity objects.

It gets help where it fails. It refuses entities of genuine dumps that lack a key (an item without
`aliases`, a qualifier without `datatype`): they are completed, given to it again, and counted. And
it has no number of an entity value without `id`, so numbers are read from its dictionaries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwikidata.entity import WikidataItem, WikidataProperty
from qwikidata.json_dump import WikidataJsonDump

from benchmarks.dump_parse_peers import (
    LANGUAGES,
    Rows,
    TableWriter,
    add_item_rows,
    as_aliases,
    entity_number,
    first_of,
    stated_names,
)
from pipeline.kb.entity_rows import INVERSE_PROPERTY
from pipeline.kb.terms import clean


def qwikidata_loop(out: Path, path: str) -> dict[str, Any]:
    """Make the same rows by qwikidata; count the entities that it refused at first."""
    writer, entities, refused = TableWriter(out), 0, 0
    for entity in WikidataJsonDump(path):
        try:
            _add(entity, writer.rows)
        except (ValueError, KeyError):
            refused += 1
            _complete(entity)
            _add(entity, writer.rows)
        entities += 1
        writer.flush_full()
    writer.close()
    return {"entities": entities, "refused": refused}


def _complete(entity: dict[str, Any]) -> None:
    for key in ("labels", "descriptions", "aliases", "claims", "sitelinks"):
        entity.setdefault(key, {})
    for statement in (
        statement for statements in entity["claims"].values() for statement in statements
    ):
        parts = [statement, *statement.get("references", ())]
        maps = [part[key] for part in parts for key in ("qualifiers", "snaks") if key in part]
        for snak in (snak for found in maps for snaks in found.values() for snak in snaks):
            snak.setdefault("datatype", "")


def _add(entity: dict[str, Any], rows: Rows) -> None:
    is_property = entity["type"] == "property"
    made: Any = WikidataProperty(entity) if is_property else WikidataItem(entity)
    number = int(made.entity_id[1:])
    labels = [(name, "label") for language in LANGUAGES if (name := made.get_label(language))]
    descriptions = [
        (name, "") for language in LANGUAGES if (name := made.get_description(language))
    ]
    label, description = first_of(labels), first_of(descriptions)
    if is_property:
        inverse = _best(made.get_truthy_claim_group(f"P{INVERSE_PROPERTY}"), "property")[1]
        rows["properties"].append((number, label, description, entity.get("datatype", ""), inverse))
        return
    aliases = [alias for language in LANGUAGES for alias in made.get_aliases(language)]
    triples = {pid: _best(group, "item") for pid, group in made.get_truthy_claim_groups().items()}
    num_statements = sum(map(len, entity["claims"].values())) if entity["claims"] else 0
    names = (label, description, clean(made.get_enwiki_title()))
    surfaces = labels + as_aliases(aliases) + stated_names(entity["claims"] or {})
    counted = (made.get_sitelinks(""), num_statements, entity.get("lastrevid"))
    add_item_rows(rows, number, names, surfaces, counted, triples)


def _best(group: Any, kind: str) -> tuple[str, list[int]]:  # noqa: ANN401 - optional package
    rank = group[0].rank if len(group) else "normal"
    data = [claim.mainsnak.datavalue for claim in group]
    entities = [
        value.value for value in data if value is not None and value.datatype == "wikibase-entityid"
    ]
    numbers = [entity_number(value, kind) for value in entities]
    return rank, list(dict.fromkeys(number for number in numbers if number))
