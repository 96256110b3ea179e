"""Pairs against plain loops: within groups, mixed and back, in buckets, with both caps."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stats import pairs

BIG = 2**32 - 1
TRIPLES = st.sets(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([1, 2, 3, 4, 5, BIG])),
    max_size=40,
)


def packed(one: int, other: int) -> int:
    return one << 32 | other


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, BIG)), max_size=30))
def test_pairs_of_groups(members: set[tuple[int, int]]) -> None:
    rows = np.array(sorted(members), np.uint32).reshape(-1, 2)
    found, places = pairs.group_pairs(rows[:, 0], rows[:, 1])
    naive = []
    for group in sorted({group for group, _ in members}):
        qids = sorted(qid for owner, qid in members if owner == group)
        naive += [(group, packed(*pair)) for pair in combinations(qids, 2)]
    assert list(zip(rows[places, 0].tolist(), found.tolist(), strict=True)) == naive


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.integers(1, 9))
def test_counted_pairs_come_back_and_fall_into_buckets_in_order(
    numbers: list[int], num_buckets: int
) -> None:
    mixed, counts = pairs.counted(pairs._mixed(np.array(numbers, np.uint64)))
    assert (np.diff(mixed.astype(object)) > 0).all()
    assert dict(zip(pairs.unmixed(mixed).tolist(), counts.tolist(), strict=True)) == Counter(
        numbers
    )
    bounds = pairs.bucket_bounds(mixed, num_buckets)
    assert (bounds[0], bounds[-1]) == (0, len(mixed))
    for bucket, (low, high) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        assert all(int(number) * num_buckets >> 64 == bucket for number in mixed[low:high])


def test_buckets_are_even_for_ids_of_any_pattern() -> None:
    qids = np.arange(1, 120 * 400, 120, dtype=np.uint32)  # such as synthetic or sampled ids have
    found, _ = pairs.group_pairs(np.zeros(len(qids), np.uint32), qids)
    sizes = np.diff(pairs.bucket_bounds(pairs._mixed(found), 8))
    assert sizes.min() > 0.9 * sizes.max()


@settings(max_examples=200)
@given(TRIPLES, st.integers(2, 5), st.integers(0, 6))
def test_counts_with_caps_equal_plain_loops(
    members: set[tuple[int, int, int]], in_sentence: int, in_document: int
) -> None:
    rows = np.array(sorted(members), np.uint32).reshape(-1, 3)
    # Two units, each with whole documents: what they find is counted together.
    units = [rows[rows[:, 0] % 2 == part] for part in (0, 1)]
    found = [pairs.pair_occurrences(*unit.T, in_sentence, in_document) for unit in units]
    counted, sentences, documents = pairs.pair_counts(
        *(np.concatenate(parts) for parts in zip(*found, strict=True))
    )
    near: Counter[int] = Counter()
    together: set[tuple[int, int]] = set()
    for document, sentence in {row[:2] for row in members}:
        qids = sorted(row[2] for row in members if row[:2] == (document, sentence))
        if len(qids) <= in_sentence:
            near.update(packed(*pair) for pair in combinations(qids, 2))
            together |= {(document, packed(*pair)) for pair in combinations(qids, 2)}
    for document in {row[0] for row in members}:
        qids = sorted({row[2] for row in members if row[0] == document})
        if len(qids) <= in_document:
            together |= {(document, packed(*pair)) for pair in combinations(qids, 2)}
    numbers = counted.tolist()
    assert dict(zip(numbers, documents.tolist(), strict=True)) == Counter(
        pair for _, pair in together
    )
    assert {
        pair: count for pair, count in zip(numbers, sentences.tolist(), strict=True) if count
    } == near
