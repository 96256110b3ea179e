"""Blocks that lead from a misspelt key to the right one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.aliases import normalise
from pipeline.core.fuzzy import block_hashes, query_hashes, reorderings

LETTERS = st.text("abcdefgh ", min_size=5, max_size=14).map(normalise).filter(lambda key: len(key) >= 5)


@settings(max_examples=300)
@given(LETTERS, st.integers(0, 2), st.integers(0, 100), st.sampled_from("abcxyz"))
def test_one_edit_always_shares_a_block(key: str, kind: int, place: int, letter: str) -> None:
    place %= len(key)
    edited = [
        key[:place] + key[place + 1 :],
        key[:place] + letter + key[place:],
        key[:place] + letter + key[place + 1 :],
    ]
    assert set(block_hashes(key)) & set(query_hashes(edited[kind]))


@pytest.mark.parametrize("key", ["", "abc", "1 2"])
def test_short_keys_are_not_listed(key: str) -> None:
    assert block_hashes(key) == []


def test_words_in_another_order() -> None:
    assert "michael jordan" in set(reorderings("jordan michael"))
    assert len(set(reorderings("a b c"))) == 5
    assert "jordan michael" not in set(reorderings("jordan michael"))
    assert list(reorderings("one two three four five")) == []
    assert set(block_hashes("one two three four five")) & set(query_hashes("five one three two four"))
    assert len(block_hashes("one two three four")) == 2
