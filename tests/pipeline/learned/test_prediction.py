"""The model of what is known: right weights, an honest AUC, and no subject on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.learned import prediction
from pipeline.learned.prediction import auc_of, interval_of, parts_of, predict
from schemas.array_types import F64, Bools


def slow_auc(scores: list[float], is_known: list[bool], parts: list[int]) -> float:
    """Compare every known fact with every unknown one of its part."""
    facts = list(zip(scores, is_known, parts, strict=True))
    pairs = [
        (one, other)
        for one, one_known, one_part in facts
        for other, other_known, other_part in facts
        if one_known and not other_known and one_part == other_part
    ]
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    random = np.random.default_rng(0)
    for _ in range(1000):
        # Few values, so that there are ties.
        scores = random.integers(0, random.integers(2, 9), 12).astype(float)
        is_known = random.random(12) < 0.4
        is_known[:2] = True, False
        parts = random.integers(0, 2, 12)
        parts[:2] = 0
        expected = slow_auc(scores.tolist(), is_known.tolist(), parts.tolist())
        assert auc_of(scores, is_known, parts) == pytest.approx(expected, abs=1e-12)


def test_a_fact_may_count_several_times_or_not_at_all() -> None:
    random = np.random.default_rng(9)
    scores, is_known = random.integers(0, 5, 60).astype(float), random.random(60) < 0.4
    parts, times = random.integers(0, 3, 60), random.integers(0, 4, 60)
    again = np.repeat(np.arange(60), times)
    expected = slow_auc(scores[again].tolist(), is_known[again].tolist(), parts[again].tolist())
    found = prediction.PartedAuc(scores, is_known, parts).of(times.astype(float))
    assert found == pytest.approx(expected, abs=1e-12)


def test_auc_of_one_kind_says_nothing() -> None:
    assert np.isnan(auc_of(np.arange(3.0), np.ones(3, np.bool_), np.zeros(3, np.int64)))


def test_a_feature_that_is_always_the_same_says_nothing() -> None:
    _, is_known, subjects = made()
    found = predict({"same": np.ones((len(subjects), 1))}, is_known, subjects)
    assert found.auc.value == 0.5


def test_a_spread_that_is_rounding_is_none() -> None:
    """The mean of many .9 is not exactly .9; a fact with another value is no extreme for that."""
    _, is_known, subjects = made()
    columns = np.full((len(subjects), 1), 0.9)
    columns[parts_of(subjects) == 0] = 0.8
    found = predict({"confidence": columns}, is_known, subjects)
    assert 0.05 < found.p_known.min() <= found.p_known.max() < 0.95


def newton(x: F64, y: Bools) -> F64:
    """Fit the same model another way: Newton's steps with the Hessian. The last weight is the bias."""
    x = (x - x.mean(0)) / x.std(0)
    x = np.column_stack([x, np.ones(len(x))])
    penalty = np.diag([1.0] * (x.shape[1] - 1) + [0.0])
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (p - y) + penalty @ weights
        hessian = x.T @ (x * (p * (1 - p))[:, None]) + penalty
        weights -= np.linalg.solve(hessian, gradient)
    return weights


def test_weights_are_those_of_ridge_logistic_regression() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(300, 3)) * [1, 10, 0.1] + [0, 5, 2]
    y = random.random(300) < 1 / (1 + np.exp(-(x @ [1.5, 0.1, -4] + 7)))
    fitted = prediction._fit(x, y)
    assert np.append(fitted.weights, fitted.bias) == pytest.approx(newton(x, y), abs=1e-3)


def made(num_subjects: int = 120, each: int = 5, seed: int = 2) -> tuple[F64, Bools, np.ndarray]:
    """Facts whose support decides, all but now and then, whether they are known."""
    random = np.random.default_rng(seed)
    subjects = np.repeat(np.arange(1, num_subjects + 1), each)
    support = random.normal(size=len(subjects))
    return support, support + random.normal(size=len(subjects)) > 0, subjects


def test_the_feature_that_decides_is_the_strongest() -> None:
    support, is_known, subjects = made()
    noise = np.random.default_rng(3).normal(size=(len(support), 2))
    found = predict(
        {"noise": noise, "support": support[:, None]}, is_known, subjects.astype(np.int64)
    )
    first, last = found.strengths
    assert (first.name, last.name) == ("support", "noise")
    # Signal and noise of one size: the chance is that of two normal variables.
    assert found.auc.low < found.auc.value < found.auc.high
    assert 0.8 < found.auc.value < 0.95
    assert first.lost_without > 0.25 > 0.03 > abs(last.lost_without)
    assert last.alone.low < 0.5 < last.alone.high
    assert first.weight is not None
    assert first.weight > 1
    assert last.weight is None, "it has two columns"


def test_a_subject_is_never_predicted_by_its_own_facts() -> None:
    # What is known depends on the subject alone, and so does the only feature: whoever has seen the
    # subject knows everything, and nobody else knows anything.
    random = np.random.default_rng(4)
    subjects = np.repeat(np.arange(1, 201), 5)
    is_known = np.repeat(random.random(200) < 0.5, 5)
    columns = np.eye(200)[subjects - 1]
    found = predict({"subject": columns}, is_known, subjects)
    seen = prediction._fit(columns, is_known).apply(columns)
    assert auc_of(seen, is_known, parts_of(subjects)) == 1
    assert found.auc.value == pytest.approx(0.5, abs=0.08)
    assert len({(s, p) for s, p in zip(subjects, parts_of(subjects), strict=True)}) == 200


def test_what_is_not_known_counts_as_the_mean() -> None:
    x = np.asarray([[0.0], [2.0], [np.nan], [4.0]])
    fitted = prediction._fit(x, np.asarray([False, False, True, True]))
    assert fitted.mean == pytest.approx([2.0])
    at = fitted.apply(np.asarray([[np.nan], [2.0]]))
    assert at[0] == at[1]


def test_interval_draws_subjects() -> None:
    support, is_known, subjects = made(seed=5)
    once = interval_of(support, is_known, subjects)
    # The same facts, each ten times: as many subjects, so the interval is no narrower.
    again = interval_of(np.repeat(support, 10), np.repeat(is_known, 10), np.repeat(subjects, 10))
    assert again.value == pytest.approx(once.value)
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=1e-6)
