"""Build the `knowledge` table.

It holds linked entities, the neighbours that their triples or statements name, and the relations,
each with a row number. It is built once per run of `shards`, by DuckDB over the tables of `kb` and
`stats`, and written some rows at a time. Rows: linked entities by falling frequency, then
neighbours by id, then relations by id. Memory: DuckDB's limit (it spills to disk), one batch of
rows, and 12 bytes per fact between linked entities.
"""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.arrays.runs import offsets_of
from pipeline.config import ShardsConfig
from pipeline.database.connection import add_triples, add_view, connect
from pipeline.encoder.tokenizer import TextTokenizer
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.shards.knowledge_lookup import KnowledgeLookup, make_lookup
from pipeline.shards.policies import PolicyLimits, median_of_counts
from pipeline.shards.statement_rows import FACT_SCHEMA
from pipeline.stats.rare_entities import rare_below
from schemas import (
    DOCUMENTS,
    ENTITIES,
    ENTITY_FREQUENCY,
    FACT_SUPPORT,
    IMPORTANCE,
    KNOWLEDGE,
    PROPERTIES,
)
from schemas.array_types import I64, U32, Array, Ints
from schemas.shards import ENTITY, RELATION, STATEMENT_PREFIX
from schemas.table import list_of

# The result of a query: an array per column.
Columns = dict[str, Array]
# How many tails are listed per relation, as a pool of negatives.
MAX_TAILS = 1024
BATCH_ROWS = 65_536

# A triple is usable where both ends have a label in the KB and are no pages about pages. `sides`
# has each triple in both directions, once each.
USABLE = """
CREATE TEMP TABLE named AS
    SELECT DISTINCT ON (qid) qid, label FROM entities
    WHERE label <> '' AND NOT is_meta ORDER BY qid;
CREATE TEMP TABLE linked AS
    SELECT f.qid, f.num_mentions, f.band, n.label FROM frequency f JOIN named n USING (qid);
CREATE TEMP VIEW usable AS
    SELECT DISTINCT t.subject, t.predicate, t.object FROM triples t
    JOIN named s ON s.qid = t.subject JOIN named o ON o.qid = t.object
    JOIN (SELECT DISTINCT ON (pid) pid FROM properties WHERE label <> '') p ON p.pid = t.predicate
    WHERE t.subject <> t.object;
CREATE TEMP TABLE facts AS
    SELECT * FROM usable
    WHERE subject IN (SELECT qid FROM linked) OR object IN (SELECT qid FROM linked);
CREATE TEMP TABLE sides AS
    SELECT * FROM (
        SELECT subject AS qid, predicate, object AS other, true AS is_head FROM facts
        UNION ALL SELECT object, predicate, subject, false FROM facts
    ) WHERE qid IN (SELECT qid FROM linked)
    -- As head before as tail: a country is the tail of thousands of triples that say little of it.
    QUALIFY row_number() OVER (PARTITION BY qid ORDER BY is_head DESC, predicate, other)
        <= $max_triples
"""

# Facts of rare linked entities that no sentence states; a subject's first five, say, are of as many
# relations as there are. Ends with one name would give the object away.
STATEMENTS = """
CREATE TEMP TABLE statement AS
    WITH unstated AS (
        SELECT f.subject, f.predicate, f.object, row_number()
            OVER (PARTITION BY f.subject, f.predicate ORDER BY f.object) AS nth_object
        FROM facts f JOIN linked s ON s.qid = f.subject JOIN named o ON o.qid = f.object
            ANTI JOIN (SELECT * FROM support WHERE num_sentences > 0) t
                ON t.subject = f.subject AND t.predicate = f.predicate AND t.object = f.object
        WHERE lower(s.label) <> lower(o.label)
            AND CASE WHEN $is_tail THEN s.band = 'tail' ELSE s.num_mentions < $r_freq END)
    SELECT * FROM unstated
    QUALIFY row_number() OVER (PARTITION BY subject ORDER BY nth_object, predicate, object)
        <= $per_entity
"""
NO_STATEMENTS = (
    "CREATE TEMP TABLE statement (subject UINTEGER, predicate UINTEGER, object UINTEGER)"
)
# The rarest subjects first.
STATEMENT_FACTS = """
SELECT s.subject, s.predicate, s.object,
    h.label AS subject_label, r.label AS relation_label, t.label AS object_label,
    h.row AS subject_row, r.row AS relation_row, t.row AS object_row,
    h.num_mentions AS subject_mentions, t.num_mentions AS object_mentions
FROM statement s JOIN numbered h ON h.kind = 0 AND h.id = s.subject
    JOIN numbered r ON r.kind = 2 AND r.id = s.predicate
    JOIN numbered t ON t.kind < 2 AND t.id = s.object
ORDER BY h.num_mentions, s.subject, s.nth_object, s.predicate, s.object
"""

