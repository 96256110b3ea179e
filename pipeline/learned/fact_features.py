"""Collect what a run's statistics say about each fact that a model was asked.

Goes in: the rows of `trelm-train evaluate lama --items`, and a run. Comes out: one row per fact
whose relation and items have ids: whether the model knows it, and the features. Costs a few scans of
the statistics; memory is DuckDB's, and the facts that were asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np

from pipeline.engine.errors import StageError
from schemas import buckets
from schemas.array_types import F64, I64, Bools
from schemas.errors import ConfigError
from schemas.ids import MAX_HOPS
from schemas.listing import a_few
from schemas.probes import LAMA_ITEMS
from schemas.table import SchemaError

# Feature -> its columns in the answer of FEATURES_SQL, and what it is.
FEATURES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "support": (
        ("support_sentences", "support_documents"),
        "sentences and documents with both ends (log)",
    ),
    "subject frequency": (("subject_mentions",), "mentions of the subject (log)"),
    "object frequency": (("object_mentions",), "mentions of the object (log)"),
    "subject importance": (("subject_importance",), "mean 1 - cosine of the subject's mentions"),
    "object importance": (("object_importance",), "mean 1 - cosine of the object's mentions"),
    "subject ambiguity": (("subject_ambiguity",), "how often the subject's names mean others"),
    "object ambiguity": (("object_ambiguity",), "how often the object's names mean others"),
    "confidence": (
        ("subject_confidence", "object_confidence"),
        "mean confidence of the links of both ends",
    ),
    "object share": (("object_share",), "share of the relation's facts that have this object"),
}
RELATION = "relation"
RELATION_MEANING = "which relation it is"

FEATURES_SQL = f"""
WITH RECURSIVE asked AS (
    SELECT row_number() OVER () AS number, relation, sub_label, obj_label, sub_qid, obj_qid,
        rank = 1 AS is_known, try_cast(relation[2:] AS UINTEGER) AS predicate
    FROM read_parquet($items)
    WHERE sub_qid IS NOT NULL AND obj_qid IS NOT NULL AND regexp_full_match(relation, 'P[0-9]+')),
-- Probes may name items of years ago, which others have taken up since.
hops AS (
    SELECT try_cast(source[2:] AS UINTEGER) AS source, min(try_cast(target[2:] AS UINTEGER)) AS target
    FROM redirects WHERE source[1] = 'Q' AND target[1] = 'Q' GROUP BY ALL),
steps AS (
    SELECT DISTINCT qid, qid AS now, 0 AS hop
    FROM (SELECT sub_qid AS qid FROM asked UNION ALL SELECT obj_qid FROM asked)
    UNION ALL SELECT qid, target, hop + 1 FROM steps JOIN hops ON source = now WHERE hop < {MAX_HOPS}),
current AS (SELECT qid, arg_max(now, hop) AS now FROM steps GROUP BY qid),
items AS (SELECT DISTINCT now AS qid FROM current),
distances AS (
    SELECT l.qid, avg(1 - i.cosine::DOUBLE) AS importance
    FROM importance i JOIN links l ON l.doc_id = i.doc_id AND l.start = i.start AND l."end" = i."end"
    WHERE NOT isnan(i.cosine) GROUP BY l.qid),
confidences AS (SELECT qid, avg(confidence) AS confidence FROM links WHERE qid IS NOT NULL GROUP BY qid),
ambiguities AS (
    SELECT qid, sum(p_surface_given_entity * (1 - p_entity_given_surface)) AS ambiguity
    FROM surface_frequency GROUP BY qid),
entity AS (
    SELECT qid, coalesce(num_mentions, 0) AS mentions, importance, confidence, ambiguity
    FROM items LEFT JOIN entity_frequency USING (qid) LEFT JOIN distances USING (qid)
        LEFT JOIN confidences USING (qid) LEFT JOIN ambiguities USING (qid)),
relations AS (SELECT predicate, count(*) AS num_facts FROM facts GROUP BY predicate),
objects AS (SELECT predicate, object, count(*) AS num_facts FROM facts GROUP BY predicate, object)
SELECT a.relation, a.sub_label, a.obj_label, s.qid AS subject, o.qid AS object, a.is_known,
    ln(1 + coalesce(f.num_sentences, 0)) AS support_sentences,
    ln(1 + coalesce(f.num_documents, 0)) AS support_documents,
    ln(1 + s.mentions) AS subject_mentions, ln(1 + o.mentions) AS object_mentions,
    s.importance AS subject_importance, o.importance AS object_importance,
    s.ambiguity AS subject_ambiguity, o.ambiguity AS object_ambiguity,
    s.confidence AS subject_confidence, o.confidence AS object_confidence,
    coalesce(b.num_facts / r.num_facts, 0) AS object_share
