"""Measure how far confidence can be trusted: calibration error, Brier score, precision by coverage.

Pure. Goes in: the gold and the links. Judged is every gold span that a mention has exactly, with at
least one candidate. It is right if the best candidate is the gold item, linked or NIL; so gold that
is NIL or not in the KB is wrong. Comes out: ratios.

Legend: n judged spans.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pipeline.link.evaluation.scores import Gold, Prediction, SpanKey
from schemas.array_types import F64, I64, Bools, Floats

NUM_BINS = 15
COVERAGES_PERCENT = (25, 50, 75, 100)
REQUIRED_PRECISION = 0.95


def calibration(
    gold: Iterable[Gold], links: Mapping[SpanKey, Prediction]
) -> dict[str, dict[str, Any]]:
    """Return figures over all gold spans, and over those in the KB alone."""
    # Sorted, since of equally confident spans the first by key comes first.
    golds = sorted(gold, key=lambda mention: mention.key)
    judged = [
        mention for mention in golds if mention.key in links and links[mention.key].candidates
    ]
    judged_links = [links[mention.key] for mention in judged]

    # The best candidate's own probability. `confidence` is 1 where a link of the corpus itself took
    # its place.
    confidence = np.array(
        [link.scores[0] if link.scores else link.confidence for link in judged_links], np.float64
    )
    right = np.array(
        [
            mention.in_kb and link.candidates[0] == mention.qid
            for mention, link in zip(judged, judged_links, strict=True)
        ],
        bool,
    )
    in_kb = np.array([mention.in_kb for mention in judged], bool)
    num_in_kb = sum(mention.in_kb for mention in golds)
    return {
        "all": _figures(confidence, right, len(golds)),
        "in_kb": _figures(confidence[in_kb], right[in_kb], num_in_kb),
    }


def _figures(confidence: F64, right: Bools, num_spans: int) -> dict[str, Any]:
    precisions = precision_by_count(confidence, right)

    # Coverage is a share of all gold spans, also of those without a candidate, so it may end
    # below 1.
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
            coverage_at_precision(precisions, num_spans, REQUIRED_PRECISION)
        ),
        "bins": reliability(confidence, right),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _bins(confidence: Floats) -> I64:
    # A confidence of exactly 1 belongs to the last bin.
    return np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def reliability(confidence: Floats, right: Bools) -> list[dict[str, Any]]:
    """Return mean confidence, accuracy and size of each bin that has a span.

    NUM_BINS bins of equal width. Both arguments of shape (n,).
    """
    bins = _bins(confidence)
    counts = np.bincount(bins, minlength=NUM_BINS)

    # Sums per bin, shape (NUM_BINS,).
    confidence_sums, right_sums = (
        np.bincount(bins, values, NUM_BINS) for values in (confidence, right)
    )
    return [
        {
            "count": int(counts[bin_number]),
            "confidence": _rounded(float(confidence_sums[bin_number] / counts[bin_number])),
            "accuracy": _rounded(float(right_sums[bin_number] / counts[bin_number])),
        }
        for bin_number in np.flatnonzero(counts).tolist()
    ]


def expected_calibration_error(confidence: Floats, right: Bools) -> float | None:
    """Return the mean distance of confidence and accuracy in bins, weighted by their sizes.

    NUM_BINS bins of equal width. Both arguments of shape (n,). None without a span.
    """
    if not len(confidence):
        return None
    # Per bin the sum of confidence less the number of right ones: size times distance.
    gaps = np.bincount(_bins(confidence), confidence - right, NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def brier(confidence: Floats, right: Bools) -> float | None:
    """Return the mean squared distance of confidence and truth (0 or 1). Shapes (n,)."""
    return float(np.mean((confidence - right) ** 2)) if len(confidence) else None


def precision_by_count(confidence: Floats, right: Bools) -> F64:
    """Return the share that is right among the 1, 2, ... n most confident. Shapes (n,).

    Of equally confident spans the first comes first.
    """
    order = np.argsort(-confidence, kind="stable")
    return np.cumsum(right[order]) / np.arange(1, len(right) + 1)


def precision_at_coverage(precisions: F64, num_spans: int, percent: int) -> float | None:
    """Return the precision where `percent` of the spans (rounded up) are answered.

    None where fewer have a candidate. `precisions` are those of `precision_by_count`.
    """
    count = -(-num_spans * percent // 100)
    return float(precisions[count - 1]) if 0 < count <= len(precisions) else None


def coverage_at_precision(precisions: F64, num_spans: int, required: float) -> float | None:
    """Return the largest share of the spans that can be answered with the required precision.

    0 where none can; None without a span. `precisions` are those of `precision_by_count`.
    """
    if not num_spans:
        return None
    enough = np.flatnonzero(precisions >= required)
    return (int(enough[-1]) + 1) / num_spans if len(enough) else 0.0