# `numbered` has every row with its number; the tables after it have the elements of the rows'
# lists, by that number.
ROWS = """
CREATE TEMP TABLE numbered AS
    SELECT (row_number() OVER (ORDER BY kind, num_mentions DESC, id) - 1)::UINTEGER AS row, * FROM (
        SELECT 0 AS kind, qid AS id, num_mentions, band, label FROM linked
        UNION ALL SELECT 1, qid, 0, NULL, label FROM named
            WHERE qid IN (SELECT other FROM sides UNION ALL SELECT object FROM statement)
            AND qid NOT IN (SELECT qid FROM linked)
        UNION ALL SELECT DISTINCT ON (pid) 2, pid, 0, NULL, label FROM properties
            WHERE pid IN (SELECT predicate FROM sides UNION ALL SELECT predicate FROM statement)
    ) ORDER BY row;
CREATE TEMP VIEW entity_rows AS SELECT id, row FROM numbered WHERE kind < 2;
CREATE TEMP VIEW relation_rows AS SELECT id, row FROM numbered WHERE kind = 2;
CREATE TEMP TABLE triple AS
    SELECT e.row, r.row AS relation_row, o.row AS other_row, s.is_head, s.other FROM sides s
    JOIN entity_rows e ON e.id = s.qid JOIN relation_rows r ON r.id = s.predicate
    JOIN entity_rows o ON o.id = s.other
    ORDER BY e.row;
CREATE TEMP TABLE true_tail AS
    SELECT h.row, r.row AS relation_row, t.row AS tail_row, f.object, f.subject FROM facts f
    JOIN entity_rows h ON h.id = f.subject JOIN relation_rows r ON r.id = f.predicate
    JOIN entity_rows t ON t.id = f.object
    ORDER BY h.row;
CREATE TEMP TABLE tails AS
    SELECT relation_row AS row, tail_row, first, object FROM (
        SELECT relation_row, tail_row, any_value(object) AS object, min(subject) AS first
        FROM true_tail GROUP BY ALL)
    QUALIFY row_number() OVER (PARTITION BY relation_row ORDER BY first, object) <= $max_tails
"""
BATCH = "row >= $low AND row < $high ORDER BY row"

# KC of DKPLM's KLT score: entities within two hops, as far as the upper bound. An entity that has
# as many neighbours as the bound, or a neighbour with more, has reached it: most have, and only the
# others are expanded.
REACH = """
WITH edges AS (SELECT DISTINCT * FROM (
        SELECT subject AS entity, object AS neighbour FROM usable
        UNION ALL SELECT object, subject FROM usable)),
    degrees AS (SELECT entity, count(*) AS degree FROM edges GROUP BY entity),
    near AS (SELECT e.entity, e.neighbour, d.degree FROM edges e
        JOIN degrees d ON d.entity = e.neighbour
        WHERE e.entity IN (SELECT qid FROM linked)),
    settled AS (SELECT entity FROM near GROUP BY entity
        HAVING max(degree) > $bound OR count(*) >= $bound),
    open AS (SELECT entity, neighbour FROM near
        WHERE entity NOT IN (SELECT entity FROM settled)),
    reached AS (SELECT entity, neighbour FROM open
        UNION SELECT n.entity, e.neighbour FROM open n JOIN edges e ON e.entity = n.neighbour
        WHERE e.neighbour <> n.entity),
    counted AS (SELECT entity, $bound AS reach FROM settled
        UNION ALL SELECT entity, least($bound, count(*)) FROM reached GROUP BY entity)
SELECT e.row, c.reach::UINTEGER AS reach FROM counted c JOIN entity_rows e ON e.id = c.entity
"""
# Rounded as the policies round distances, so that their median is one of them. Of the sample alone:
# it is there whether all mentions are scored or only those that injection needs.
DISTANCES = """
SELECT round(1 - cosine::DOUBLE, 4) AS distance, count(*) AS num FROM importance
WHERE is_sampled GROUP BY ALL
"""


