"""What the report shows, asked of DuckDB: counts, bins and short lists, whatever the size of the run.

Goes in: a run whose stage `stats` is up to date; `importance` and `shards` where they are there. Comes out: frozen rows.
Costs one scan of `links` per question, and one join of `importance` with `links`, which DuckDB spills to disk.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from schemas.shards import POLICY_BITS
from schemas.stats import BANDS

MAX_POINTS = 400
CHANGE_UNIT = 1e-4  # cosines have 4 decimals, so 1 - cosine is a whole number of these
DEFAULT_POLICY = "long-tail-important"
NUM_FINE = 100  # bins of confidence
NUM_NIL = 15
NUM_REJECTS = 200
_ANCHOR = "contains(detector, 'anchor')"


@dataclass(frozen=True, slots=True)
class RankPoint:
    """An entity on the rank plot."""

    rank: int
    num_mentions: int
    band: str
    qid: int
    label: str


@dataclass(frozen=True, slots=True)
class Band:
    """A frequency band; figures of `importance` and `shards` are None where the run lacks them."""

    name: str
    num_entities: int
    num_mentions: int
    least: int
    most: int
    num_supported: int  # entities with a triple whose other end is in the same document
    mean_si: float | None = None
    num_targets: int | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """How much sentences change without an entity: distinct values of 1 - cosine in CHANGE_UNIT, mentions of each."""

    values: np.ndarray
    counts: np.ndarray

    def quantile(self, share: float) -> float:
        """Smallest 1 - cosine with at least that share of the mentions at or below it."""
        reached = np.searchsorted(np.cumsum(self.counts), share * self.counts.sum() - 1e-9)
        return float(self.values[min(reached, len(self.values) - 1)] * CHANGE_UNIT)

    @property
    def mean_si(self) -> float:
        """Mean semantic importance, 1 / max(cosine, 1e-4)."""
        si = 1 / np.maximum(1 - self.values * CHANGE_UNIT, 1e-4)
        return float(np.average(si, weights=self.counts))


@dataclass(frozen=True, slots=True)
class Confidences:
    """Mentions by confidence, in NUM_FINE bins of equal width; links that the corpus itself holds (anchors) apart."""

    linked: np.ndarray  # mentions, shape (NUM_FINE,)
    nil: np.ndarray  # the same of NIL
    mass: np.ndarray  # sum of the linked ones' confidences
    anchors: int

    def above(self, threshold: float) -> tuple[int, float | None]:
        """Links of at least a confidence (a multiple of 0.01), and their mean confidence."""
        start = round(threshold * NUM_FINE)
        count = int(self.linked[start:].sum())
        return count, float(self.mass[start:].sum() / count) if count else None


@dataclass(frozen=True, slots=True)
class Detector:
    """What found mentions: one detector, or several that agree."""

    name: str
    num_mentions: int
    num_linked: int
    mean_confidence: float


@dataclass(frozen=True, slots=True)
class NilSurface:
    """A text that often has no item."""

    surface: str
    num_mentions: int
    best: float  # highest confidence of a candidate


@dataclass(frozen=True, slots=True)
class NilType:
    """Mentions of one type of the recogniser."""

    name: str
    num_mentions: int
    num_nil: int


@dataclass(frozen=True, slots=True)
class RejectGroup:
    """Rejects of one stage for one reason, with the first of them."""

    stage: str
    reason: str
    count: int
    key: str
    payload: str


def tail_summary(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """The one row of `tail_summary`, by column."""
    found = connection.execute("FROM tail_summary LIMIT 1")
    names = [column[0] for column in found.description or ()]
    return dict(zip(names, found.fetchall()[0], strict=True))


def rank_points(connection: duckdb.DuckDBPyConnection, num_entities: int) -> list[RankPoint]:
    """Entities at ranks that are evenly spaced on a log scale, at most MAX_POINTS."""
    if not num_entities:
        return []
    ranks = np.unique(np.geomspace(1, num_entities, MAX_POINTS).round().astype(np.int64)).tolist()
    found = connection.execute(
        """
        WITH ranked AS (
            SELECT row_number() OVER (ORDER BY num_mentions DESC, qid) AS rank, num_mentions, band, qid
            FROM entity_frequency
        )
        SELECT r.rank, r.num_mentions, r.band, r.qid, coalesce(e.label, '')
        FROM ranked r LEFT JOIN entities e USING (qid) WHERE r.rank IN (SELECT unnest($ranks)) ORDER BY 1
        """,
        {"ranks": ranks},
    )
    return [RankPoint(*row) for row in found.fetchall()]


def weigh(connection: duckdb.DuckDBPyConnection) -> dict[str, Changes]:
    """Changes by band; leaves the tables `changes` and `entity_si`, which later questions read."""
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE changes AS
        SELECT l.qid, CAST(round((1 - i.cosine::DOUBLE) / {CHANGE_UNIT}) AS INTEGER) AS change, count(*) AS n
        FROM importance i JOIN links l USING (doc_id, start, "end") WHERE l.qid IS NOT NULL GROUP BY ALL
    """)
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE entity_si AS
        SELECT qid, sum(n / greatest(1 - change * {CHANGE_UNIT}, 1e-4)) / sum(n) AS mean_si FROM changes GROUP BY qid
    """)
    found = connection.execute("""
        SELECT f.band, greatest(c.change, 0), CAST(sum(c.n) AS BIGINT) FROM changes c JOIN entity_frequency f USING (qid)
        GROUP BY ALL ORDER BY ALL
    """).fetchall()
    by_band: dict[str, Changes] = {}
    for band in BANDS:
        rows = [row[1:] for row in found if row[0] == band]
        if rows:
            values, counts = np.array(rows, np.int64).T
            by_band[band] = Changes(values, counts)
    return by_band


def no_weights(connection: duckdb.DuckDBPyConnection) -> dict[str, Changes]:
    """The same tables without rows, for a run without `importance`."""
    connection.execute("CREATE OR REPLACE TEMP TABLE entity_si (qid UINTEGER, mean_si DOUBLE)")
    return {}


def bands(
    connection: duckdb.DuckDBPyConnection,
    changes: dict[str, Changes],
    targets: dict[str, int] | None,
) -> list[Band]:
    """The bands, most frequent first; only those that have entities."""
    found = connection.execute("""
        SELECT f.band, count(*), CAST(sum(f.num_mentions) AS BIGINT), min(f.num_mentions), max(f.num_mentions), count(s.qid)
        FROM entity_frequency f
        LEFT JOIN (SELECT subject AS qid FROM fact_support UNION SELECT object FROM fact_support) s USING (qid)
        GROUP BY f.band
    """)
    rows = {row[0]: row for row in found.fetchall()}
    return [
        dataclasses.replace(
            Band(*rows[name]),
            mean_si=changes[name].mean_si if name in changes else None,
            num_targets=None if targets is None else targets.get(name, 0),
        )
        for name in BANDS
        if name in rows
    ]


def targets_by_band(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Mentions in the shards that the default policy chooses for injection."""
    found = connection.execute(
        """
        WITH spans AS (SELECT unnest(span_entity_row) AS row, unnest(span_policies) AS bits FROM examples)
        SELECT k.band, count(*) FROM spans s JOIN knowledge k ON k.row = s.row
        WHERE s.bits & $bit > 0 AND k.band IS NOT NULL GROUP BY k.band
        """,
        {"bit": POLICY_BITS[DEFAULT_POLICY]},
    )
    return dict(found.fetchall())


