"""Power law fits: exponents of synthetic data, intervals, the lognormal beside it, and what cannot
be fitted.
"""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.stats.frequency import interval, resampled
from pipeline.stats.power_law import fit_tail, likeliest_exponents


def spectrum(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.unique(sample, return_counts=True)


def drawn(exponent: float, size: int, x_min: int = 1) -> np.ndarray:
    grid = np.arange(x_min, 1_000_000)
    probability = grid**-exponent
    return np.random.default_rng(0).choice(grid, size=size, p=probability / probability.sum())


@pytest.mark.parametrize("exponent", [1.6, 1.8, 2.0, 2.5, 3.0, 3.5])
def test_recovers_its_exponent(exponent: float) -> None:
    fit = fit_tail(*spectrum(drawn(exponent, 50_000)))
    assert fit is not None
    assert fit.exponent == pytest.approx(exponent, abs=0.02)
    # The slope of the rank plot, which is what Zipf's law is about.
    assert 1 / (fit.exponent - 1) == pytest.approx(1 / (exponent - 1), abs=0.02)
    assert fit.ks < 0.01
    assert fit.num_entities > 45_000


def test_finds_where_the_power_law_begins() -> None:
    sample = np.concatenate([drawn(2.5, 20_000, x_min=8), np.repeat(np.arange(1, 8), 2_000)])
    fit = fit_tail(*spectrum(sample))
    assert fit is not None
    assert fit.x_min >= 8, "the least distance may lie further out, never before"
    assert fit.exponent == pytest.approx(2.5, abs=0.05)
    assert fit.num_entities == np.count_nonzero(sample >= fit.x_min)
    assert fit.versus_lognormal > -1, "no worse than the lognormal on its own data"


def test_a_lognormal_is_told_from_a_power_law() -> None:
    sample = np.ceil(np.random.default_rng(1).lognormal(2.0, 0.6, 20_000)).astype(np.int64)
    fit = fit_tail(*spectrum(sample))
    assert fit is not None
    assert fit.versus_lognormal < 0


def test_bootstrap_covers_the_exponent() -> None:
    values, entities = spectrum(drawn(2.2, 20_000))
    fit = fit_tail(values, entities)
    assert fit is not None
    exponents = likeliest_exponents(values, resampled(entities, 100, seed=0), fit.x_min)
    low, high = interval(exponents)
    assert low < fit.exponent < high
    assert low < 2.2 < high
    assert high - low == pytest.approx(2 * 1.96 * (2.2 - 1) / np.sqrt(fit.num_entities), rel=0.5)
    # One spectrum: the package and ours find the same maximum.
    assert likeliest_exponents(values, entities[None], fit.x_min)[0] == pytest.approx(
        fit.exponent, abs=1e-3
    )


@pytest.mark.slow
def test_the_likeliest_exponent_at_a_high_cut_off() -> None:
    """From a cut-off of 10 on the package would approximate."""
    values, entities = spectrum(drawn(2.5, 100_000, x_min=10))
    fit = fit_tail(values, entities)
    assert fit is not None
    assert fit.x_min >= 10
    assert fit.exponent == pytest.approx(
        likeliest_exponents(values, entities[None], fit.x_min)[0], abs=5e-5
    )
    low, high = interval(likeliest_exponents(values, resampled(entities, 50, seed=0), fit.x_min))
    assert low < fit.exponent < high


@pytest.mark.parametrize("sample", [[], [1, 2], [3] * 50, [1] * 8 + [2]])
def test_nothing_to_fit(sample: list[int]) -> None:
    assert fit_tail(*spectrum(np.array(sample, np.int64))) is None


def test_ten_entities_are_enough() -> None:
    assert fit_tail(*spectrum(np.array([1] * 7 + [2, 3, 9]))) is not None