class KnowledgeBuilder:
    """Make all rows of `knowledge`, in order, and the lookup of the units."""

    def __init__(self, config: ShardsConfig, paths: RunPaths, tokenizer: TextTokenizer) -> None:
        """Join, number and sort; no row is made yet."""
        self._config, self._paths, self._tokenizer = config, paths, tokenizer
        self._connection = connect()
        add_view(self._connection, "entities", paths.kb_files(ENTITIES), ENTITIES)
        for name, stage, table in (
            ("properties", "kb", PROPERTIES),
            ("frequency", "stats", ENTITY_FREQUENCY),
            ("importance", "importance", IMPORTANCE),
        ):
            add_view(self._connection, name, paths.files(stage, table), table)
        add_triples(self._connection, paths)

        _execute_all(self._connection, USABLE, {"max_triples": config.max_triples})
        self._choose_statements()
        _execute_all(self._connection, ROWS, {"max_tails": MAX_TAILS})
        self._num_rows, self._num_linked = (self._count(table) for table in ("numbered", "linked"))
        self._num_bank_rows = 0
        # Batches of head rows, relation rows and tail rows.
        self._facts: list[tuple[Array, Array, Array]] = []

    def batches(self) -> Iterator[pa.Table]:
        """Yield the rows of `knowledge`, `BATCH_ROWS` at a time."""
        for low in range(0, self._num_rows, BATCH_ROWS):
            yield self._batch(low, min(low + BATCH_ROWS, self._num_rows))

    def lookup(self) -> KnowledgeLookup:
        """Return the arrays of the linked entities.

        Call it after the last batch, because the batches collect the facts.
        """
        linked = self._fetch("SELECT id, num_mentions FROM numbered WHERE kind = 0 ORDER BY row")
        reached = self._fetch(REACH, bound=self._config.klt_r_max)

        # Entities without a usable triple are not in the result: their reach is 0.
        reach = np.zeros(len(linked["id"]), np.uint32)
        reach[reached["row"]] = reached["reach"]
        return make_lookup(linked["id"], linked["num_mentions"], reach, self._facts)

    def limits(self) -> PolicyLimits:
        """Return the limits of the policies for the whole corpus.

        Raises:
            StageError: mentions were scored, and none of them is in the sample.
        """
        distances = self._fetch(DISTANCES)
        if not len(distances["num"]) and self._count("importance"):
            raise StageError(
                "importance: no scored mention is in the random sample, which gives the median that "
                "policies compare with; set importance.sample higher (20000 is usual)"
            )
        return PolicyLimits(
            r_freq=self._r_freq(),
            median_distance=round(median_of_counts(distances["distance"], distances["num"]), 4),
            klt_r_min=self._config.klt_r_min,
            klt_r_max=self._config.klt_r_max,
        )

    def statement_facts(self) -> pa.Table:
        """Return the facts that become statements as far as there is room, the rarest first.

        Memory: 150 bytes per fact, and the settings bound the facts of an entity.
        """
        if not self._config.statements:
            return FACT_SCHEMA.empty_table()
        # Not execute().to_arrow_table(): its rows come in any order.
        return self._connection.sql(STATEMENT_FACTS).to_arrow_table().cast(FACT_SCHEMA)

    def _choose_statements(self) -> None:
        """Make the table `statement`; without the setting it is empty.

        Raises:
            StageError: a document has an id that only statements may have.
        """
        config, connection = self._config, self._connection
        if not config.statements:
            connection.execute(NO_STATEMENTS)
            return

        add_view(connection, "documents", self._paths.files("documents", DOCUMENTS), DOCUMENTS)
        taken = self._fetch(
            f"SELECT doc_id FROM documents WHERE starts_with(doc_id, '{STATEMENT_PREFIX}') LIMIT 1"
        )["doc_id"]
        if len(taken):
            raise StageError(
                f"documents: the id {taken[0]!r} begins as those of statements do "
                f"({STATEMENT_PREFIX}); give the document another id, or set "
                "shards.statements = false"
            )

        add_view(connection, "support", self._paths.files("stats", FACT_SUPPORT), FACT_SUPPORT)
        values = {
            "is_tail": config.statements_entities == "tail",
            "r_freq": self._r_freq(),
            "per_entity": config.statements_per_entity,
        }
        connection.execute(STATEMENTS, values)

    def _r_freq(self) -> float:
        """Return the number of mentions below which an entity is rare."""
        return rare_below(self._paths, self._config.r_freq)

    def _batch(self, low: int, high: int) -> pa.Table:
        """Return the rows low to high of `knowledge`."""
        bounds = {"low": low, "high": high}
        # Not execute().to_arrow_table(): its rows come in any order.
        query = f"SELECT * FROM numbered WHERE {BATCH}"
        rows = self._connection.sql(query, params=bounds).to_arrow_table()
        triples = self._fetch(
            f"FROM triple WHERE {BATCH}, is_head DESC, relation_row, other", **bounds
        )
        true_tails = self._fetch(f"FROM true_tail WHERE {BATCH}, relation_row, object", **bounds)
        pools = self._fetch(f"FROM tails WHERE {BATCH}, first, object", **bounds)
        self._keep_facts(true_tails)

        # int64 (rows + 1,) each: where the list of a row begins in the columns of the query.
        triple_offsets = _offsets(triples["row"], low, high)
        tail_offsets = _offsets(true_tails["row"], low, high)
        pool_offsets = _offsets(pools["row"], low, high)

        kinds, labels = rows["kind"].to_numpy(), rows["label"].combine_chunks()
        label_ids = self._tokenizer.label_runs(labels.to_pylist())
        columns = {
            "row": rows["row"],
            # Kinds 0 and 1, linked entities and neighbours, are both entities.
            "kind": pa.array([ENTITY, ENTITY, RELATION]).take(pa.array(kinds)),
            "id": rows["id"],
            "label": labels,
            "label_ids": _lists(label_ids.offsets, label_ids.ids, pa.uint32()),
            "frequency": rows["num_mentions"],
            "band": rows["band"],
            "bank_row": self._bank_rows(rows["num_mentions"].to_numpy(), np.diff(triple_offsets)),
            "triple_relation_row": _lists(triple_offsets, triples["relation_row"], pa.uint32()),
            "triple_other_row": _lists(triple_offsets, triples["other_row"], pa.uint32()),
            "triple_is_head": _lists(triple_offsets, triples["is_head"], pa.bool_()),
            "true_tail_relation_row": _lists(tail_offsets, true_tails["relation_row"], pa.uint32()),
            "true_tail_tail_row": _lists(tail_offsets, true_tails["tail_row"], pa.uint32()),
            "tail_rows": _lists(pool_offsets, pools["tail_row"], pa.uint32()),
        }
        return KNOWLEDGE.from_columns(columns)

    def _bank_rows(self, frequencies: Ints, num_triples: I64) -> pa.Array:
        """Return each entity's row in the memory bank; null where it has none.

        Rows are counted without gaps.

        An entity has a row if some policy may inject it and it is seen twice or more: a note from
        its only mention would be of no use.
        """
        has_row = (frequencies >= 2) & (num_triples > 0)
        rows = self._num_bank_rows + np.cumsum(has_row) - 1
        self._num_bank_rows += int(has_row.sum())

        # Not safe: the masked rows may be -1, which no unsigned number can hold.
        return pa.array(rows, pa.uint32(), mask=~has_row, safe=False)

    def _keep_facts(self, tails: Columns) -> None:
        """Keep the facts that an example can have: linked entities at both ends."""
        # Linked entities have the lowest rows.
        is_linked = (tails["row"] < self._num_linked) & (tails["tail_row"] < self._num_linked)
        self._facts.append(
            (
                tails["row"][is_linked],
                tails["relation_row"][is_linked],
                tails["tail_row"][is_linked],
            )
        )

    def _fetch(self, query: str, **values: int) -> Columns:
        """Return the columns of a query."""
        columns: Columns = self._connection.execute(query, values or None).fetchnumpy()
        return columns

    def _count(self, table: str) -> int:
        """Return the number of rows of a table."""
        return int(self._fetch(f"SELECT count(*) AS n FROM {table}")["n"][0])


def _execute_all(
    connection: duckdb.DuckDBPyConnection, script: str, values: dict[str, int]
) -> None:
    """Run a script whose last statement, and no other, has parameters."""
    # DuckDB binds parameters for one statement at a time.
    *statements, last_statement = script.split(";")
    for statement in statements:
        connection.execute(statement)
    connection.execute(last_statement, values)


def _offsets(rows: U32, low: int, high: int) -> I64:
    """Return the offsets of the lists of the rows low to high; `rows` are the elements' rows."""
    return offsets_of(np.bincount(rows.astype(np.int64) - low, minlength=high - low))


def _lists(offsets: I64, values: Array, kind: pa.DataType) -> pa.Array:
    """Return a column of lists: the list of row i is values[offsets[i]:offsets[i + 1]]."""
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(values, kind), type=list_of(kind)
    )
