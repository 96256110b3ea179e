"""The entities that the report names: the most frequent, a sample of the tail, and those that its search box knows.

Costs: one pass over `entity_frequency` per list; surfaces, pairs and facts are cut to the listed entities inside DuckDB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

from schemas.stats import BANDS

NUM_TOP = 25
PER_ENTITY = 3  # surfaces, companions and facts shown of each


@dataclass(frozen=True, slots=True)
class EntityRow:
    """An entity in a table of the report."""

    qid: int
    label: str
    description: str
    num_mentions: int
    num_documents: int
    band: str
    mean_si: float | None
    num_facts: int  # triples whose other end is in the same document


_COLUMNS = """
    facts AS (
        SELECT qid, count(*) AS num_facts
        FROM (SELECT subject AS qid FROM fact_support UNION ALL SELECT object FROM fact_support) SEMI JOIN chosen USING (qid)
        GROUP BY qid
    )
    SELECT f.qid, coalesce(e.label, ''), coalesce(e.description, ''), f.num_mentions, f.num_documents, f.band, s.mean_si,
           coalesce(t.num_facts, 0)
    FROM chosen f LEFT JOIN entities e USING (qid) LEFT JOIN entity_si s USING (qid) LEFT JOIN facts t USING (qid)
"""


def top_entities(connection: duckdb.DuckDBPyConnection) -> list[EntityRow]:
    """The most frequent entities."""
    found = connection.execute(
        f"""
        WITH chosen AS (FROM entity_frequency ORDER BY num_mentions DESC, qid LIMIT $limit),
        {_COLUMNS} ORDER BY f.num_mentions DESC, f.qid
        """,
        {"limit": NUM_TOP},
    )
    return [EntityRow(*row) for row in found.fetchall()]


def tail_sample(connection: duckdb.DuckDBPyConnection) -> list[EntityRow]:
    """Entities of the tail, the same at every call: those with a fact in the text first, then by a hash of their id."""
    found = connection.execute(
        f"""
        WITH supported AS (SELECT subject AS qid FROM fact_support UNION SELECT object FROM fact_support),
        chosen AS (
            SELECT f.* FROM entity_frequency f LEFT JOIN supported u USING (qid) WHERE f.band = 'tail'
            ORDER BY u.qid IS NULL, md5(CAST(f.qid AS VARCHAR)) LIMIT $limit
        ),
        {_COLUMNS} ORDER BY f.num_mentions, f.qid
        """,
        {"limit": NUM_TOP},
    )
    return [EntityRow(*row) for row in found.fetchall()]


def searchable(connection: duckdb.DuckDBPyConnection, limit: int) -> dict[str, Any]:
    """Columns of the most frequent entities, as compact as JSON is: what the search box reads.

    `surfaces` holds text, count, text, count, …; `near` place in this list and shared sentences; `facts` place of the
    property, 1 where this entity is the subject, place of the other entity, shared documents.
    """
    _list(connection, limit)
    rows = connection.execute("""
        SELECT l.qid, coalesce(e.label, ''), coalesce(e.description, ''), l.band, l.num_mentions, l.num_documents,
               l.num_sentences, round(l.expected_mentions, 1), round(s.mean_si, 4)
        FROM listed l LEFT JOIN entities e USING (qid) LEFT JOIN entity_si s USING (qid) ORDER BY l.place
    """).fetchall()
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
        name: [row[place] for row in rows] for place, name in enumerate(names)
    }
    columns["band"] = [BANDS.index(band) for band in columns["band"]]
    columns["surfaces"] = _grouped(_surfaces(connection), len(rows))
    columns["near"] = _grouped(_companions(connection), len(rows))
    columns["properties"], facts = _facts(connection)
    columns["facts"] = _grouped(facts, len(rows))
    return columns


def _list(connection: duckdb.DuckDBPyConnection, limit: int) -> None:
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE listed AS
        SELECT row_number() OVER (ORDER BY num_mentions DESC, qid) - 1 AS place, *
        FROM (FROM entity_frequency ORDER BY num_mentions DESC, qid LIMIT $limit)
        """,
        {"limit": limit},
    )


def _surfaces(connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    return connection.execute(f"""
        SELECT l.place, s.surface, s.num_mentions FROM surface_frequency s JOIN listed l USING (qid)
        QUALIFY row_number() OVER (PARTITION BY s.qid ORDER BY s.num_mentions DESC, s.surface) <= {PER_ENTITY}
        ORDER BY l.place, s.num_mentions DESC, s.surface
    """).fetchall()


def _companions(connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    return connection.execute(f"""
        WITH ends AS (
            SELECT qid_a AS qid, qid_b AS other, num_sentences, npmi FROM cooccurrence
            UNION ALL SELECT qid_b, qid_a, num_sentences, npmi FROM cooccurrence
        )
        SELECT l.place, o.place, b.num_sentences
        FROM ends b JOIN listed l ON l.qid = b.qid JOIN listed o ON o.qid = b.other WHERE b.num_sentences > 0
        QUALIFY row_number() OVER (PARTITION BY b.qid ORDER BY b.num_sentences DESC, b.npmi DESC, b.other) <= {PER_ENTITY}
        ORDER BY l.place, b.num_sentences DESC, b.npmi DESC, b.other
    """).fetchall()


def _facts(connection: duckdb.DuckDBPyConnection) -> tuple[list[str], list[tuple[Any, ...]]]:
    found = connection.execute(f"""
        WITH ends AS (
            SELECT subject AS qid, predicate, 1 AS is_subject, object AS other, num_sentences, num_documents FROM fact_support
            UNION ALL SELECT object, predicate, 0, subject, num_sentences, num_documents FROM fact_support
        )
        SELECT l.place, b.predicate, b.is_subject, o.place, b.num_documents
        FROM ends b JOIN listed l ON l.qid = b.qid JOIN listed o ON o.qid = b.other
        QUALIFY row_number() OVER (
            PARTITION BY b.qid ORDER BY b.num_documents DESC, b.num_sentences DESC, b.is_subject DESC, b.predicate, b.other
        ) <= {PER_ENTITY}
        ORDER BY l.place, b.num_documents DESC, b.num_sentences DESC, b.is_subject DESC, b.predicate, b.other
    """).fetchall()
    labels = dict(
        connection.execute("SELECT pid, label FROM properties WHERE label <> ''").fetchall()
    )
    used = sorted({row[1] for row in found})
    places = {pid: place for place, pid in enumerate(used)}
    return [labels.get(pid, f"P{pid}") for pid in used], [
        (row[0], places[row[1]], *row[2:]) for row in found
    ]


def _grouped(rows: list[tuple[Any, ...]], length: int) -> list[list[Any]]:
    """The rest of each row, strung together at the place that its first column names."""
    lists: list[list[Any]] = [[] for _ in range(length)]
    for place, *rest in rows:
        lists[place] += rest
    return lists
