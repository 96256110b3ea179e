"""Normalisation and keys."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.index.name_keys import (
    SOURCE_BITS,
    fold,
    index_keys,
    normalise,
    normalise_any,
    query_keys,
)
from pipeline.kb.terms import clean


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
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940",
            "\u0939\u093f\u0928\u094d\u0926\u0940",
        ),  # marks stay on their letters
        ("a\u00a8 \ufe0fb\ufe0f", "a b"),  # but not alone, nor invisible ones
        ("x" * 400, "x" * 250),  # a very long name stays a key
    ],
)
def test_normalise(surface: str, key: str) -> None:
    assert normalise(surface) == key


@given(st.text(max_size=40))
def test_normalise_is_idempotent(surface: str) -> None:
    assert normalise(normalise(surface)) == normalise(surface)


@given(st.one_of(st.text(max_size=40), st.text(st.characters(max_codepoint=127), max_size=300)))
def test_the_short_way_for_ascii_is_the_same(surface: str) -> None:
    assert normalise(surface) == normalise_any(surface)


def test_keys_of_builder_and_reader_meet() -> None:
    assert "paris" in index_keys("Paris (Texas)", "title")
    assert "malaga" in index_keys("Málaga", "label")
    assert fold("málaga") in query_keys("Málaga")
    assert "beatles" in query_keys("the Beatles")
    assert "france" in query_keys("France's")
    assert "german" in query_keys("Germans")


SURFACE = st.one_of(
    st.text(max_size=30),
    st.text("aé ñß-'’._()\u200f\u200d\u00a0\u0301\u093f\u0939\ufe0f", max_size=12),
    st.text("aé ", min_size=240, max_size=270),
)


@given(SURFACE, st.sampled_from(sorted(SOURCE_BITS)))
def test_what_is_listed_is_found(surface: str, source: str) -> None:
    """Builder and reader share the normalisation: the first key of a mention, and that without
    diacritics, are listed.
    """
    listed = index_keys(surface, source)
    wanted = [key for key in (normalise(surface), fold(normalise(surface))) if key]
    assert set(wanted) <= set(listed)
    assert query_keys(surface)[:1] == wanted[:1]
    assert set(wanted) <= set(query_keys(surface))
    assert all(len(key) <= 250 and key == key.strip() for key in listed)


def test_a_name_of_the_knowledge_base_has_the_key_of_its_mention() -> None:
    """Every character of Unicode inside a name, as the builder keeps it and as a text has it."""
    different = [
        f"U+{number:04X} {unicodedata.category(chr(number))}"
        for number in range(sys.maxunicode + 1)
        if not unicodedata.category(chr(number)).startswith(("Co", "Cn"))
        and normalise(f"Par{chr(number)}is") != normalise(clean(f"Par{chr(number)}is"))
    ]
    assert not different


@pytest.mark.parametrize(
    "invisible", ["\u00ad", "\ufeff", "\u200b", "\u2060", "\u200e", "\x01", "\x7f"]
)
def test_invisible_characters_cut_no_word(invisible: str) -> None:
    assert normalise(f"{invisible}Par{invisible}is{invisible} Ville{invisible}") == "paris ville"
