"""Windows, words, facts, splits; semantic importance; policies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.examples import TokenSpan, cut_windows, facts_between, shuffle_key, split_of, word_starts
from pipeline.core.policies import PolicyLimits, default_r_freq, policy_bits
from pipeline.core.semantic_importance import cosines, replaced, semantic_importance, window
from schemas.shards import POLICY_BITS


@st.composite
def sentence(draw):
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=40))
    words = np.repeat(np.arange(len(lengths)), lengths)
    spans, place = [], 0
    while place < len(words) and len(spans) < 6:
        start = place + draw(st.integers(0, 6))
        end = start + draw(st.integers(1, 5))
        if end <= len(words):
            spans.append(TokenSpan(start, end, len(spans)))
        place = end
    return words, spans


@given(sentence(), st.integers(6, 30))
def test_windows_cover_the_sentence_and_cut_no_span(case, width: int) -> None:
    words, spans = case
    windows, lost = cut_windows(len(words), words, spans, width)
    assert [window.start for window in windows] == [0, *(window.end for window in windows[:-1])]
    assert windows[-1].end == len(words)
    assert all(0 < window.end - window.start <= width for window in windows)
    kept = [span for window in windows for span in window.spans]
    assert kept == [span for span in spans if span in kept]  # in order, each once
    assert lost == len(spans) - len(kept) == 0  # every span fits into a window here
    for piece in windows:
        assert all(piece.start <= span.start < span.end <= piece.end for span in piece.spans)
        inside_a_span = any(span.start < piece.end < span.end for span in spans)
        assert not inside_a_span


def test_a_span_longer_than_a_window_is_lost_and_counted() -> None:
    windows, lost = cut_windows(10, np.arange(10), [TokenSpan(1, 9, 0)], 6)
    assert lost == 1
    assert sum(window.end - window.start for window in windows) == 10


def test_windows_prefer_word_starts() -> None:
    windows, _ = cut_windows(6, np.array([0, 1, 1, 1, 2, 3]), [], 3)
    assert [(window.start, window.end) for window in windows] == [(0, 1), (1, 4), (4, 6)]


def test_word_starts() -> None:
    assert word_starts(np.array([0, 0, 1, 2, 2])).tolist() == [0, 2, 3]
    assert word_starts(np.array([-1, -1, 0])).tolist() == [0, 1, 2]  # a token without a word is a word
    assert word_starts(np.empty(0, np.int64)).tolist() == []


def test_facts_are_among_the_entities_of_the_window() -> None:
    tails = {5: [(90, 7), (91, 8), (92, 5)], 7: [(93, 5)]}
    assert facts_between([5, 7, 5], tails) == ([0, 1], [90, 93], [1, 0])
    assert facts_between([6], tails) == ([], [], [])


def test_splits_are_stable_and_of_the_asked_size() -> None:
    splits = [split_of(str(number), 0, 0.2) for number in range(4000)]
    assert splits == [split_of(str(number), 0, 0.2) for number in range(4000)]
    assert splits.count("validation") == pytest.approx(800, abs=80)
    assert {split_of(str(number), 0, 0.0) for number in range(50)} == {"train"}
    assert shuffle_key("a", 1, 0) != shuffle_key("a", 2, 0)


def test_replaced() -> None:
    ids = np.array([5, 6, 7, 8])
    assert replaced(ids, [(1, 3)], 99).tolist() == [5, 99, 99, 8]
    assert replaced(ids, [(0, 1), (3, 4)], None).tolist() == [6, 7]


@given(st.integers(1, 60), st.integers(5, 40), st.data())
def test_window_holds_the_span(length: int, width: int, data) -> None:
    start = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(start + 1, min(length, start + width)))
    low, high = window(length, (start, end), width)
    assert 0 <= low < high <= length
    assert high - low == min(length, width)
    assert low <= (start + end) // 2 <= high


def test_cosines_are_rounded_and_si_is_bounded() -> None:
    values = cosines(np.array([[1.0, 0], [1, 0], [1, 0], [0, 0]]), np.array([[2.0, 0], [0, 1], [-1, 0], [1, 0]]))
    assert values.tolist() == [1.0, 0.0, -1.0, 0.0]
    assert cosines(np.array([[1.0, 1]]), np.array([[1.0, 0.999]])).tolist() == [pytest.approx(1.0)]
    importance = semantic_importance(values)
    assert importance.tolist() == [1.0, 10_000.0, 10_000.0, 10_000.0]  # no pole, and no sign flip below zero


LIMITS = PolicyLimits(r_freq=5, median_distance=0.02, klt_r_min=2, klt_r_max=10)


def bits_of(cosine: list[float], frequency: list[int], reach: list[int], sentences: list[int]) -> list[set[str]]:
    found = policy_bits(*(np.array(column) for column in (sentences, cosine, frequency, reach)), LIMITS)
    return [{name for name, bit in POLICY_BITS.items() if bits & bit} for bits in found.tolist()]


def test_policies() -> None:
    chosen = bits_of([0.90, 0.98, 0.90, 0.99], [2, 2, 50, 2], [3, 3, 3, 0], [0, 0, 1, 1])
    assert chosen[0] == {"all", "low-frequency", "importance", "long-tail-important", "klt"}
    assert chosen[1] == {"all", "low-frequency"}  # below its sentence's mean
    assert chosen[2] == {"all", "high-frequency", "importance"}
    assert chosen[3] == set()  # no usable triple: no policy


def test_a_lone_entity_must_reach_the_corpus_median() -> None:
    assert "importance" not in bits_of([0.99], [1], [1], [0])[0]
    assert "importance" in bits_of([0.98], [1], [1], [0])[0]


def test_a_mention_without_a_score_is_not_important() -> None:
    assert bits_of([float("nan")], [1], [1], [0]) == [{"all", "low-frequency"}]


def test_default_r_freq() -> None:
    assert default_r_freq(100, 90) == 3
    assert default_r_freq(100, 10) == 10
    assert default_r_freq(0, 0) == 3
    assert policy_bits(*(np.empty(0) for _ in range(4)), LIMITS).tolist() == []
