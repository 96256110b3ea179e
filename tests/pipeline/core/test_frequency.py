"""Statistics of the tail against hand-computed cases and naive counts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import frequency


def spectrum(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    values, entities = np.unique(np.array(counts), return_counts=True)
    return values, entities


def test_hand_computed_summary() -> None:
    values = spectrum([1, 1, 1, 3, 4])
    assert frequency.hapax_share(*values) == pytest.approx(3 / 5)
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


def test_zeta() -> None:
    assert frequency.hurwitz_zeta(2.0, 1) == pytest.approx(np.pi**2 / 6, rel=1e-10)
    assert frequency.hurwitz_zeta(1.5, 3) == pytest.approx(2.612375348685488 - 1 - 2**-1.5, rel=1e-9)


@pytest.mark.parametrize("exponent", [1.8, 2.5, 3.0])
def test_power_law_recovers_its_exponent(exponent: float) -> None:
    random = np.random.default_rng(0)
    grid = np.arange(1, 200_000)
    probability = grid**-exponent
    sample = random.choice(grid, size=50_000, p=probability / probability.sum())
    fit = frequency.fit_power_law(*spectrum(sample.tolist()))
    assert fit is not None
    assert fit.exponent == pytest.approx(exponent, abs=0.05)
    assert fit.ks < 0.03


def test_nothing_to_fit() -> None:
    assert frequency.fit_power_law(*spectrum([1, 2])) is None
    assert frequency.fit_power_law(*spectrum([3] * 50)) is None


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), max_size=30), st.integers(2, 6))
def test_pairs_equal_a_naive_count(mentions: list[tuple[int, int]], limit: int) -> None:
    sentences = np.array([sentence for sentence, _ in mentions], np.int64)
    qids = np.array([qid for _, qid in mentions], np.uint32)
    pairs, owners, over = frequency.sentence_pairs(sentences, qids, limit)
    naive, naive_over = [], 0
    for sentence in sorted(set(sentences.tolist())):
        distinct = sorted({qid for owner, qid in mentions if owner == sentence})
        if len(distinct) > limit:
            naive_over += 1
        else:
            naive += [(sentence, *pair) for pair in combinations(distinct, 2)]
    assert sorted((int(owner), int(a), int(b)) for owner, (a, b) in zip(owners, pairs, strict=True)) == sorted(naive)
    assert over == naive_over
