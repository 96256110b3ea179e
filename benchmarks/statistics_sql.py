"""Count what stage `stats` counts as a user of DuckDB would: one script over the links, nothing
else around it.

The limit of `statistics`: no units, no resume, no bound on memory, all cores. Documents are
numbered first, which is faster than joins on their names. What `stats` computes beyond counts (the
fits, the intervals, normalised information) is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

SCRIPT = """
CREATE TEMP TABLE numbered AS SELECT doc_id, row_number() OVER () AS document FROM (SELECT DISTINCT doc_id FROM links);
CREATE TEMP TABLE mentions AS
    SELECT document::UINTEGER AS document, sentence_start, surface, qid, confidence
    FROM links JOIN numbered USING (doc_id) WHERE qid IS NOT NULL;
CREATE TEMP TABLE in_sentence AS
    SELECT document, sentence_start, qid, count(*) AS mentions, sum(round(confidence::DOUBLE, 5)) AS expected
    FROM mentions GROUP BY ALL;
CREATE TEMP TABLE in_document AS
    SELECT document, qid, sum(mentions) AS mentions, count(*) AS sentences, sum(expected) AS expected
    FROM in_sentence GROUP BY ALL;
COPY (SELECT qid, sum(mentions) AS num_mentions, count(*) AS num_documents, sum(sentences) AS num_sentences,
    sum(expected) AS expected_mentions FROM in_document GROUP BY qid) TO '{out}/entity.parquet' (COMPRESSION zstd);
COPY (SELECT surface, qid, count(*) AS num_mentions, num_mentions / sum(num_mentions) OVER (PARTITION BY surface) AS share
    FROM mentions GROUP BY surface, qid) TO '{out}/surface.parquet' (COMPRESSION zstd);
COPY (
    WITH few_sentences AS (
        SELECT document, sentence_start FROM in_sentence GROUP BY ALL HAVING count(*) BETWEEN 2 AND {sentence}),
    few AS (SELECT document FROM in_document GROUP BY ALL HAVING count(*) BETWEEN 2 AND {document}),
    near AS (SELECT a.qid AS qid_a, b.qid AS qid_b, a.document, count(*) AS sentences
        FROM (SELECT * FROM in_sentence SEMI JOIN few_sentences USING (document, sentence_start)) a
        JOIN in_sentence b ON b.document = a.document AND b.sentence_start = a.sentence_start AND a.qid < b.qid
        GROUP BY ALL)
    SELECT qid_a, qid_b, sum(sentences) AS num_sentences, sum(documents) AS num_documents FROM (
        SELECT qid_a, qid_b, sentences, 0 AS documents FROM near
        UNION ALL SELECT qid_a, qid_b, 0, 1 FROM near ANTI JOIN few USING (document)
        UNION ALL SELECT a.qid, b.qid, 0, 1 FROM (SELECT * FROM in_document SEMI JOIN few USING (document)) a
        JOIN in_document b ON b.document = a.document AND a.qid < b.qid)
    GROUP BY ALL HAVING num_sentences >= 2 OR num_documents >= 2
) TO '{out}/pair.parquet' (COMPRESSION zstd);
CREATE TEMP TABLE linked AS SELECT DISTINCT qid FROM in_document;
CREATE TEMP TABLE facts AS
    SELECT DISTINCT subject, object FROM triples SEMI JOIN linked a ON a.qid = subject SEMI JOIN linked b ON b.qid = object
    WHERE subject <> object;
COPY (
    SELECT subject, object, sum(sentences) AS num_sentences, sum(documents) AS num_documents FROM (
        SELECT f.subject, f.object, 1 AS sentences, 0 AS documents FROM in_sentence a JOIN facts f ON f.subject = a.qid
        JOIN in_sentence b ON b.document = a.document AND b.sentence_start = a.sentence_start AND b.qid = f.object
        UNION ALL SELECT f.subject, f.object, 0, 1 FROM in_document a JOIN facts f ON f.subject = a.qid
        JOIN in_document b ON b.document = a.document AND b.qid = f.object)
    GROUP BY ALL
) TO '{out}/fact.parquet' (COMPRESSION zstd);
"""


def count_by_sql(
    out: Path, run: str, sentence: int, document: int, memory_gb: float = 0.0
) -> dict[str, Any]:
    """Run the script; return the rows of each table."""
    connection = duckdb.connect()
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("SET temp_directory = $folder", {"folder": str(out / "spill")})
    if memory_gb:
        connection.execute(f"SET memory_limit = '{memory_gb}GB'")
    for name, stage in (("links", "link"), ("triples", "kb")):
        connection.execute(
            f"CREATE VIEW {name} AS FROM read_parquet('{run}/{stage}/data-made/{name}/*.parquet')"
        )
    connection.execute(SCRIPT.format(out=out, sentence=sentence, document=document))
    return {
        name: connection.sql(f"SELECT count(*) FROM '{out}/{name}.parquet'").fetchall()[0][0]
        for name in ("entity", "surface", "pair", "fact")
    }
