"""Blocks that lead from a misspelt key to the right one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import LinkConfig
from pipeline.index.fuzzy_keys import (
    block_hashes,
    is_slip,
    may_mean,
    query_hashes,
    reorderings,
    similar_choices,
    with_fewest_edits,
)
from pipeline.index.name_keys import normalise
from schemas.errors import ConfigError

LETTERS = (
    st.text("abcdefgh ", min_size=5, max_size=14).map(normalise).filter(lambda key: len(key) >= 5)
)


@settings(max_examples=300)
@given(LETTERS, st.integers(0, 3), st.integers(0, 100), st.sampled_from("abcxyz"))
def test_one_edit_always_shares_a_block(key: str, kind: int, place: int, letter: str) -> None:
    place %= len(key)
    edited = [
        key[:place] + key[place + 1 :],
        key[:place] + letter + key[place:],
        key[:place] + letter + key[place + 1 :],
        key[:place] + key[place : place + 2][::-1] + key[place + 2 :],
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
    assert set(block_hashes("one two three four five")) & set(
        query_hashes("five one three two four")
    )
    assert len(block_hashes("one two three four")) == 2


@pytest.mark.parametrize(
    ("key", "other", "wanted"),
    [
        ("dave rbubeck", "dave brubeck", True),
        ("otatwa", "ottawa", True),  # neighbours changed round
        ("otawa", "ottawa", True),
        ("lawson", "lawton", False),  # a short word with another letter is another word
        ("nottinghan", "nottingham", True),
        ("thero", "hero", False),  # another first letter
        ("abuquerque", "albuquerque", True),
        ("boeing 737", "boeing 747", False),  # another number
        ("world war ii", "world war iii", False),
        ("46th academy awards", "45th academy awards", False),
        ("45th acadmy awards", "45th academy awards", True),
        ("richard n grant", "richard e grant", False),  # another initial
        ("t burrell", "ty burrell", True),
    ],
)
def test_what_may_be_a_slip(key: str, other: str, wanted: object) -> None:
    assert may_mean(key, other) is wanted


@pytest.mark.parametrize(
    ("key", "choices", "wanted"),
    [
        (
            "houston adros",
            ["houston astros", "houston aeros"],
            ["houston aeros"],
        ),  # one edit before two
        ("ottawwa", ["ottawa", "ottowa", "oslo"], ["ottawa"]),
        ("jordan micheal", ["michael jordan", "michael jackson"], ["michael jordan"]),
        (
            "federated statte of micronesai",
            ["federated states of micronesia"],
            ["federated states of micronesia"],
        ),
        ("velmora", ["valmeyer", "elmo"], []),
        ("one two three", [], []),
    ],
)
def test_the_fewest_edits_win(key: str, choices: list[str], wanted: list[str]) -> None:
    assert [one.key for one in with_fewest_edits(similar_choices(key, choices, 88.0))] == wanted


@settings(max_examples=200)
@given(
    LETTERS.filter(lambda key: len(key) >= 7 and " " not in key),
    st.integers(1, 100),
    st.sampled_from("abcxyz"),
)
def test_one_edit_of_a_long_word_is_always_found(key: str, place: int, letter: str) -> None:
    place = 1 + place % (len(key) - 1)
    for edited in (key[:place] + key[place + 1 :], key[:place] + letter + key[place:]):
        if len(edited) >= 7 and edited != key:
            (one,) = similar_choices(edited, [key], 100.0)
            assert (one.key, one.edits) == (key, 1)
            assert 0.8 <= one.similarity < 1


def test_words_in_another_order_are_a_little_less_alike() -> None:
    (one,) = similar_choices("jordan michael", ["michael jordan"], 88.0)
    assert (one.edits, one.similarity) == (0, 0.95)


@pytest.mark.parametrize(("cutoff", "wanted"), [(95.0, 1), (95.1, 0), (100.0, 0)])
def test_the_strictest_cutoffs_leave_out_other_orders(cutoff: float, wanted: int) -> None:
    """Words in another order are alike by .95 at most; the scorer takes no cutoff above 100."""
    assert len(similar_choices("jordan the michael", ["michael jordan the"], cutoff)) == wanted


def test_a_cutoff_is_a_ratio() -> None:
    with pytest.raises(ConfigError, match="fuzzy_cutoff is 500.0, but must be from 0 to 100"):
        LinkConfig(fuzzy_cutoff=500.0)


@pytest.mark.parametrize(
    ("key", "choice", "wanted"),
    [
        ("michele obama", "michelle obama", True),  # a letter that is doubled
        ("litchfeild", "litchfield", True),  # swapped neighbours
        ("kosuke fukodome", "kosuke fukudome", True),  # another vowel
        ("sanfrancisco", "san francisco", True),  # a lost space
        ("appstore", "app store", True),  # also in a short name
        ("david gross", "david cross", False),  # the first letter of a word
        ("john reaves", "john reaver", False),  # another consonant
        ("mandan", "madan", False),  # too short
        ("william golding", "william golden", False),  # two edits
        ("one world", "oneworld", False),  # a space too many may be another name
        ("strasbourg", "strasbourg", False),  # no slip at all
    ],
)
def test_slips(key: str, choice: str, wanted) -> None:
    assert is_slip(key, choice) is wanted
