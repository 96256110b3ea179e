"""Counting one unit of links: mentions to partial counts of entities, surfaces, pairs and facts, by bucket. Exact.

A unit holds whole documents, so document counts of units add up. The counting itself is DuckDB's, on integers: documents
are numbered within the unit. Cost: pairs of a document grow with the square of its entities, hence the two caps.
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
from pipeline.database.connection import connect
from pipeline.engine import files
from pipeline.engine.spill import spill_folder, write_runs, write_spill
from pipeline.engine.tables import read_batches
from pipeline.engine.units import UnitWriter
from pipeline.stats import pairs
from schemas import LINKS

CONFIDENCE_SCALE = (
    100_000  # confidences have 5 decimals: as integers their sum is exact in any order
)
READ = ("doc_id", "sentence_start", "surface", "qid", "confidence")

# Partial counts: what is counted, and in which column.
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
_TYPES = {"surface": pa.string(), "name": pa.string(),
          **{name: pa.uint32() for name in ("qid", "subject", "object")}}  # fmt: skip


def partial_schema(group: str) -> pa.Schema:
    """Keys and counts of a group's partial tables."""
    names = (*KEYS[group], *COUNTS[group])
    return pa.schema([pa.field(name, _TYPES.get(name, pa.int64())) for name in names])


FACTS = "facts"  # folder of the triples between linked entities: what the first phase leaves
FACT_SCHEMA = pa.schema(
    [pa.field(name, pa.uint32()) for name in ("subject", "predicate", "object")]
)

# Which bucket a key goes to, before the remainder: the same on every machine and with every version of the engine.
_SURFACE_BUCKET = "md5_number_lower(surface)"

OVER = (
    "sentences_over_pair_limit",
    "documents_over_pair_limit",
    "links_of_documents_over_pair_limit",
)
NEAR, TOGETHER = "near", "together"  # occurrences of pairs, in sentences and in documents
PAIR_SCHEMA = pa.schema([pa.field("pair", pa.uint64())])  # mixed, see core.pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class Spill:
    """Where a unit leaves its partial counts."""

    folder: str
    unit: int
    num_buckets: int

    def write(self, group: str, rows: pa.Table) -> None:
        """Write the rows of a group, each to the bucket that its column `bucket` names."""
        buckets = rows.column("bucket").to_numpy().astype(np.int64)
        counts = rows.drop_columns("bucket").cast(partial_schema(group))
        write_spill(
            self.folder,
            group,
            self.unit,
            counts,
            buckets,
            self.num_buckets if group == "surface" else 1,
        )

    def write_pairs(self, kind: str, mixed: np.ndarray) -> None:
        """Write occurrences of pairs; ascending, they stand in the order of their buckets."""
        rows = pa.table([pa.array(mixed)], schema=PAIR_SCHEMA)
        write_runs(self.folder, kind, self.unit, rows, pairs.bucket_bounds(mixed, self.num_buckets))


@dataclass(frozen=True, kw_only=True, slots=True)
class PairLimits:
    """Beyond these many distinct entities a sentence gives no pairs, and a document only those of its sentences."""

    sentence: int
    document: int


# Distinct (document, sentence, entity) and (document, entity), which all counts are made of.
_OCCURRENCES = """
CREATE TEMP TABLE in_sentence AS
    SELECT document, sentence, qid, count(*) AS mentions, sum(confidence)::BIGINT AS confidence
    FROM mentions WHERE qid IS NOT NULL GROUP BY ALL;
CREATE TEMP TABLE in_document AS
    SELECT document, qid, sum(mentions)::BIGINT AS mentions, count(*) AS sentences, sum(confidence)::BIGINT AS confidence
    FROM in_sentence GROUP BY ALL;
CREATE TEMP TABLE near_facts AS
    SELECT DISTINCT subject, object FROM facts
    WHERE subject IN (SELECT qid FROM in_document) AND object IN (SELECT qid FROM in_document) AND subject <> object
"""
_QUERIES = {
    "corpus": """
        SELECT 'num_documents' AS name, count(DISTINCT document) AS value FROM mentions
        UNION ALL SELECT 'num_sentences', count(*) FROM (SELECT DISTINCT document, sentence FROM mentions)
        UNION ALL SELECT 'num_mentions', count(*) FROM mentions
        UNION ALL SELECT 'num_linked', count(qid) FROM mentions
    """,
    "entity": """
        SELECT qid, sum(mentions) AS num_mentions, count(*) AS num_documents, sum(sentences) AS num_sentences,
            sum(confidence) AS confidence
        FROM in_document GROUP BY qid
    """,
    "surface": """
        SELECT surface, qid, count(*) AS num_mentions FROM mentions WHERE qid IS NOT NULL GROUP BY ALL
    """,
    "fact": """
        WITH found AS (
            SELECT f.subject, f.object, 1 AS sentences, 0 AS documents FROM in_sentence a
            JOIN near_facts f ON f.subject = a.qid
            JOIN in_sentence b ON b.document = a.document AND b.sentence = a.sentence AND b.qid = f.object
            UNION ALL SELECT f.subject, f.object, 0, 1 FROM in_document a
            JOIN near_facts f ON f.subject = a.qid
            JOIN in_document b ON b.document = a.document AND b.qid = f.object)
        SELECT subject, object, sum(sentences) AS num_sentences, sum(documents) AS num_documents FROM found GROUP BY ALL
    """,
}
# Sentences and documents over a limit, and the mentions in the latter.
_OVER = """
SELECT (SELECT count(*) FROM (SELECT 1 FROM in_sentence GROUP BY document, sentence HAVING count(*) > $sentence)),
    (SELECT count(*) FROM (SELECT 1 FROM in_document GROUP BY document HAVING count(*) > $document)),
    (SELECT coalesce(sum(m), 0)::BIGINT FROM (
        SELECT sum(mentions) AS m FROM in_document GROUP BY document HAVING count(*) > $document))
"""


