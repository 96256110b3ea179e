"""Whether confidence means what it says: calibration error, Brier score, precision by coverage. Pure.

Goes in: the gold and the links. What is judged: every gold span that a mention has exactly, with at least one candidate; right
is a best candidate that is the gold item, NIL or not, so gold that is NIL or not in the KB is wrong. Comes out: ratios.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pipeline.link.evaluation.scores import Gold, Key, Outcome

NUM_BINS = 15
COVERAGES_PERCENT = (25, 50, 75, 100)
WANTED_PRECISION = 0.95


def calibration(gold: Iterable[Gold], links: Mapping[Key, Outcome]) -> dict[str, dict[str, Any]]:
    """Figures over all gold spans, and over those in the KB alone."""
    golds = sorted(
        gold, key=lambda one: one.key
    )  # of equally confident spans the first by key goes first
    judged = [one for one in golds if one.key in links and links[one.key].candidates]
    # Of the best candidate, as it was before a link of the corpus itself (confidence 1) took its place.
    found = [links[one.key] for one in judged]
    confidence = np.array(
        [one.scores[0] if one.scores else one.confidence for one in found], np.float64
    )
    right = np.array(
        [one.in_kb and links[one.key].candidates[0] == one.qid for one in judged], bool
    )
    in_kb = np.array([one.in_kb for one in judged], bool)
    return {
        "all": _figures(confidence, right, len(golds)),
        "in_kb": _figures(confidence[in_kb], right[in_kb], sum(one.in_kb for one in golds)),
    }


def _figures(confidence: np.ndarray, right: np.ndarray, num_spans: int) -> dict[str, Any]:
    precisions = precision_by_count(confidence, right)
    return {
        "spans": num_spans,
        "judged": len(confidence),
        "expected_calibration_error": _rounded(expected_calibration_error(confidence, right)),
        "brier": _rounded(brier(confidence, right)),
        "precision_at_coverage": {
            f"{percent / 100:.2f}": _rounded(precision_at_coverage(precisions, num_spans, percent))
            for percent in COVERAGES_PERCENT
        },
        "coverage": _rounded(len(confidence) / num_spans if num_spans else None),
        "precision": _rounded(float(precisions[-1]) if len(precisions) else None),
        "coverage_at_precision_0.95": _rounded(
            coverage_at_precision(precisions, num_spans, WANTED_PRECISION)
        ),
        "bins": reliability(confidence, right),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _bins(confidence: np.ndarray) -> np.ndarray:
    return np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """Mean confidence, accuracy and size of each of NUM_BINS bins of equal width that has a span. Shapes (n,)."""
    bins = _bins(confidence)
    counts = np.bincount(bins, minlength=NUM_BINS)
    sums = [np.bincount(bins, values, NUM_BINS) for values in (confidence, right)]
    return [
        {
            "count": int(counts[place]),
            "confidence": _rounded(float(sums[0][place] / counts[place])),
            "accuracy": _rounded(float(sums[1][place] / counts[place])),
        }
        for place in np.flatnonzero(counts).tolist()
    ]


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float | None:
    """Mean distance of confidence and accuracy in NUM_BINS bins of equal width, weighted by the bins' sizes. Shapes (n,)."""
    if not len(confidence):
        return None
    gaps = np.bincount(_bins(confidence), confidence - right, NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def brier(confidence: np.ndarray, right: np.ndarray) -> float | None:
    """Mean squared distance of confidence and truth (0 or 1). Shapes (n,)."""
    return float(np.mean((confidence - right) ** 2)) if len(confidence) else None


def precision_by_count(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Share that is right among the 1, 2, ... n most confident; of equals, the first goes first. Shapes (n,)."""
    order = np.argsort(-confidence, kind="stable")
    return np.cumsum(right[order]) / np.arange(1, len(right) + 1)


def precision_at_coverage(precisions: np.ndarray, num_spans: int, percent: int) -> float | None:
    """Precision where so many percent of the spans (rounded up) are answered; None where fewer have a candidate."""
    count = -(-num_spans * percent // 100)
    return float(precisions[count - 1]) if 0 < count <= len(precisions) else None


def coverage_at_precision(precisions: np.ndarray, num_spans: int, wanted: float) -> float | None:
    """Largest share of the spans that can be answered with at least the wanted precision; 0 where none can."""
    if not num_spans:
        return None
    enough = np.flatnonzero(precisions >= wanted)
    return (int(enough[-1]) + 1) / num_spans if len(enough) else 0.0
