"""Zipf's law in whole numbers, exact shares, generators that do not disturb each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.synth.choices import generator, share_of, zipf_counts


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((6, 3, 0.0), [2, 2, 2]),  # exponent 0: all alike
        ((11, 3, 1.0), [6, 3, 2]),  # 1 : 1/2 : 1/3
        ((2, 5, 1.0), [1, 1]),  # ranks without a sentence are left out
    ],
)
def test_counts_by_hand(arguments: tuple[int, int, float], wanted: list[int]) -> None:
    assert zipf_counts(*arguments) == wanted


@given(st.integers(1, 500), st.integers(1, 300), st.floats(0, 3))
def test_counts_add_up_and_fall(num_sentences: int, num_subjects: int, exponent: float) -> None:
    counts = zipf_counts(num_sentences, num_subjects, exponent)
    assert sum(counts) == num_sentences
    assert counts == sorted(counts, reverse=True)
    assert len(counts) <= num_subjects
    assert min(counts) > 0


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_the_exponent_is_recovered(exponent: float) -> None:
    """The slope of the rank plot, where counts are large enough for rounding not to matter."""
    counts = np.array(zipf_counts(100_000, 1000, exponent))
    counts = counts[counts >= 20]
    ranks = np.arange(1, len(counts) + 1)
    slope, _ = np.polyfit(np.log(ranks), np.log(counts), 1)
    assert slope == pytest.approx(-exponent, abs=0.01)


@given(st.integers(0, 200), st.floats(0, 1), st.floats(0, 1))
def test_shares_are_exact_and_nested(num_items: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    smaller = share_of(num_items, low, generator(1, "links"))
    larger = share_of(num_items, high, generator(1, "links"))
    assert len(smaller) == round(low * num_items)
    assert smaller <= larger <= set(range(num_items))


def test_generators_differ_by_purpose_and_seed_alone() -> None:
    def draw(seed: int, purpose: str) -> list[float]:
        chooser = generator(seed, purpose)
        return [chooser.random() for _ in range(4)]

    assert draw(1, "a") == draw(1, "a")
    assert draw(1, "a") != draw(1, "b")
    assert draw(1, "a") != draw(2, "a")
