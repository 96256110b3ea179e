"""The `knowledge` table: linked entities, the neighbours their triples name, and the relations, each with a row number.

Built once per run of `shards`, by DuckDB over the tables of `kb` and `stats`. Rows: linked entities by falling frequency, then
neighbours by id, then relations by id. Memory follows the linked entities and their triples.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.config import ShardsConfig
from pipeline.encoder import TextTokenizer
from pipeline.query import add_triples, add_view, connect
from pipeline.storage.tables import RunPaths
from schemas import ENTITIES, ENTITY_FREQUENCY, KNOWLEDGE, PROPERTIES
from schemas.shards import ENTITY, RELATION

MAX_TAILS = 1024  # tails listed per relation as a pool of negatives

# A triple is usable where both ends have a label in the KB and are no pages about pages. Both directions, each once.
USABLE = """
CREATE TEMP TABLE named AS
    SELECT DISTINCT ON (qid) qid, label FROM entities WHERE label <> '' AND NOT is_meta ORDER BY qid;
CREATE TEMP TABLE linked AS
    SELECT f.qid, f.num_mentions, f.band, n.label FROM frequency f JOIN named n USING (qid);
CREATE TEMP VIEW usable AS
    SELECT DISTINCT t.subject, t.predicate, t.object FROM triples t
    JOIN named s ON s.qid = t.subject JOIN named o ON o.qid = t.object
    JOIN (SELECT DISTINCT ON (pid) pid FROM properties WHERE label <> '') p ON p.pid = t.predicate
    WHERE t.subject <> t.object;
CREATE TEMP TABLE facts AS
    SELECT * FROM usable WHERE subject IN (SELECT qid FROM linked) OR object IN (SELECT qid FROM linked);
CREATE TEMP TABLE sides AS
    SELECT * FROM (
        SELECT subject AS qid, predicate, object AS other, true AS is_head FROM facts
        UNION ALL SELECT object, predicate, subject, false FROM facts
    ) WHERE qid IN (SELECT qid FROM linked)
    -- As head before as tail: a country is the tail of thousands of triples that say little of it.
    QUALIFY row_number() OVER (PARTITION BY qid ORDER BY is_head DESC, predicate, other) <= ?
"""

# KC of DKPLM's KLT score: entities within two hops, as far as the upper bound. A neighbour with more neighbours than the
# bound settles it, so hubs are never expanded.
REACH = """
WITH edges AS (SELECT DISTINCT * FROM (
        SELECT subject AS one, object AS other FROM usable UNION ALL SELECT object, subject FROM usable)),
    degrees AS (SELECT one, count(*) AS degree FROM edges GROUP BY one),
    near AS (SELECT e.one, e.other, d.degree FROM edges e JOIN degrees d ON d.one = e.other
        WHERE e.one IN (SELECT qid FROM linked)),
    reached AS (SELECT one, other FROM near
        UNION SELECT n.one, e.other FROM near n JOIN edges e ON e.one = n.other
            WHERE n.degree <= $bound AND e.other <> n.one),
    hubs AS (SELECT one, max(degree) AS degree FROM near GROUP BY one)
