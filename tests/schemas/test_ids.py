"""Ids of items, of Wikidata and of a user's own: text and number, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import FIRST_OWN, UINT32_END, is_own, item_id, parse_item_id


@given(st.integers(1, UINT32_END - 1).filter(lambda number: number != FIRST_OWN))
def test_every_number_has_one_id(number: int) -> None:
    assert parse_item_id(item_id(number)) == number
    assert item_id(number).startswith("U" if is_own(number) else "Q")


@pytest.mark.parametrize(
    "text",
    [
        "", "Q", "U", "42", "P31", "L7", "Q0", "U0", "Q042", "Q-1", " Q1", "Q1 ", "Q٤٢", "Q1.0",
        f"Q{FIRST_OWN}",  # would be taken for an own one
        f"U{UINT32_END - FIRST_OWN}",  # one more than the columns hold
    ],
)  # fmt: skip
def test_anything_else_is_none(text: str) -> None:
    assert parse_item_id(text) is None
