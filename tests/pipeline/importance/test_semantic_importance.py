"""Semantic importance: cosines as they are, bounded at the pole; windows around a span."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.encoder.sequences import cosines, window
from pipeline.importance.semantic_importance import semantic_importance


@given(st.integers(1, 60), st.integers(5, 40), st.data())
def test_window_holds_the_span(length: int, width: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(start + 1, min(length, start + width)))
    low, high = window(length, (start, end), width)
    assert 0 <= low < high <= length
    assert high - low == min(length, width)
    assert low <= (start + end) // 2 <= high


def test_windows_of_arrays_are_those_of_their_elements() -> None:
    lengths, low, high = (
        np.array([3, 50, 50, 50]),
        np.array([0, 0, 30, 44]),
        np.array([1, 2, 40, 50]),
    )
    starts, ends = window(lengths, (low, high), 12)
    places = zip(lengths.tolist(), low.tolist(), high.tolist(), strict=True)
    assert [*zip(starts, ends, strict=True)] == [
        window(size, (first, last), 12) for size, first, last in places
    ]


def test_cosines_are_not_rounded_and_si_is_bounded() -> None:
    values = cosines(
        np.array([[1.0, 0], [1, 0], [1, 0], [0, 0]]), np.array([[2.0, 0], [0, 1], [-1, 0], [1, 0]])
    )
    assert values.tolist() == [1.0, 0.0, -1.0, 0.0]
    assert cosines(np.array([[1.0, 1]]), np.array([[1.0, 0.99]]))[0] == pytest.approx(
        0.99998737, abs=1e-8
    )
    importance = semantic_importance(values)
    assert importance.tolist() == [
        1.0,
        10_000.0,
        10_000.0,
        10_000.0,
    ]  # no pole, and no sign flip below zero


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_have_no_cosine(value: float) -> None:
    """They were taken for zero vectors: the highest importance."""
    with pytest.raises(ValueError, match="NaN or infinite"):
        cosines(np.array([[1.0, value]]), np.array([[1.0, 1.0]]))


def test_cosines_of_float32_vectors_are_exact_to_float32() -> None:
    random = np.random.default_rng(0)
    left = random.normal(size=(200, 768)).astype(np.float32)
    right = left + random.normal(size=left.shape).astype(np.float32) * np.float32(0.03)
    wanted = [
        float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))
        for a, b in zip(left.astype(float), right.astype(float), strict=True)
    ]
    assert np.abs(cosines(left, right) - wanted).max() < 1e-12
