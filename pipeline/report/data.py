"""Query the figures that the report shows: counts, bins and short lists.

The results are small for a run of any size.

Goes in: a run whose stage `stats` is up to date; `importance` and `shards` where the run has them.
Comes out: frozen rows. Costs one scan of `links` per query, and one join of `importance` with
`links`, which DuckDB spills to disk.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from schemas.array_types import F64, I64
from schemas.shards import POLICY_BITS
from schemas.stats import BANDS

MAX_POINTS = 400
# Cosines have 4 decimals, so 1 - cosine is a whole number of these units.
CHANGE_UNIT = 1e-4
DEFAULT_POLICY = "long-tail-important"
# The number of bins of confidence.
NUM_FINE = 100
NUM_NIL = 15
NUM_REJECTS = 200
_ANCHOR = "contains(detector, 'anchor')"


@dataclass(frozen=True, slots=True)
class RankPoint:
    """Hold an entity on the rank plot."""

    rank: int
    num_mentions: int
    band: str
    qid: int
    label: str


@dataclass(frozen=True, slots=True)
class Band:
    """Hold a frequency band.

    Figures of `importance` and `shards` are None where the run lacks them.
    """

    name: str
    num_entities: int
    num_mentions: int
    # Mentions of its rarest and of its most frequent entity.
    least: int
    most: int
    # Entities with a triple whose other end is in the same document.
    num_supported: int
    mean_si: float | None = None
    num_targets: int | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """Hold how much sentences change without an entity.

    That is the distinct values of 1 - cosine, in CHANGE_UNIT, and the mentions of each. Shapes
    (n,).
    """

    values: I64
    counts: I64
    # Half the width of the 95 % interval of `mean_si`, where the mentions are those of a sample of
    # sentences; None where it is no sample, or of one sentence.
    margin: float | None = None

    def quantile(self, share: float) -> float:
        """Return the least 1 - cosine with at least that share of mentions at or below it."""
        # The small number keeps a share that is met exactly from being missed by rounding.
        index = np.searchsorted(np.cumsum(self.counts), share * self.counts.sum() - 1e-9)
        return float(self.values[min(index, len(self.values) - 1)] * CHANGE_UNIT)

    @property
    def mean_si(self) -> float:
        """Return the mean semantic importance, 1 / max(cosine, 1e-4)."""
        return float(np.average(self._si, weights=self.counts))

    @property
    def _si(self) -> F64:
        si: F64 = 1 / np.maximum(1 - self.values * CHANGE_UNIT, 1e-4)
        return si


@dataclass(frozen=True, slots=True)
class Confidences:
    """Hold mentions by confidence, in NUM_FINE bins of equal width. Shapes (NUM_FINE,).

    Links that the corpus itself holds (anchors) are counted apart.
    """

    linked: I64
    nil: I64
    # The sum of the linked mentions' confidences.
    mass: F64
    anchors: int

    def above(self, threshold: float) -> tuple[int, float | None]:
        """Return the number of links of at least a confidence, and their mean confidence.

        The confidence is a multiple of 0.01; the mean is None without links.
        """
        start = round(threshold * NUM_FINE)
        count = int(self.linked[start:].sum())
        return count, float(self.mass[start:].sum() / count) if count else None


@dataclass(frozen=True, slots=True)
class Detector:
    """Hold the figures of a detector of mentions, or of several that agree."""

    name: str
    num_mentions: int
    num_linked: int
    mean_confidence: float


@dataclass(frozen=True, slots=True)
class NilSurface:
    """Hold a text that often has no item."""

    surface: str
    num_mentions: int
    # The highest confidence of a candidate.
    best: float


@dataclass(frozen=True, slots=True)
class NilType:
    """Hold the mentions of one type of the recogniser."""

    name: str
    num_mentions: int
    num_nil: int


@dataclass(frozen=True, slots=True)
class RejectGroup:
    """Hold the rejects of one stage for one reason: their number, and one as an example."""

    stage: str
    reason: str
    count: int
    key: str
    payload: str


def tail_summary(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Return the one row of `tail_summary`, by column."""
    result = connection.execute("FROM tail_summary LIMIT 1")
    # By name, because the page shows only some of the many columns.
    names = [column[0] for column in result.description or ()]
    return dict(zip(names, result.fetchall()[0], strict=True))


