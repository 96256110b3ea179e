"""Query the entities that the report names.

These are the most frequent, a sample of the tail, and those that its search box knows. Costs: one
pass over `entity_frequency` per list; surfaces, pairs and facts are cut to the listed entities
inside DuckDB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

from schemas.stats import BANDS

# The length of both tables of entities.
NUM_TOP = 25
# The most surfaces, companions and facts that are shown of an entity.
PER_ENTITY = 3
# Sentences of an entity that its card quotes, and the characters on either side of the mention.
QUOTES, QUOTE_SIDE = 2, 80
# Documents whose texts are in memory together.
TEXTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class EntityRow:
    """Hold an entity in a table of the report."""

    qid: int
    label: str
    description: str
    num_mentions: int
    num_documents: int
    band: str
    mean_si: float | None
    # Triples whose other end is in the same document.
    num_facts: int


# The columns of EntityRow, for the entities in `chosen`.
_COLUMNS = """
    facts AS (
        SELECT qid, count(*) AS num_facts
        FROM (SELECT subject AS qid FROM fact_support UNION ALL SELECT object FROM fact_support)
        SEMI JOIN chosen USING (qid)
        GROUP BY qid
    )
    SELECT f.qid, coalesce(e.label, ''), coalesce(e.description, ''), f.num_mentions,
           f.num_documents, f.band, s.mean_si, coalesce(t.num_facts, 0)
    FROM chosen f LEFT JOIN entities e USING (qid) LEFT JOIN entity_si s USING (qid)
    LEFT JOIN facts t USING (qid)
"""


def top_entities(connection: duckdb.DuckDBPyConnection) -> list[EntityRow]:
    """Return the most frequent entities."""
    result = connection.execute(
        f"""
        WITH chosen AS (FROM entity_frequency ORDER BY num_mentions DESC, qid LIMIT $limit),
        {_COLUMNS} ORDER BY f.num_mentions DESC, f.qid
        """,
        {"limit": NUM_TOP},
    )
    return [EntityRow(*row) for row in result.fetchall()]


def tail_sample(connection: duckdb.DuckDBPyConnection) -> list[EntityRow]:
    """Return entities of the tail: those with a fact in the text first, then by a hash of their id.

    The sample is the same at every call.
    """
    # A hash of the id mixes the tail without a random number, which would change at every call.
    result = connection.execute(
        f"""
        WITH supported AS (
            SELECT subject AS qid FROM fact_support UNION SELECT object FROM fact_support),
        chosen AS (
            SELECT f.* FROM entity_frequency f LEFT JOIN supported u USING (qid)
            WHERE f.band = 'tail'
            ORDER BY u.qid IS NULL, md5(CAST(f.qid AS VARCHAR)) LIMIT $limit
        ),
        {_COLUMNS} ORDER BY f.num_mentions, f.qid
        """,
        {"limit": NUM_TOP},
    )
    return [EntityRow(*row) for row in result.fetchall()]


def searchable(connection: duckdb.DuckDBPyConnection, limit: int) -> dict[str, Any]:
    """Return columns of the most frequent entities, as compact JSON for the search box.

    A list per entity holds its values one after the other. `surfaces`: text, count, text, count, …;
    `near`: index of the other entity in these columns, shared sentences, …; `facts`: index of the
    property, 1 where this entity is the subject, index of the other entity, shared documents, …;
    `quotes`: text before a mention, the mention, text after it, …

    Args:
        connection: a run.
        limit: the number of entities.
    """
    _create_listed(connection, limit)
    rows = connection.execute("""
        SELECT l.qid, coalesce(e.label, ''), coalesce(e.description, ''), l.band, l.num_mentions,
               l.num_documents, l.num_sentences, round(l.expected_mentions, 1), round(s.mean_si, 4)
        FROM listed l LEFT JOIN entities e USING (qid) LEFT JOIN entity_si s USING (qid)
        ORDER BY l.place
    """).fetchall()

    # The order of the columns in the query.
    names = (
        "qid",
        "label",
        "description",
        "band",
        "mentions",
        "documents",
        "sentences",
        "expected",
        "si",
    )
    columns: dict[str, Any] = {
        name: [row[index] for row in rows] for index, name in enumerate(names)
    }
    # A number instead of a name for each entity: the page has thousands of them.
    columns["band"] = [BANDS.index(band) for band in columns["band"]]

    # Each query gives at most PER_ENTITY rows per entity.
    columns["surfaces"] = _grouped(_surfaces(connection), len(rows))
    columns["near"] = _grouped(_companions(connection), len(rows))
    columns["properties"], facts = _facts(connection)
    columns["facts"] = _grouped(facts, len(rows))
    columns["quotes"] = _grouped(_quotes(connection), len(rows))
    return columns


def _create_listed(connection: duckdb.DuckDBPyConnection, limit: int) -> None:
    """Create the table `listed`: the most frequent entities, with their index as `place`."""
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE listed AS
        SELECT row_number() OVER (ORDER BY num_mentions DESC, qid) - 1 AS place, *
        FROM (FROM entity_frequency ORDER BY num_mentions DESC, qid LIMIT $limit)
        """,
        {"limit": limit},
    )


