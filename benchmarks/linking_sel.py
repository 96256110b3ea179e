"""Run the package `spacy-entity-linker` as a peer of `linking`, with a database made from our KB
(its own is a download).

Its tables are filled with the same items and names; `views`, by which it ranks, are the triples
that point to an item.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from benchmarks.linking_clock import Clock
from benchmarks.linking_names import read_gold
from benchmarks.linking_spacy import annotate, load, pieces, read_texts, sentences_of
from benchmarks.linking_tables import read_items

NEEDS = (
    "tok2vec",
    "tagger",
    "parser",
    "attribute_ruler",
    "lemmatizer",
)  # it walks the parse and asks for lemmas


def _open(out: Path, run: str) -> None:
    from spacy_entity_linker import DatabaseConnection

    connection = sqlite3.connect(out / "wikidb.db")
    connection.executescript(
        "CREATE TABLE joined (item_id INT PRIMARY KEY, en_label TEXT, en_description TEXT, views INT, inlinks INT);"
        "CREATE TABLE aliases (item_id INT, en_alias TEXT, en_alias_lowercase TEXT);"
        "CREATE TABLE statements (source_item_id INT, edge_property_id INT, target_item_id INT);"
    )
    for item in read_items(run):
        row = (item.qid, item.label, item.description, item.pointed_to, item.pointed_to)
        connection.execute("INSERT INTO joined VALUES (?, ?, ?, ?, ?)", row)
        names = [(item.qid, surface, surface.lower()) for surface in dict.fromkeys(item.surfaces)]
        connection.executemany("INSERT INTO aliases VALUES (?, ?, ?)", names)
    connection.execute("CREATE INDEX by_name ON aliases (en_alias_lowercase)")
    connection.commit()
    controller = object.__new__(
        DatabaseConnection.WikidataQueryController
    )  # its own __init__ downloads
    controller.conn, controller.cache = connection, {"entity": {}, "chain": {}, "name": {}}
    DatabaseConnection.wikidata_instance = controller


def link(out: Path, run: str, texts: str, model: str) -> dict[str, Any]:
    """Link end to end: its own detection (nouns of the parse) and choice."""
    import spacy_entity_linker  # noqa: F401 - registers the component

    _open(out, run)
    nlp = load(model, NEEDS)
    nlp.add_pipe("entityLinker")
    stream = list(pieces(read_texts(texts), "4000"))
    clock, mentions = Clock(), 0
    for doc in annotate(nlp, stream, 64):
        mentions += len(doc._.linkedEntities)
    return {**clock.taken(), "mentions": mentions}


def at_gold_spans(out: Path, run: str, gold: str, model: str) -> dict[str, Any]:
    """Ask for its candidates and its choice at given spans; lines that have a mention are tagged
    first.
    """
    from spacy_entity_linker.EntityClassifier import EntityClassifier
    from spacy_entity_linker.TermCandidate import TermCandidate

    _open(out, run)
    golds, _ = read_gold(gold, read_items(run))
    nlp, choose = (
        load(model, ("tok2vec", "tagger", "attribute_ruler", "lemmatizer")),
        EntityClassifier(),
    )
    sentences, clock, found = sentences_of(gold, golds), Clock(), []
    for doc, (doc_id, offset, _, mentions) in zip(
        annotate(nlp, [s[2] for s in sentences], 64), sentences, strict=True
    ):
        for start, end, _qid in mentions:
            candidates = TermCandidate(
                doc.char_span(start, end, alignment_mode="expand")
            ).get_entity_candidates()
            listed = [entity.get_id() for entity in candidates]
            best = choose(list(candidates)).get_id() if listed else None
            found.append((doc_id, offset + start, offset + end, best, listed))
    return {**clock.taken(), "found": found}
