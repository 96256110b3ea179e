"""Statistics of the tail against hand-computed cases and naive counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stats import frequency


def spectrum(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    values, entities = np.unique(np.array(counts), return_counts=True)
    return values, entities


def test_hand_computed_summary() -> None:
    values = spectrum([1, 1, 1, 3, 4])
    assert frequency.share_of_frequency(*values, 1) == pytest.approx(3 / 5)
    assert frequency.share_of_frequency(*values, 2) == 0
    assert frequency.good_turing_unseen(*values) == pytest.approx(3 / 10)
    assert frequency.gini(*values) == pytest.approx(0.32)
    assert frequency.gini(*spectrum([2, 2, 2])) == pytest.approx(0.0)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_gini_equals_the_mean_difference(counts: list[int]) -> None:
    values = np.array(counts, np.float64)
    naive = np.abs(values[:, None] - values[None, :]).sum() / (2 * len(values) ** 2 * values.mean())
    assert frequency.gini(*spectrum(counts)) == pytest.approx(naive, abs=1e-9)


def test_bands() -> None:
    # mentions: 60, 20, 10, then ten singletons; head up to half, torso up to 0.8 of 100
    head, torso = frequency.band_cutoffs(*spectrum([60, 20, 10] + [1] * 10), 0.5, 0.8)
    assert (head, torso) == (60, 20)
    assert frequency.band_cutoffs(np.empty(0, np.int64), np.empty(0, np.int64), 0.5, 0.8) == (1, 1)


def test_resamples_are_spectra_of_as_many_entities() -> None:
    values, entities = spectrum([1] * 30 + [2] * 10 + [9] * 3)
    samples = frequency.resampled(entities, 400, seed=1)
    assert samples.shape == (400, 3)
    assert (samples.sum(1) == 43).all()
    assert samples.mean(0) == pytest.approx(entities, abs=1.0)
    assert (frequency.resampled(entities, 400, seed=1) == samples).all()
    for name, figure in frequency.spectrum_figures(values, entities).items():
        resamples = frequency.spectrum_figures(values, samples)[name]
        one_by_one = [frequency.spectrum_figures(values, row)[name] for row in samples]
        assert resamples == pytest.approx(one_by_one), name
        low, high = frequency.interval(resamples)
        assert low < figure < high, name


def test_interval_of_a_share_is_binomial() -> None:
    low, high = frequency.share_interval(300, 1000, 4000, seed=0)
    width = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert (low, high) == pytest.approx((0.3 - width, 0.3 + width), abs=0.004)
