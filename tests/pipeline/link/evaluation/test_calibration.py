"""Calibration by hand, and against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.link.evaluation.calibration import (
    NUM_BINS,
    brier,
    calibration,
    coverage_at_precision,
    expected_calibration_error,
    precision_at_coverage,
    precision_by_count,
)
from pipeline.link.evaluation.scores import Gold, Prediction

A, B, C, D, E = (("d", place, place + 3) for place in range(0, 50, 10))


def test_hand_computed_figures() -> None:
    confidence, right = np.array([0.9, 0.92, 0.5, 0.5]), np.array([True, False, True, False])
    # Bins of 1/15: .9 and .92 share the 13th (from .8667), both .5 the 7th (from .4667).
    expected = abs((0.9 + 0.92) - 1) / 4 + abs((0.5 + 0.5) - 1) / 4
    assert expected_calibration_error(confidence, right) == pytest.approx(expected)
    assert brier(confidence, right) == pytest.approx((0.1**2 + 0.92**2 + 0.5**2 + 0.5**2) / 4)
    precisions = precision_by_count(confidence, right)
    assert precisions.tolist() == pytest.approx(
        [0, 1 / 2, 2 / 3, 2 / 4]
    )  # of equals, the first goes first
    assert precision_at_coverage(precisions, 8, 25) == pytest.approx(1 / 2)
    assert precision_at_coverage(precisions, 8, 26) == pytest.approx(2 / 3), "rounded up to three"
    assert precision_at_coverage(precisions, 8, 50) == pytest.approx(2 / 4)
    assert precision_at_coverage(precisions, 8, 75) is None, (
        "only four of eight spans have a candidate"
    )
    assert coverage_at_precision(precisions, 8, 0.6) == pytest.approx(3 / 8), (
        "the largest, whatever precision was before"
    )
    assert coverage_at_precision(precisions, 8, 0.95) == 0.0


def test_ends_of_the_range_have_bins() -> None:
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0.0
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([False, True])) == 1.0


def test_spans_that_are_judged() -> None:
    gold = [
        Gold(A, 1, True),
        Gold(B, 2, True),
        Gold(C, 3, True),
        Gold(D, None, False),
        Gold(E, 9, False),
    ]
    links = {
        A: Prediction(1, (1,), confidence=1.0),
        B: Prediction(
            None, (2, 5), confidence=0.2
        ),  # NIL, but the best candidate is the gold item: right
        C: Prediction(None),  # without candidates: only counts for coverage
        D: Prediction(5, (5,), confidence=0.6),  # NIL: wrong
        E: Prediction(9, (9,), confidence=0.4),  # not in the KB, so wrong, whatever is listed
        ("d", 90, 91): Prediction(1, (1,), confidence=1.0),  # no gold span
    }
    found = calibration(gold, links)
    assert {name: (part["spans"], part["judged"]) for name, part in found.items()} == {
        "all": (5, 4),
        "in_kb": (3, 2),
    }
    assert found["all"]["brier"] == pytest.approx((0 + 0.64 + 0.36 + 0.16) / 4)
    assert found["all"]["expected_calibration_error"] == pytest.approx((0 + 0.8 + 0.6 + 0.4) / 4)
    assert found["all"]["precision_at_coverage"] == {
        "0.25": 0.5,
        "0.50": 0.3333,
        "0.75": 0.5,
        "1.00": None,
    }
    assert (found["all"]["coverage"], found["all"]["precision"]) == (0.8, 0.5)
    assert found["all"]["coverage_at_precision_0.95"] == 0.2
    assert found["in_kb"]["brier"] == pytest.approx(0.32)
    assert (found["in_kb"]["coverage"], found["in_kb"]["precision"]) == (0.6667, 1.0)
    assert found["in_kb"]["coverage_at_precision_0.95"] == 0.6667


def test_nothing_to_judge() -> None:
    empty = calibration([], {})["all"]
    assert (empty["expected_calibration_error"], empty["brier"], empty["coverage"]) == (
        None,
        None,
        None,
    )
    undetected = calibration([Gold(A, 1, True)], {})["in_kb"]
    assert (undetected["spans"], undetected["judged"], undetected["coverage"]) == (1, 0, 0.0)
    assert undetected["precision_at_coverage"]["0.25"] is None
    assert undetected["coverage_at_precision_0.95"] == 0.0


JUDGED = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=40)


@given(JUDGED, st.randoms(use_true_random=False), st.integers(0, 9))
def test_order_changes_nothing_and_a_loop_agrees(judged, random, num_more: int) -> None:
    keyed = [(("d", place, place + 1), *one) for place, one in enumerate(judged)]
    links = {key: Prediction(1, (1,), confidence=confidence) for key, confidence, _ in keyed}
    gold = [Gold(key, 1 if right else 2, True) for key, _, right in keyed]
    gold += [Gold(("e", place, place + 1), 1, True) for place in range(num_more)]  # never found
    found = calibration(gold, links)
    random.shuffle(gold)
    assert calibration(gold, links) == found
    part, num_spans = found["in_kb"], len(gold)
    gaps = [0.0] * NUM_BINS
    for _, confidence, right in keyed:
        gaps[min(math.floor(confidence * NUM_BINS), NUM_BINS - 1)] += confidence - right
    assert part["expected_calibration_error"] == pytest.approx(
        sum(map(abs, gaps)) / len(keyed), abs=1e-4
    )
    assert sum(one["count"] for one in part["bins"]) == len(keyed)
    distances = (one["count"] * abs(one["confidence"] - one["accuracy"]) for one in part["bins"])
    assert part["expected_calibration_error"] == pytest.approx(
        sum(distances) / len(keyed), abs=2e-4
    )
    confident = [right for _, _, right in sorted(keyed, key=lambda one: (-one[1], one[0]))]
    enough = [count for count in range(1, len(keyed) + 1) if sum(confident[:count]) >= 0.95 * count]
    assert part["coverage_at_precision_0.95"] == pytest.approx(
        max(enough, default=0) / num_spans, abs=1e-4
    )
    for name, precision in part["precision_at_coverage"].items():
        count = math.ceil(float(name) * num_spans)
        wanted = sum(confident[:count]) / count if count <= len(keyed) else None
        assert precision == (None if wanted is None else pytest.approx(wanted, abs=1e-4))


def test_a_link_of_the_corpus_itself_is_no_confidence_of_the_linker() -> None:
    """The link is the corpus's, with confidence 1; judged is the best candidate, with its own
    probability.
    """
    links = {
        A: Prediction(1, (2, 1), confidence=1.0, scores=(0.25, 0.2)),
        B: Prediction(2, (2,), confidence=0.75, scores=(0.75,)),
    }
    found = calibration([Gold(A, 1, True), Gold(B, 2, True)], links)["all"]
    assert found["expected_calibration_error"] == pytest.approx(0.25)
    assert found["brier"] == pytest.approx(0.25**2)
