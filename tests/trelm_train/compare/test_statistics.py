from __future__ import annotations

import numpy as np
import pytest

from trelm_train.compare.statistics import (
    Draws,
    cluster_ids,
    crossing,
    crossing_interval,
    estimate,
)

ALONE = np.zeros(1, np.int64)


def test_means_and_deviations_by_hand() -> None:
    values_SI = np.asarray([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    item = estimate(values_SI, np.arange(4), Draws.make(2, 4, 200))
    assert item.mean == 0.75
    assert item.sd == pytest.approx(np.sqrt(0.125))  # of .5 and 1
    assert item.low <= item.mean <= item.high
    assert item.num_seeds == 2


def test_one_seed_has_no_deviation() -> None:
    assert estimate(np.ones((1, 3)), np.arange(3), Draws.make(1, 3, 10)).sd is None


def test_pairing_removes_what_two_arms_share() -> None:
    """A seed that is bad for both arms does not widen the interval of their difference."""
    rng = np.random.default_rng(1)
    first_SI = rng.normal(size=(3, 1)) + rng.normal(size=(1, 40)) * np.ones((3, 1))
    second_SI = first_SI + 0.25
    cluster_I, draws = np.arange(40), Draws.make(3, 40, 400)
    difference = estimate(second_SI - first_SI, cluster_I, draws)
    assert (difference.low, difference.mean, difference.high) == pytest.approx((0.25, 0.25, 0.25))
    alone = estimate(second_SI, cluster_I, draws)
    assert alone.high - alone.low > 0.5


def test_drawing_one_less_gives_the_whole_variance_of_a_mean() -> None:
    """With n draws out of n = 2 the variance would be half of it."""
    values_SI = np.asarray([[0.0], [1.0]])
    means_B = Draws.make(2, 1, 20_000).means(values_SI, ALONE)
    assert means_B.var() == pytest.approx(values_SI.var(ddof=1) / 2, rel=0.05)


def test_items_of_a_subject_are_drawn_together() -> None:
    """A hundred copies of an item are one piece of evidence, not a hundred."""
    few_SI = np.asarray([[1.0, 0.0, 0.0, 1.0, 0.0]])
    many_SI, cluster_I = np.repeat(few_SI, 100, axis=1), np.repeat(np.arange(5), 100)
    draws = Draws.make(1, 5, 500)
    assert estimate(many_SI, cluster_I, draws) == estimate(few_SI, np.arange(5), draws)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    num_covered, draws = 0, Draws.make(5, 60, 300)
    for _ in range(300):
        chance_SI = 0.3 + 0.05 * rng.normal(size=(5, 1))
        values_SI = (rng.random((5, 60)) < chance_SI).astype(float)
        item = estimate(values_SI, np.arange(60), draws)
        num_covered += item.low <= 0.3 <= item.high
    assert 0.9 <= num_covered / 300 <= 1.0


@pytest.mark.parametrize(
    ("means", "target", "budget", "is_bound"),
    [
        ([0.1, 0.3, 0.5], 0.4, 0.8, False),  # half of the way from .6 to 1
        ([0.1, 0.3, 0.5], 0.3, 0.6, False),  # at a budget itself
        ([0.4, 0.3, 0.5], 0.35, 0.2, True),  # the first budget has it: it may be less
        ([0.1, 0.4, 0.2], 0.3, 0.4666667, False),  # the first time counts, not the last
        ([0.1, 0.2, 0.3], 0.4, None, False),  # never
    ],
)
def test_where_a_curve_reaches_a_target(
    means: list[float], target: float, budget: float | None, *, is_bound: bool
) -> None:
    place = crossing([0.2, 0.6, 1.0], means, target)
    assert place.budget == (None if budget is None else pytest.approx(budget))
    assert place.is_bound == is_bound


def test_another_curve_is_read_at_the_same_place() -> None:
    place = crossing([0.2, 0.6, 1.0], [0.1, 0.3, 0.5], 0.35)
    assert place.between([10, 20, 40]) == pytest.approx(25)  # a quarter of the way
    assert place.between([10, None, 40]) is None
    assert crossing([0.2], [0.1], 0.4).between([10]) is None


def test_the_interval_of_a_crossing_may_end_with_never() -> None:
    means_BK = np.asarray([[0.1, 0.5]] * 9 + [[0.1, 0.2]])
    low, high = crossing_interval([0.5, 1.0], means_BK, np.full(10, 0.3))
    assert low == pytest.approx(0.75)
    assert high is None


def test_subjects_become_clusters() -> None:
    assert cluster_ids(["Q2", "Q1", "Q2"]).tolist() == [1, 0, 1]
