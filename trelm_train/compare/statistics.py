"""Compute means, intervals and the time to a quality. Pure numpy.

Items of one subject stand or fall together, so the bootstrap draws subjects (clusters) and seeds,
each n - 1 out of n: the variance of a mean of n - 1 draws is exactly that of a mean of n values,
where n draws give too little (McCarthy and Snowden 1985; half of it for two seeds). Two arms share
the draws, and their difference is taken seed by seed and item by item.

Legend: S seeds, I items, C clusters, B resamples, K budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.array_types import F64, I64

QUANTILES = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """Hold the resamples that all arms share: how often each seed and cluster is drawn."""

    seed_BS: F64
    cluster_BC: F64

    @classmethod
    def make(cls, num_seeds: int, num_clusters: int, resamples: int, seed: int = 0) -> Draws:
        """Draw seeds and clusters; where there is one only, it is always taken."""
        generator = np.random.default_rng(seed)
        return cls(
            seed_BS=_drawn(generator, num_seeds, resamples),
            cluster_BC=_drawn(generator, num_clusters, resamples),
        )

    def means(self, values_SI: F64, cluster_I: I64) -> F64:
        """Return the mean over seeds and items in each resample."""
        num_clusters = self.cluster_BC.shape[1]

        # Sums of clusters first: B resamples of C clusters cost less than of I items.
        sums_SC = np.stack(
            [np.bincount(cluster_I, weights=row, minlength=num_clusters) for row in values_SI]
        )
        size_C = np.bincount(cluster_I, minlength=num_clusters)
        weighted_BC = (self.seed_BS @ sums_SC) / self.seed_BS.sum(1, keepdims=True)
        # A resample has its own number of items, because clusters differ in size.
        means: F64 = (self.cluster_BC * weighted_BC).sum(1) / (self.cluster_BC @ size_C)
        return means


def _drawn(generator: np.random.Generator, count: int, resamples: int) -> F64:
    """Return how often each of `count` numbers is drawn, resample by resample."""
    if count == 1:
        return np.ones((resamples, 1))
    counts = generator.multinomial(count - 1, np.full(count, 1 / count), size=resamples)
    return counts.astype(np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Hold a mean, its standard deviation over seeds (None for one seed), and its interval."""

    mean: float
    sd: float | None
    low: float
    high: float
    num_seeds: int


def estimate(values_SI: F64, cluster_I: I64, draws: Draws) -> Estimate:
    """Estimate a mean over seeds and items, or of differences that are paired already."""
    mean_S = values_SI.mean(1)
    low, high = np.quantile(draws.means(values_SI, cluster_I), QUANTILES)
    return Estimate(
        mean=float(mean_S.mean()),
        sd=float(mean_S.std(ddof=1)) if len(mean_S) > 1 else None,
        low=float(low),
        high=float(high),
        num_seeds=len(mean_S),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossing:
    """Say where a curve reaches a target.

    `budget` is None where it never does. Otherwise the curve reaches it between the budgets number
    `left` and `left + 1`, after `fraction` of the way; at the first budget both are 0, and the true
    crossing may lie below.
    """

    budget: float | None
    left: int = 0
    fraction: float = 0.0
    is_bound: bool = False

    def between(self, values: Sequence[float | None]) -> float | None:
        """Interpolate another curve at the same place."""
        if self.budget is None:
            return None
        start = values[self.left]
        if start is None or not self.fraction:
            return start
        end = values[self.left + 1]
        return None if end is None else start + self.fraction * (end - start)


def crossing(budgets: Sequence[float], means: Sequence[float], target: float) -> Crossing:
    """Find the smallest budget at which a rising curve reaches a target, linear between budgets.

    Negate curve and target of a measure that falls.
    """
    for index, mean in enumerate(means):
        if mean < target:
            continue
        if index == 0:
            return Crossing(budget=budgets[0], is_bound=True)
        # The previous mean is below the target, or the loop would have ended: no division by 0.
        below = means[index - 1]
        fraction = (target - below) / (mean - below)
        step = budgets[index] - budgets[index - 1]
        return Crossing(
            budget=budgets[index - 1] + fraction * step, left=index - 1, fraction=fraction
        )
    return Crossing(budget=None)


def crossing_interval(
    budgets: Sequence[float], means_BK: F64, target_B: F64
) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a crossing over resamples; None stands for never."""
    crossed_at = [
        crossing(budgets, row, target).budget
        for row, target in zip(means_BK.tolist(), target_B.tolist(), strict=True)
    ]
    # Never is later than any budget.
    sorted_B = np.sort([np.inf if budget is None else budget for budget in crossed_at])
    # The nearest ranks: between a number and "never" nothing can be interpolated.
    last_rank = len(sorted_B) - 1
    low, high = (float(sorted_B[round(quantile * last_rank)]) for quantile in QUANTILES)
    return (None if np.isinf(low) else low, None if np.isinf(high) else high)


def cluster_ids(subjects: Sequence[str]) -> I64:
    """Give every item the number of its subject; equal subjects have equal numbers."""
    numbers = np.unique(np.asarray(subjects, np.str_), return_inverse=True)[1]
    return numbers.astype(np.int64)
