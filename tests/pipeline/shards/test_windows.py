"""Windows, words, facts, splits; policies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.arrays.runs import first_of_overlapping
from pipeline.shards.policies import PolicyLimits, median_of_counts, policy_bits
from pipeline.shards.windows import (
    bucket_of,
    document_hash,
    in_validation,
    shuffle_keys,
    window_bounds,
)
from pipeline.stats.rare_entities import default_r_freq
from schemas.shards import POLICY_BITS
from tests.pipeline.shards import naive_shards


@st.composite
def sentence(draw):
    """Word numbers of its tokens; spans in order, none overlapping."""
    lengths = draw(st.lists(st.integers(1, 4), max_size=40))
    words = np.repeat(np.arange(len(lengths)), lengths)
    spans, place = [], 0
    while place < len(words) and len(spans) < 6:
        start = place + draw(st.integers(0, 6))
        end = start + draw(st.integers(1, 9))
        if end <= len(words):
            spans.append((start, end, len(spans)))
        place = end
    return words, spans


@given(st.lists(sentence(), max_size=5), st.integers(6, 30))
def test_windows_equal_those_of_one_sentence_after_another(sentences, width: int) -> None:
    """They cover every sentence, are as many as it takes, and cut no span that fits."""
    offsets = np.cumsum([0, *(len(words) for words, _ in sentences)])
    starts_word = np.concatenate(
        [np.empty(0, np.bool_), *(np.diff(words, prepend=-1) != 0 for words, _ in sentences)]
    )
    shifted = [(low + first, high + first) for first, (_, spans) in zip(offsets, sentences, strict=False)
               for low, high, _ in spans]  # fmt: skip
    spans = np.array(shifted, np.int64).reshape(-1, 2)
    bounds = window_bounds(offsets, starts_word, (spans[:, 0], spans[:, 1]), width)
    wanted = [
        int(first) + window.start
        for first, (words, spans) in zip(offsets, sentences, strict=False)
        for window in naive_shards.cut_windows(words.tolist(), spans, width)
    ]
    assert bounds.tolist() == [*wanted, offsets[-1]]
    assert (np.diff(bounds) <= width).all()
    for low, high in shifted:
        assert high - low > width or not ((bounds > low) & (bounds < high)).any()


def test_windows_prefer_word_starts() -> None:
    starts_word = np.array([True, True, False, False, True, True])
    none = np.empty(0, np.int64)
    assert window_bounds(np.array([0, 6]), starts_word, (none, none), 3).tolist() == [0, 1, 4, 6]
    assert window_bounds(np.array([0]), none.astype(bool), (none, none), 3).tolist() == [0]


def test_windows_of_a_very_long_sentence_take_little_time() -> None:
    """A book without a full stop, spans all over: linear, not a walk through all spans for each
    window.
    """
    starts = np.arange(0, 1_000_000, 10)
    bounds = window_bounds(
        np.array([0, 1_000_000]), np.ones(1_000_000, np.bool_), (starts, starts + 3), 126
    )
    assert len(bounds) - 1 == pytest.approx(1_000_000 / 126, rel=0.02)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=25))
def test_of_overlapping_spans_the_first_stays(drawn: list[tuple[int, int]]) -> None:
    spans = sorted((start, start + length) for start, length in drawn)
    starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
    assert first_of_overlapping(starts, ends).tolist() == naive_shards.keep_apart(spans)


def test_splits_are_stable_and_of_the_asked_size() -> None:
    hashes = np.array([document_hash(str(number), 0) for number in range(4000)], np.uint64)
    assert in_validation(hashes, 0.2).sum() == pytest.approx(800, abs=80)
    assert not in_validation(hashes, 0.0).any()
    assert (
        document_hash("a", 0) == 4678532820768690582
    )  # the same on every machine, in every version
    assert document_hash("a", 0) != document_hash("a", 1)


def test_shuffled_order_has_nothing_to_do_with_the_corpus() -> None:
    hashes = np.repeat(
        np.array([document_hash(str(number), 0) for number in range(50)], np.uint64), 80
    )
    keys = shuffle_keys(hashes, np.tile(np.arange(80) * 100, 50))
    assert len(np.unique(keys)) == len(keys) == 4000
    ranks = np.argsort(np.argsort(keys))
    assert abs(np.corrcoef(ranks, np.arange(4000))[0, 1]) < 0.05
    assert abs(np.corrcoef(ranks, hashes.astype(np.float64))[0, 1]) < 0.05  # nor with the split
    assert np.bincount(bucket_of(keys, 8), minlength=8) == pytest.approx(500, abs=90)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50), st.integers(1, 3000))
def test_buckets_are_ranges_of_keys(drawn: list[int], num_buckets: int) -> None:
    keys = np.array(sorted(drawn), np.uint64)
    buckets = bucket_of(keys, num_buckets)
    assert (np.diff(buckets) >= 0).all()
    assert buckets[0] >= 0
    assert buckets[-1] < num_buckets


@given(st.lists(st.integers(0, 20), max_size=40))
def test_median_of_counts(values: list[int]) -> None:
    found, counts = np.unique(np.array(values, np.float64), return_counts=True)
    shuffled = np.random.default_rng(0).permutation(len(found))
    assert median_of_counts(found[shuffled], counts[shuffled]) == (
        np.median(values) if values else 0.0
    )


LIMITS = PolicyLimits(r_freq=5, median_distance=0.02, klt_r_min=2, klt_r_max=10)


def bits_of(
    cosine: list[float], frequency: list[int], reach: list[int], sentences: list[int]
) -> list[set[str]]:
    found = policy_bits(
        *(np.array(column) for column in (sentences, cosine, frequency, reach)), LIMITS
    )
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
