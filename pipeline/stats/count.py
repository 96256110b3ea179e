"""Count one unit of links: partial counts of entities, surfaces, pairs and facts, by bucket. Exact.

A unit holds whole documents, so document counts of units add up. The counting itself is DuckDB's,
on integers: documents are numbered within the unit. Cost: pairs of a document grow with the square
of its entities, hence the two limits.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.arrays.mapped_files import local_folder
from pipeline.database.connection import working_database
from pipeline.engine import files
from pipeline.engine.spill import spill_folder, write_runs, write_spill
from pipeline.engine.tables import read_batches
from pipeline.engine.units import UnitWriter
from pipeline.stats import pairs
from schemas import LINKS
from schemas.array_types import U64

# Confidences have 5 decimals: as integers their sum is exact in any order.
CONFIDENCE_SCALE = 100_000
LINK_COLUMNS = ("doc_id", "sentence_start", "surface", "qid", "confidence")

# Groups of partial counts: their keys, and the columns that are summed.
KEYS = {
    "entity": ("qid",),
    "surface": ("surface", "qid"),
    "fact": ("subject", "object"),
    "corpus": ("name",),
}
COUNTS = {
    "entity": ("num_mentions", "num_documents", "num_sentences", "confidence"),
    "surface": ("num_mentions",),
    "fact": ("num_sentences", "num_documents"),
    "corpus": ("value",),
}
# Counts are int64.
_KEY_TYPES = {
    "surface": pa.string(),
    "name": pa.string(),
    "qid": pa.uint32(),
    "subject": pa.uint32(),
    "object": pa.uint32(),
}


def partial_schema(group: str) -> pa.Schema:
    """Return the keys and counts of a group's partial tables."""
    names = (*KEYS[group], *COUNTS[group])
    return pa.schema([pa.field(name, _KEY_TYPES.get(name, pa.int64())) for name in names])


# The folder of the triples between linked entities, which the first phase leaves.
FACTS = "facts"
FACT_SCHEMA = pa.schema(
    [pa.field(name, pa.uint32()) for name in ("subject", "predicate", "object")]
)

# Decides a key's bucket, before the remainder: the same on every machine and with every version of
# the engine.
_SURFACE_BUCKET = "md5_number_lower(surface)"

# Counters of what is over a limit, in the order of the query _OVER.
OVER = (
    "sentences_over_pair_limit",
    "documents_over_pair_limit",
    "links_of_documents_over_pair_limit",
)
# Kinds of spilled rows: occurrences of pairs in sentences, and in documents.
NEAR, TOGETHER = "near", "together"
# Mixed numbers: see stats.pairs.
PAIR_SCHEMA = pa.schema([pa.field("pair", pa.uint64())])


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialCounts:
    """Write the partial counts of a unit, by bucket."""

    folder: str
    unit: int
    num_buckets: int

    def write(self, group: str, rows: pa.Table) -> None:
        """Write the rows of a group, each to the bucket that its column `bucket` names."""
        buckets = rows.column("bucket").to_numpy().astype(np.int64)
        counts = rows.drop_columns("bucket").cast(partial_schema(group))
        # Only surfaces are many enough for buckets.
        num_buckets = self.num_buckets if group == "surface" else 1
        write_spill(self.folder, group, self.unit, counts, buckets, num_buckets)

    def write_pairs(self, kind: str, mixed: U64) -> None:
        """Write occurrences of pairs; ascending, they stand in the order of their buckets."""
        rows = pa.table([pa.array(mixed)], schema=PAIR_SCHEMA)
        write_runs(self.folder, kind, self.unit, rows, pairs.bucket_bounds(mixed, self.num_buckets))


@dataclass(frozen=True, kw_only=True, slots=True)
class PairLimits:
    """Hold the most distinct entities that may form pairs.

    A sentence with more gives no pairs, and a document with more gives only those of its sentences.
    """

    sentence: int
    document: int


# Distinct (document, sentence, entity) and (document, entity): all counts are counts of their rows.
_OCCURRENCES = """
CREATE TEMP TABLE in_sentence AS
    SELECT document, sentence, qid, count(*) AS mentions, sum(confidence)::BIGINT AS confidence
    FROM mentions WHERE qid IS NOT NULL GROUP BY ALL;
CREATE TEMP TABLE in_document AS
    SELECT document, qid, sum(mentions)::BIGINT AS mentions, count(*) AS sentences,
        sum(confidence)::BIGINT AS confidence
    FROM in_sentence GROUP BY ALL;
CREATE TEMP TABLE near_facts AS
    SELECT DISTINCT subject, object FROM facts
    WHERE subject IN (SELECT qid FROM in_document) AND object IN (SELECT qid FROM in_document)
        AND subject <> object
"""
_QUERIES = {
    "corpus": """
        SELECT 'num_documents' AS name, count(DISTINCT document) AS value FROM mentions
        UNION ALL SELECT 'num_sentences', count(*)
            FROM (SELECT DISTINCT document, sentence FROM mentions)
        UNION ALL SELECT 'num_mentions', count(*) FROM mentions
        UNION ALL SELECT 'num_linked', count(qid) FROM mentions
    """,
    "entity": """
        SELECT qid, sum(mentions) AS num_mentions, count(*) AS num_documents,
            sum(sentences) AS num_sentences, sum(confidence) AS confidence
        FROM in_document GROUP BY qid
    """,
    "surface": """
        SELECT surface, qid, count(*) AS num_mentions FROM mentions
        WHERE qid IS NOT NULL GROUP BY ALL
    """,
    "fact": """
        WITH found AS (
            SELECT f.subject, f.object, 1 AS sentences, 0 AS documents FROM in_sentence a
            JOIN near_facts f ON f.subject = a.qid
            JOIN in_sentence b
                ON b.document = a.document AND b.sentence = a.sentence AND b.qid = f.object
            UNION ALL SELECT f.subject, f.object, 0, 1 FROM in_document a
            JOIN near_facts f ON f.subject = a.qid
            JOIN in_document b ON b.document = a.document AND b.qid = f.object)
        SELECT subject, object, sum(sentences) AS num_sentences, sum(documents) AS num_documents
        FROM found GROUP BY ALL
    """,
}
# Sentences and documents over a limit, and the mentions in the latter.
_OVER = """
SELECT
    (SELECT count(*) FROM (
        SELECT 1 FROM in_sentence GROUP BY document, sentence HAVING count(*) > $sentence)),
    (SELECT count(*) FROM (
        SELECT 1 FROM in_document GROUP BY document HAVING count(*) > $document)),
    (SELECT coalesce(sum(m), 0)::BIGINT FROM (
        SELECT sum(mentions) AS m FROM in_document GROUP BY document HAVING count(*) > $document))
"""