def write_facts(data: str, batches: pa.RecordBatchReader) -> None:
    """Write the triples between linked entities, whole or not at all. Memory: one batch."""
    folder = files.join(spill_folder(data), FACTS)
    files.make_folder(folder)
    sink = files.HashingSink(files.join(folder, f"{uuid.uuid4().hex}.tmp"))
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), FACT_SCHEMA, compression="zstd") as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_batches([batch]).cast(FACT_SCHEMA))
    sink.close()
    files.rename(sink.path, files.join(folder, "facts.parquet"))


def add_facts(connection: duckdb.DuckDBPyConnection, data: str) -> None:
    """View `facts`: DuckDB reads the file in pieces, however many there are."""
    path = files.join(local_folder(files.join(spill_folder(data), FACTS)), "facts.parquet")
    quoted = path.replace("'", "''")  # a view cannot bind parameters
    connection.execute(f"CREATE VIEW facts AS SELECT * FROM read_parquet('{quoted}')")


def read_mentions(paths: Sequence[str]) -> pa.Table:
    """Mentions of some files of `links`: document (its number among them), sentence, surface, qid, confidence (scaled)."""
    batches = [batch for path in paths for batch in read_batches(path, LINKS, READ)]
    schema = pa.schema([LINKS.schema.field(name) for name in READ], metadata=LINKS.schema.metadata)
    rows = pa.Table.from_batches([batch.cast(schema) for batch in batches], schema=schema)
    scaled = pc.round(
        pc.multiply(pc.cast(rows.column("confidence"), pa.float64()), CONFIDENCE_SCALE)
    )
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
    """Codes of a dictionary-encoded column; of an empty one too."""
    chunk = encoded if isinstance(encoded, pa.Array) else pa.concat_arrays(encoded.chunks)
    return chunk.indices.cast(pa.uint32())


def count_unit(mentions: pa.Table, limits: PairLimits, out: UnitWriter, spill: Spill) -> None:
    """Spill the partial counts of one unit.

    Args:
        mentions: of `read_mentions`.
        limits: of the pairs.
        out: counts the rows, and what was over a limit.
        spill: where to.
    """
    out.count("rows_in", mentions.num_rows)
    out.count("rows_out", mentions.num_rows)
    with connect() as connection:
        connection.register("mentions", mentions)
        add_facts(connection, spill.folder)
        connection.execute(_OCCURRENCES)
        over = connection.execute(
            _OVER, {"sentence": limits.sentence, "document": limits.document}
        ).fetchall()[0]
        for name, number in zip(OVER, over, strict=True):
            out.count(name, number)
        for group, query in _QUERIES.items():
            bucket = f"{_SURFACE_BUCKET} % {int(spill.num_buckets)}" if group == "surface" else "0"
            spill.write(
                group,
                connection.sql(f"SELECT *, {bucket} AS bucket FROM ({query})").to_arrow_table(),
            )
        found = connection.sql(
            "SELECT document, sentence, qid FROM in_sentence ORDER BY document, sentence, qid"
        ).fetchnumpy()
    documents, sentences, qids = found.values()
    near, together = pairs.pair_occurrences(
        documents, sentences, qids, limits.sentence, limits.document
    )
    spill.write_pairs(NEAR, near)
    spill.write_pairs(TOGETHER, together)