def rank_points(connection: duckdb.DuckDBPyConnection, num_entities: int) -> list[RankPoint]:
    """Return entities at ranks that are evenly spaced on a log scale, at most MAX_POINTS."""
    if not num_entities:
        return []

    # At low ranks the spacing is below 1: equal ranks become one point.
    ranks = np.unique(np.geomspace(1, num_entities, MAX_POINTS).round().astype(np.int64)).tolist()
    result = connection.execute(
        """
        WITH ranked AS (
            SELECT row_number() OVER (ORDER BY num_mentions DESC, qid) AS rank,
                num_mentions, band, qid
            FROM entity_frequency
        )
        SELECT r.rank, r.num_mentions, r.band, r.qid, coalesce(e.label, '')
        FROM ranked r LEFT JOIN entities e USING (qid)
        WHERE r.rank IN (SELECT unnest($ranks)) ORDER BY 1
        """,
        {"ranks": ranks},
    )
    return [RankPoint(*row) for row in result.fetchall()]


def weigh(
    connection: duckdb.DuckDBPyConnection, *, only_sample: bool = False
) -> dict[str, Changes]:
    """Return the changes by band.

    The tables `changes` and `entity_si` are left in the connection: later queries read them.

    Args:
        connection: a run.
        only_sample: whether the bands count the random sample alone, as they must where the other
            mentions were scored for the sake of rare entities.
    """
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE changes AS
        SELECT l.qid, CAST(round((1 - i.cosine::DOUBLE) / {CHANGE_UNIT}) AS INTEGER) AS change,
            i.is_sampled, count(*) AS n
        FROM importance i JOIN links l USING (doc_id, start, "end")
        WHERE l.qid IS NOT NULL GROUP BY ALL
    """)
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE entity_si AS
        SELECT qid, sum(n / greatest(1 - change * {CHANGE_UNIT}, 1e-4)) / sum(n) AS mean_si
        FROM changes GROUP BY qid
    """)
    # A cosine a little above 1, from rounding, counts as no change.
    query = """
        SELECT f.band, greatest(c.change, 0), CAST(sum(c.n) AS BIGINT)
        FROM changes c JOIN entity_frequency f USING (qid)
        WHERE c.is_sampled OR NOT $only_sample
        GROUP BY ALL ORDER BY ALL
    """
    rows = connection.execute(query, {"only_sample": only_sample}).fetchall()

    margins = _margins(connection) if only_sample else {}
    changes_by_band: dict[str, Changes] = {}
    for band in BANDS:
        band_rows = [row[1:] for row in rows if row[0] == band]
        if band_rows:
            values, counts = np.array(band_rows, np.int64).T
            changes_by_band[band] = Changes(values, counts, margins.get(band))
    return changes_by_band


def _margins(connection: duckdb.DuckDBPyConnection) -> dict[str, float]:
    """Return half the width of the 95 % interval of each band's mean SI.

    Sentences were drawn, and the scores of a sentence are alike: so the deviations are summed per
    sentence (a ratio of two sums).
    """
    rows = connection.execute("""
        WITH sampled AS (
            SELECT i.doc_id, i.start, f.band, 1 / greatest(i.cosine::DOUBLE, 1e-4) AS si
            FROM importance i JOIN links l USING (doc_id, start, "end")
            JOIN entity_frequency f ON f.qid = l.qid
            WHERE i.is_sampled),
        placed AS (
            SELECT p.*, s.start AS sentence FROM sampled p
            ASOF JOIN sentences s ON p.doc_id = s.doc_id AND p.start >= s.start),
        summed AS (
            SELECT band, count(*) AS num, sum(si) AS total FROM placed
            GROUP BY band, doc_id, sentence),
        means AS (
            SELECT band, sum(total) / sum(num) AS mean, sum(num) AS mentions, count(*) AS sentences
            FROM summed GROUP BY band)
        SELECT band, sqrt(sum((total - mean * num) ** 2) * sentences / (sentences - 1)) / mentions
        FROM summed JOIN means USING (band) WHERE sentences > 1
        GROUP BY band, mean, mentions, sentences
    """).fetchall()
    return {band: 1.96 * deviation for band, deviation in rows}


def no_weights(connection: duckdb.DuckDBPyConnection) -> dict[str, Changes]:
    """Leave `entity_si` without rows, for a run without `importance`; return no changes."""
    connection.execute("CREATE OR REPLACE TEMP TABLE entity_si (qid UINTEGER, mean_si DOUBLE)")
    return {}