def _surfaces(connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    """Return rows of index, surface and mentions: the first surfaces of each listed entity."""
    return connection.execute(f"""
        SELECT l.place, s.surface, s.num_mentions
        FROM surface_frequency s JOIN listed l USING (qid)
        QUALIFY row_number() OVER (
            PARTITION BY s.qid ORDER BY s.num_mentions DESC, s.surface
        ) <= {PER_ENTITY}
        ORDER BY l.place, s.num_mentions DESC, s.surface
    """).fetchall()


def _quotes(connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    """Return rows of index, text before, mention and text after: the first sentences of each entity.

    Costs one pass over the texts of the documents. A text is cut here: DuckDB's joins would copy the
    whole of it for every mention.
    """
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE quoted AS
        SELECT l.place, k.doc_id, k.start, k."end", k.sentence_start, s."end" AS sentence_end
        FROM (
            SELECT qid, doc_id, start, "end", sentence_start FROM links SEMI JOIN listed USING (qid)
            QUALIFY row_number() OVER (PARTITION BY qid ORDER BY doc_id, start) <= $quotes
        ) k
        JOIN listed l USING (qid)
        JOIN sentences s ON s.doc_id = k.doc_id AND s.start = k.sentence_start
        """,
        {"quotes": QUOTES},
    )
    mentions: dict[str, list[tuple[int, ...]]] = {}
    for doc_id, *mention in connection.execute(
        'SELECT doc_id, place, start, "end", sentence_start, sentence_end FROM quoted'
    ).fetchall():
        mentions.setdefault(doc_id, []).append(tuple(mention))

    quotes = []
    texts = connection.sql("SELECT doc_id, text FROM documents SEMI JOIN quoted USING (doc_id)")
    # Some documents at a time: all texts may be more than the memory.
    for batch in texts.to_arrow_reader(TEXTS_AT_ONCE):
        for doc_id, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            for place, start, end, sentence_start, sentence_end in mentions[doc_id]:
                before = _cut_start(text[sentence_start:start])
                after = _cut_end(text[end:sentence_end])
                quotes.append(((place, doc_id, start), (place, before, text[start:end], after)))
    return [quote for _, quote in sorted(quotes)]


def _cut_start(text: str) -> str:
    return f"…{text[-QUOTE_SIDE:]}" if len(text) > QUOTE_SIDE else text


def _cut_end(text: str) -> str:
    return f"{text[:QUOTE_SIDE]}…" if len(text) > QUOTE_SIDE else text


def _companions(connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    """Return rows of index, index of a companion and shared sentences.

    Companions are the entities that share the most sentences with an entity. Only listed ones
    count: the search box can lead to no other.
    """
    return connection.execute(f"""
        WITH ends AS (
            SELECT qid_a AS qid, qid_b AS other, num_sentences, npmi FROM cooccurrence
            UNION ALL SELECT qid_b, qid_a, num_sentences, npmi FROM cooccurrence
        )
        SELECT l.place, o.place, b.num_sentences
        FROM ends b JOIN listed l ON l.qid = b.qid JOIN listed o ON o.qid = b.other
        WHERE b.num_sentences > 0
        QUALIFY row_number() OVER (
            PARTITION BY b.qid ORDER BY b.num_sentences DESC, b.npmi DESC, b.other
        ) <= {PER_ENTITY}
        ORDER BY l.place, b.num_sentences DESC, b.npmi DESC, b.other
    """).fetchall()


def _facts(connection: duckdb.DuckDBPyConnection) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the labels of properties, and rows of the facts that most documents support.

    A row has the index of an entity, of a label and of the other entity, and between them whether
    the entity is the subject; then the documents.
    """
    rows = connection.execute(f"""
        WITH ends AS (
            SELECT subject AS qid, predicate, 1 AS is_subject, object AS other, num_sentences,
                num_documents FROM fact_support
            UNION ALL SELECT object, predicate, 0, subject, num_sentences, num_documents
                FROM fact_support
        )
        SELECT l.place, b.predicate, b.is_subject, o.place, b.num_documents
        FROM ends b JOIN listed l ON l.qid = b.qid JOIN listed o ON o.qid = b.other
        QUALIFY row_number() OVER (
            PARTITION BY b.qid
            ORDER BY b.num_documents DESC, b.num_sentences DESC, b.is_subject DESC, b.predicate,
                b.other
        ) <= {PER_ENTITY}
        ORDER BY l.place, b.num_documents DESC, b.num_sentences DESC, b.is_subject DESC,
            b.predicate, b.other
    """).fetchall()

    # Labels are listed once: many facts share a property.
    label_rows = connection.execute(
        "SELECT pid, label FROM properties WHERE label <> ''"
    ).fetchall()
    label_by_pid = dict(label_rows)
    # In the order of their numbers, so that the page is the same at every call.
    pids = sorted({row[1] for row in rows})
    index_by_pid = {pid: index for index, pid in enumerate(pids)}
    labels = [label_by_pid.get(pid, f"P{pid}") for pid in pids]
    return labels, [(row[0], index_by_pid[row[1]], *row[2:]) for row in rows]


def _grouped(rows: list[tuple[Any, ...]], length: int) -> list[list[Any]]:
    """Return a list per entity: the values of its rows, without their first.

    The first value of a row is the entity's index.
    """
    # Flat lists: a list per value would double the size of the page.
    lists: list[list[Any]] = [[] for _ in range(length)]
    for index, *values in rows:
        lists[index] += values
    return lists