SELECT r.one, least($bound, CASE WHEN max(h.degree) > $bound THEN $bound ELSE count(DISTINCT r.other) END)::INTEGER
FROM reached r JOIN hubs h ON h.one = r.one GROUP BY r.one
"""


@dataclass(slots=True)
class Knowledge:
    """Rows of `knowledge` as look-ups, for the units of `shards`."""

    entity_rows: dict[int, int] = field(default_factory=dict)
    frequency: dict[int, int] = field(default_factory=dict)  # by row
    reach: dict[int, int] = field(default_factory=dict)  # by row: neighbours within two hops, up to klt_r_max
    tails: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # head row -> (relation row, tail row)


def build_knowledge(config: ShardsConfig, paths: RunPaths, tokenizer: TextTokenizer) -> tuple[pa.Table, np.ndarray]:
    """All rows of `knowledge`, and of each row the number of entities within two hops (0 without a usable triple)."""
    connection = connect()
    for name, stage, table in (
        ("entities", "kb", ENTITIES),
        ("properties", "kb", PROPERTIES),
        ("frequency", "stats", ENTITY_FREQUENCY),
    ):
        add_view(connection, name, paths.files(stage, table), table)
    add_triples(connection, paths)
    *statements, last = USABLE.split(";")
    for statement in statements:
        connection.execute(statement)
    connection.execute(last, [config.max_triples])
    rows = _rows(connection, tokenizer)
    reach = dict(connection.execute(REACH, {"bound": config.klt_r_max}).fetchall())
    pairs = zip(rows.column("kind").to_pylist(), rows.column("id").to_pylist(), strict=True)
    return rows, np.array([reach.get(number, 0) if kind == ENTITY else 0 for kind, number in pairs], np.uint32)


def _rows(connection: duckdb.DuckDBPyConnection, tokenizer: TextTokenizer) -> pa.Table:
    linked = connection.sql(
        "SELECT qid, num_mentions, band, label FROM linked ORDER BY num_mentions DESC, qid"
    ).fetchall()
    others = connection.sql(
        "SELECT qid, 0, NULL, label FROM named WHERE qid IN (SELECT other FROM sides) "
        "AND qid NOT IN (SELECT qid FROM linked) ORDER BY qid"
    ).fetchall()
    relations = connection.sql(
        "SELECT DISTINCT ON (pid) pid, 0, NULL, label FROM properties WHERE pid IN (SELECT predicate FROM sides) ORDER BY pid"
    ).fetchall()
    everything = [*linked, *others, *relations]
    num_entities = len(linked) + len(others)
    entity_row = {qid: row for row, (qid, *_) in enumerate(everything[:num_entities])}
    relation_row = {pid: row for row, (pid, *_) in enumerate(everything[num_entities:], num_entities)}
    triples = _triples(connection, entity_row, relation_row)
    tails, pools = _tails(connection, entity_row, relation_row)
    count = len(everything)
    frequencies = [row[1] for row in everything]
    return KNOWLEDGE.from_columns(
        {
            "row": np.arange(count, dtype=np.uint32),
            "kind": [ENTITY] * num_entities + [RELATION] * len(relations),
            "id": [row[0] for row in everything],
            "label": [row[3] for row in everything],
            "label_ids": tokenizer.label_ids([row[3] for row in everything]),
            "frequency": frequencies,
            "band": [row[2] for row in everything],
            "bank_row": _bank_rows(frequencies, triples),
            "triple_relation_row": [[relation for relation, _, _ in triples[row]] for row in range(count)],
            "triple_other_row": [[other for _, other, _ in triples[row]] for row in range(count)],
            "triple_is_head": [[is_head for _, _, is_head in triples[row]] for row in range(count)],
            "true_tail_relation_row": [[relation for relation, _ in tails[row]] for row in range(count)],
            "true_tail_tail_row": [[tail for _, tail in tails[row]] for row in range(count)],
            "tail_rows": [pools[row] for row in range(count)],
        }
    )


def _bank_rows(frequencies: list[int], triples: dict[int, list[tuple[int, int, bool]]]) -> list[int | None]:
    """Dense rows for the entities that some policy may inject and that are seen twice or more (no self-note)."""
    rows: list[int | None] = []
    taken = 0
    for row, frequency in enumerate(frequencies):
        has_bank_row = frequency >= 2 and bool(triples[row])
        rows.append(taken if has_bank_row else None)
        taken += has_bank_row
    return rows


def _triples(
    connection: duckdb.DuckDBPyConnection, entity_row: dict[int, int], relation_row: dict[int, int]
) -> dict[int, list[tuple[int, int, bool]]]:
    found: dict[int, list[tuple[int, int, bool]]] = defaultdict(list)
    query = "SELECT qid, predicate, other, is_head FROM sides ORDER BY qid, is_head DESC, predicate, other"
    for qid, predicate, other, is_head in connection.sql(query).fetchall():
        found[entity_row[qid]].append((relation_row[predicate], entity_row[other], is_head))
    return found


def _tails(
    connection: duckdb.DuckDBPyConnection, entity_row: dict[int, int], relation_row: dict[int, int]
) -> tuple[dict[int, list[tuple[int, int]]], dict[int, list[int]]]:
    """True tails of every head, and per relation a pool of its tails; of facts whose three parts have rows."""
    tails: dict[int, list[tuple[int, int]]] = defaultdict(list)
    pools: dict[int, dict[int, None]] = defaultdict(dict)
    for subject, predicate, target in connection.sql("SELECT * FROM facts ORDER BY 1, 2, 3").fetchall():
        head, relation, tail = entity_row.get(subject), relation_row.get(predicate), entity_row.get(target)
        if head is None or relation is None or tail is None:
            continue
        tails[head].append((relation, tail))
        if len(pools[relation]) < MAX_TAILS:
            pools[relation][tail] = None
    return tails, defaultdict(list, {relation: list(pool) for relation, pool in pools.items()})


def load_knowledge(rows: pa.Table, reach: np.ndarray) -> Knowledge:
    """Look-ups of a `knowledge` table."""
    knowledge = Knowledge()
    names = ("row", "kind", "id", "frequency", "true_tail_relation_row", "true_tail_tail_row")
    for row, kind, number, frequency, relations, tails in zip(
        *(rows.column(name).to_pylist() for name in names), strict=True
    ):
        if kind == ENTITY:
            knowledge.entity_rows[number] = row
            knowledge.frequency[row] = frequency
            knowledge.tails[row] = list(zip(relations, tails, strict=True))
            knowledge.reach[row] = int(reach[row])
    return knowledge