def bands(
    connection: duckdb.DuckDBPyConnection,
    changes: dict[str, Changes],
    targets: dict[str, int] | None,
) -> list[Band]:
    """Return the bands that have entities, most frequent first.

    Args:
        connection: a run.
        changes: by band; empty where the run lacks them.
        targets: mentions chosen for injection by band; None where the run lacks them.
    """
    result = connection.execute("""
        SELECT f.band, count(*), CAST(sum(f.num_mentions) AS BIGINT),
            min(f.num_mentions), max(f.num_mentions), count(s.qid)
        FROM entity_frequency f
        LEFT JOIN (SELECT subject AS qid FROM fact_support UNION SELECT object FROM fact_support) s
            USING (qid)
        GROUP BY f.band
    """)
    row_by_band = {row[0]: row for row in result.fetchall()}

    # In the order of BANDS, not of the query, whose groups come in any order.
    return [
        dataclasses.replace(
            Band(*row_by_band[name]),
            mean_si=changes[name].mean_si if name in changes else None,
            num_targets=None if targets is None else targets.get(name, 0),
        )
        for name in BANDS
        if name in row_by_band
    ]


def targets_by_band(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Count the mentions in the shards that the default policy chooses for injection, by band."""
    result = connection.execute(
        """
        WITH spans AS (
            SELECT unnest(span_entity_row) AS row, unnest(span_policies) AS bits FROM examples)
        SELECT k.band, count(*) FROM spans s JOIN knowledge k ON k.row = s.row
        WHERE s.bits & $bit > 0 AND k.band IS NOT NULL GROUP BY k.band
        """,
        {"bit": POLICY_BITS[DEFAULT_POLICY]},
    )
    return dict(result.fetchall())


def confidences(connection: duckdb.DuckDBPyConnection) -> Confidences:
    """Return the histogram of the links' confidences."""
    # Rounded first: a float32 such as 0.95 lies a little beside its decimal value, in the wrong
    # bin.
    result = connection.execute(f"""
        SELECT least(CAST(floor(round(confidence::DOUBLE, 5) * {NUM_FINE}) AS INTEGER),
                   {NUM_FINE - 1}) AS bin,
               count(*) FILTER (qid IS NOT NULL AND NOT {_ANCHOR}), count(*) FILTER (qid IS NULL),
               coalesce(sum(confidence::DOUBLE) FILTER (qid IS NOT NULL AND NOT {_ANCHOR}), 0.0),
               count(*) FILTER (qid IS NOT NULL AND {_ANCHOR})
        FROM links GROUP BY bin
    """)

    # Columns: linked, NIL, sum of confidences, anchors.
    bins = np.zeros((NUM_FINE, 4))
    for index, *figures in result.fetchall():
        bins[index] = figures
    counts = bins[:, :2].astype(np.int64)
    return Confidences(counts[:, 0], counts[:, 1], bins[:, 2], int(bins[:, 3].sum()))


def detectors(connection: duckdb.DuckDBPyConnection) -> list[Detector]:
    """Return detectors and agreements of detectors, those with the most mentions first."""
    result = connection.execute("""
        SELECT detector, count(*), count(qid), avg(confidence::DOUBLE)
        FROM links GROUP BY detector ORDER BY 2 DESC, 1
    """)
    return [Detector(*row) for row in result.fetchall()]


def num_facts(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the number of triples whose ends meet in a document."""
    return int(connection.execute("SELECT count(*) FROM fact_support").fetchall()[0][0])


def nil_without_candidates(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the number of NIL mentions without any candidate item."""
    # The linker gives confidence 0 only where it had no candidate.
    result = connection.execute("SELECT count(*) FROM links WHERE qid IS NULL AND confidence = 0")
    return int(result.fetchall()[0][0])


def nil_surfaces(connection: duckdb.DuckDBPyConnection) -> list[NilSurface]:
    """Return the most frequent texts without an item."""
    result = connection.execute(
        """
        SELECT surface, count(*), max(confidence) FROM links WHERE qid IS NULL
        GROUP BY surface ORDER BY 2 DESC, 1 LIMIT $limit
        """,
        {"limit": NUM_NIL},
    )
    return [NilSurface(*row) for row in result.fetchall()]


def nil_types(connection: duckdb.DuckDBPyConnection) -> list[NilType]:
    """Return mentions and NIL by the recogniser's type."""
    result = connection.execute("""
        SELECT coalesce(ner_type, ''), count(*), count(*) FILTER (qid IS NULL)
        FROM links GROUP BY 1 ORDER BY 2 DESC, 1
    """)
    return [NilType(*row) for row in result.fetchall()]


def reject_groups(connection: duckdb.DuckDBPyConnection) -> list[RejectGroup]:
    """Return the rejects by stage and reason, the most frequent first."""
    # The example of a group has the least key, so that it does not depend on the order of units.
    result = connection.execute(
        """
        SELECT stage, reason, count(*), min(key), arg_min(payload, key) FROM rejects
        GROUP BY stage, reason ORDER BY 3 DESC, 1, 2 LIMIT $limit
        """,
        {"limit": NUM_REJECTS},
    )
    return [RejectGroup(*row) for row in result.fetchall()]