def write_facts(data: str, batches: pa.RecordBatchReader) -> None:
    """Write the triples between linked entities, whole or not at all. Memory: one batch."""
    folder = files.join(spill_folder(data), FACTS)
    files.make_folder(folder)

    # A killed write leaves a file with another name, which no unit reads.
    sink = files.HashingSink(files.join(folder, f"{uuid.uuid4().hex}.tmp"))
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), FACT_SCHEMA, compression="zstd") as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_batches([batch]).cast(FACT_SCHEMA))
    sink.close()
    path = files.join(folder, "facts.parquet")
    files.rename(sink.path, path)
    files.record(path, sink.num_bytes, sink.sha256())


def add_facts(connection: duckdb.DuckDBPyConnection, data: str) -> None:
    """Add the view `facts`.

    DuckDB reads the file piece by piece, so it may be larger than the memory.
    """
    path = files.join(local_folder(files.join(spill_folder(data), FACTS)), "facts.parquet")
    # The path is quoted by hand, because a view cannot bind parameters.
    quoted = path.replace("'", "''")
    connection.execute(f"CREATE VIEW facts AS SELECT * FROM read_parquet('{quoted}')")


def read_mentions(paths: Sequence[str]) -> pa.Table:
    """Return the mentions of some files of `links`.

    The columns are document (its number among them), sentence, surface, qid, and confidence as an
    integer in units of 1 / CONFIDENCE_SCALE.
    """
    batches = [batch for path in paths for batch in read_batches(path, LINKS, LINK_COLUMNS)]
    fields = [LINKS.schema.field(name) for name in LINK_COLUMNS]
    schema = pa.schema(fields, metadata=LINKS.schema.metadata)
    rows = pa.Table.from_batches([batch.cast(schema) for batch in batches], schema=schema)

    confidence = pc.cast(rows.column("confidence"), pa.float64())
    scaled = pc.round(pc.multiply(confidence, CONFIDENCE_SCALE))
    # Numbers instead of ids: DuckDB groups integers faster than text.
    numbers = rows.column("doc_id").combine_chunks().dictionary_encode()
    return pa.table(
        {
            "document": pa.array(_indices(numbers), pa.uint32()),
            "sentence": rows.column("sentence_start"),
            "surface": rows.column("surface"),
            "qid": rows.column("qid"),
            "confidence": pc.cast(scaled, pa.int32()),
        }
    )


def _indices(encoded: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return the codes of a dictionary-encoded column, which may be empty."""
    chunk = encoded if isinstance(encoded, pa.Array) else pa.concat_arrays(encoded.chunks)
    return chunk.indices.cast(pa.uint32())


def count_unit(
    mentions: pa.Table, limits: PairLimits, out: UnitWriter, spill: PartialCounts
) -> None:
    """Leave the partial counts of one unit.

    Args:
        mentions: from `read_mentions`.
        limits: of the pairs.
        out: counts the rows, and what was over a limit.
        spill: receives the counts.
    """
    out.count("rows_in", mentions.num_rows)
    out.count("rows_out", mentions.num_rows)
    with working_database() as connection:
        connection.register("mentions", mentions)
        add_facts(connection, spill.folder)
        connection.execute(_OCCURRENCES)

        values = {"sentence": limits.sentence, "document": limits.document}
        (numbers_over,) = connection.execute(_OVER, values).fetchall()
        for name, number in zip(OVER, numbers_over, strict=True):
            out.count(name, number)

        for group, query in _QUERIES.items():
            bucket = f"{_SURFACE_BUCKET} % {int(spill.num_buckets)}" if group == "surface" else "0"
            counts = connection.sql(f"SELECT *, {bucket} AS bucket FROM ({query})")
            spill.write(group, counts.to_arrow_table())

        columns = connection.sql(
            "SELECT document, sentence, qid FROM in_sentence ORDER BY document, sentence, qid"
        ).fetchnumpy()

    # Pairs of entities are counted in numpy, on flat sorted numbers: see stats.pairs.
    documents, sentences, qids = columns.values()
    near, together = pairs.pair_occurrences(
        documents, sentences, qids, limits.sentence, limits.document
    )
    spill.write_pairs(NEAR, near)
    spill.write_pairs(TOGETHER, together)