def confidences(connection: duckdb.DuckDBPyConnection) -> Confidences:
    """Histogram of the links' confidences."""
    found = connection.execute(f"""
        SELECT least(CAST(floor(round(confidence::DOUBLE, 5) * {NUM_FINE}) AS INTEGER), {NUM_FINE - 1}) AS bin,
               count(*) FILTER (qid IS NOT NULL AND NOT {_ANCHOR}), count(*) FILTER (qid IS NULL),
               coalesce(sum(confidence::DOUBLE) FILTER (qid IS NOT NULL AND NOT {_ANCHOR}), 0.0),
               count(*) FILTER (qid IS NOT NULL AND {_ANCHOR})
        FROM links GROUP BY bin
    """)
    bins = np.zeros((NUM_FINE, 4))
    for place, *figures in found.fetchall():
        bins[place] = figures
    counts = bins[:, :2].astype(np.int64)
    return Confidences(counts[:, 0], counts[:, 1], bins[:, 2], int(bins[:, 3].sum()))


def detectors(connection: duckdb.DuckDBPyConnection) -> list[Detector]:
    """Detectors and agreements of detectors, those that found most first."""
    found = connection.execute("""
        SELECT detector, count(*), count(qid), avg(confidence::DOUBLE) FROM links GROUP BY detector ORDER BY 2 DESC, 1
    """)
    return [Detector(*row) for row in found.fetchall()]


def num_facts(connection: duckdb.DuckDBPyConnection) -> int:
    """Triples whose ends meet in a document."""
    return int(connection.execute("SELECT count(*) FROM fact_support").fetchall()[0][0])


def nil_without_candidates(connection: duckdb.DuckDBPyConnection) -> int:
    """NIL mentions that no item was even a candidate for."""
    found = connection.execute("SELECT count(*) FROM links WHERE qid IS NULL AND confidence = 0")
    return int(found.fetchall()[0][0])


def nil_surfaces(connection: duckdb.DuckDBPyConnection) -> list[NilSurface]:
    """The most frequent texts without an item."""
    found = connection.execute(
        """
        SELECT surface, count(*), max(confidence) FROM links WHERE qid IS NULL
        GROUP BY surface ORDER BY 2 DESC, 1 LIMIT $limit
        """,
        {"limit": NUM_NIL},
    )
    return [NilSurface(*row) for row in found.fetchall()]


def nil_types(connection: duckdb.DuckDBPyConnection) -> list[NilType]:
    """Mentions and NIL by the recogniser's type."""
    found = connection.execute("""
        SELECT coalesce(ner_type, ''), count(*), count(*) FILTER (qid IS NULL) FROM links GROUP BY 1 ORDER BY 2 DESC, 1
    """)
    return [NilType(*row) for row in found.fetchall()]


def reject_groups(connection: duckdb.DuckDBPyConnection) -> list[RejectGroup]:
    """Rejects by stage and reason, the most first."""
    found = connection.execute(
        """
        SELECT stage, reason, count(*), min(key), arg_min(payload, key) FROM rejects
        GROUP BY stage, reason ORDER BY 3 DESC, 1, 2 LIMIT $limit
        """,
        {"limit": NUM_REJECTS},
    )
    return [RejectGroup(*row) for row in found.fetchall()]
