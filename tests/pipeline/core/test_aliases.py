"""Normalisation, keys, merging of partial rows, fuzzy blocks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.aliases import (
    PARTIAL,
    fold,
    fuzzy_blocks,
    fuzzy_queries,
    index_keys,
    merge_partials,
    normalise,
    partial_rows,
    query_keys,
    sorted_postings,
)
from schemas import ALIASES


@pytest.mark.parametrize(
    ("surface", "key"),
    [
        ("U.S.", "u s"),  # meets the tokenised form
        ("u . s .", "u s"),
        ("  Málaga ", "málaga"),
        ("AT&T", "at t"),
        ("O’Neill—Smith", "o neill smith"),
        ("ＰＡＲＩＳ", "paris"),  # NFKC
        ("Straße", "strasse"),  # case folding
        ("\u200f\u00a0", ""),  # invisible characters alone name nothing
        ("...", ""),
        ("x" * 400, "x" * 250),  # a very long name stays a key
    ],
)
def test_normalise(surface: str, key: str) -> None:
    assert normalise(surface) == key


@given(st.text(max_size=40))
def test_normalise_is_idempotent(surface: str) -> None:
    assert normalise(normalise(surface)) == normalise(surface)


def test_keys_of_builder_and_reader_meet() -> None:
    assert "paris" in index_keys("Paris (Texas)", "title")
    assert "malaga" in index_keys("Málaga", "label")
    assert fold("málaga") in query_keys("Málaga")
    assert "beatles" in query_keys("the Beatles")
    assert "france" in query_keys("France's")
    assert "german" in query_keys("Germans")


def rows(*values: tuple[str, int, str, int]) -> pa.Table:
    return partial_rows(ALIASES.from_rows(list(values)))


def test_partial_rows_unite_sources_and_count_anchors() -> None:
    found = rows(("Paris", 90, "label", 1), ("PARIS", 90, "alias", 1), ("Paris", 90, "anchor", 7))
    assert found.to_pylist() == [{"key": "paris", "qid": 90, "flags": 1 | 2 | 16, "count": 7}]


PARTIAL_ROW = st.tuples(
    st.sampled_from(["a", "b", "c"]), st.integers(1, 3), st.sampled_from([1, 2, 16]), st.integers(0, 5)
)


@given(st.lists(PARTIAL_ROW, max_size=20), st.integers(0, 20), st.randoms())
def test_merge_is_the_same_in_any_order_and_any_split(values, cut: int, random) -> None:
    def table(part) -> pa.Table:
        return pa.Table.from_pylist(
            [dict(zip(("key", "qid", "flags", "count"), row, strict=True)) for row in part], schema=PARTIAL
        )

    def as_set(merged: pa.Table) -> set[tuple[object, ...]]:
        return {tuple(row.values()) for row in merged.to_pylist()}

    whole = merge_partials([table(values)])
    shuffled = list(values)
    random.shuffle(shuffled)
    parts = [merge_partials([table(shuffled[:cut])]), table(shuffled[cut:])]
    assert as_set(merge_partials(parts)) == as_set(whole)
    assert whole.num_rows == len({row[:2] for row in values})
    assert sum(whole.column("count").to_pylist()) == sum(row[3] for row in values)


def test_postings_keep_the_most_pointed_to() -> None:
    merged = rows(("x", 1, "label", 1), ("x", 2, "anchor", 3), ("x", 3, "label", 1), ("a", 9, "label", 1))
    popularity = np.array([{1: 5, 2: 0, 3: 50, 9: 1}[qid] for qid in merged.column("qid").to_pylist()])
    kept = sorted_postings(merged, popularity, 2)
    assert list(zip(kept.column("key").to_pylist(), kept.column("qid").to_pylist(), strict=True)) == [
        ("a", 9),
        ("x", 2),  # anchors first
        ("x", 3),  # then popularity
    ]


LETTERS = st.text("abcdefgh ", min_size=6, max_size=14).map(normalise).filter(lambda key: len(key) >= 6)


@settings(max_examples=200)
@given(LETTERS, st.integers(0, 2), st.integers(0, 100), st.sampled_from("abcxyz"))
def test_one_edit_always_shares_a_block(key: str, kind: int, place: int, letter: str) -> None:
    place %= len(key)
    edited = [
        key[:place] + key[place + 1 :],
        key[:place] + letter + key[place:],
        key[:place] + letter + key[place + 1 :],
    ]
    assert set(fuzzy_blocks(key)) & set(fuzzy_queries(edited[kind]))