FROM asked a
JOIN current sc ON sc.qid = a.sub_qid JOIN current oc ON oc.qid = a.obj_qid
JOIN entity s ON s.qid = sc.now JOIN entity o ON o.qid = oc.now
LEFT JOIN fact_support f
    ON f.subject = s.qid AND f.predicate = a.predicate AND f.object = o.qid
LEFT JOIN relations r ON r.predicate = a.predicate
LEFT JOIN objects b ON b.predicate = a.predicate AND b.object = o.qid
ORDER BY a.number
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedFacts:
    """Hold facts that a model was asked, flat: n facts."""

    relation: list[str]
    subject_label: list[str]
    object_label: list[str]
    # QIDs as they are today, shape (n,).
    subject: I64
    object: I64
    is_known: Bools
    # Column -> shape (n,); NaN where the run knows nothing.
    columns: Mapping[str, F64]

    def only(self, chosen: Bools) -> AskedFacts:
        """Return some of the facts. `chosen` has shape (n,)."""
        kept = np.flatnonzero(chosen).tolist()
        return AskedFacts(
            relation=[self.relation[at] for at in kept],
            subject_label=[self.subject_label[at] for at in kept],
            object_label=[self.object_label[at] for at in kept],
            subject=self.subject[chosen],
            object=self.object[chosen],
            is_known=self.is_known[chosen],
            columns={name: values[chosen] for name, values in self.columns.items()},
        )

    @property
    def questions(self) -> list[tuple[str, str, str]]:
        """Return what tells the facts of two answers apart: relation and labels."""
        return list(zip(self.relation, self.subject_label, self.object_label, strict=True))


def check_items(
    connection: duckdb.DuckDBPyConnection, paths: Sequence[str], option: str = "--items"
) -> None:
    """Refuse files that are not what `evaluate lama --items` writes, and those of several models.

    Raises:
        ConfigError: names the file and what is wrong.
    """
    import pyarrow.parquet as pq

    query = "SELECT DISTINCT model FROM read_parquet($items)"
    models: set[str] = set()
    for path in paths:
        # Arrow would ask the bucket in its own way, and wait for minutes where there is no network.
        if buckets.is_bucket(path):
            raise ConfigError(
                f"{option} {path}: lies in a bucket; copy the file to this machine first"
            )
        try:
            LAMA_ITEMS.check(pq.read_schema(path), path)
            models |= {model for (model,) in connection.execute(query, {"items": path}).fetchall()}
        except (SchemaError, OSError, ValueError, duckdb.Error) as error:
            raise ConfigError(
                f"{option} {path}: not the rows of `trelm-train evaluate lama --items` ({error})"
            ) from error
    if len(models) > 1:
        raise ConfigError(
            f"{option} {', '.join(paths)}: has {len(models)} models ({a_few(sorted(models))}); "
            "give the answers of one"
        )


def facts_of(
    connection: duckdb.DuckDBPyConnection, paths: Sequence[str], option: str = "--items"
) -> AskedFacts:
    """Return the asked facts that have ids, with their features.

    Raises:
        ConfigError: a file is not what is needed.
        StageError: the query fails.
    """
    check_items(connection, paths, option)
    try:
        rows = connection.sql(FEATURES_SQL, params={"items": list(paths)}).to_arrow_table()
    except duckdb.Error as error:
        raise StageError(f"the query failed: {error}") from error
    names = [column for columns, _ in FEATURES.values() for column in columns]
    return AskedFacts(
        relation=rows["relation"].to_pylist(),
        subject_label=rows["sub_label"].to_pylist(),
        object_label=rows["obj_label"].to_pylist(),
        subject=rows["subject"].to_numpy().astype(np.int64),
        object=rows["object"].to_numpy().astype(np.int64),
        is_known=rows["is_known"].to_numpy(zero_copy_only=False),
        columns={name: np.asarray(rows[name].to_pylist(), np.float64) for name in names},
    )
