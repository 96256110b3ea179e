"""Words: hashes, and the bounded table of what the linker must know of each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.index import words
from pipeline.index.name_keys import normalise
from pipeline.index.words import (
    LOWER,
    OPENS,
    STOP,
    TERM_BITS,
    WordTable,
    is_listed,
    is_term,
    pair_hashes,
    singular,
    term_hash,
    text_terms,
    word_hash,
)

NAMES = (
    "OPENS",
    "INNER",
    "STOP",
    "ALPHA",
    "EDGED",
    "JOINS",
    "UPPER",
    "LOWER",
    "EMPTY",
    "POSSESSIVE",
    "SHORT",
    "ENDS",
    "GENERIC",
)


def flags_of(word: str) -> set[str]:
    table = WordTable()
    (number,) = table.numbers([word])
    return {name for name in NAMES if table.flags[number] & getattr(words, name)}


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("Paris", "OPENS ALPHA"),
        ("river", "LOWER ALPHA"),
        ("years", "LOWER ALPHA GENERIC"),  # never a mention in lower case
        ("NATO", "OPENS ALPHA UPPER"),
        ("X", "OPENS ALPHA SHORT"),  # one letter is not shouted
        ("1990", "OPENS"),
        ("3rd", "OPENS ALPHA"),
        ("of", "LOWER ALPHA INNER STOP"),
        ("The", "OPENS ALPHA INNER STOP"),
        ("de", "LOWER ALPHA INNER"),  # within names, but no stop word: it may be linked
        ("Seven", "OPENS ALPHA STOP"),
        ("U.S.", "OPENS ALPHA UPPER EDGED"),
        ("'s", "ALPHA POSSESSIVE STOP SHORT"),
        ("-", "INNER EDGED JOINS EMPTY SHORT"),
        (".", "INNER EDGED EMPTY SHORT ENDS"),
        ("?", "EDGED EMPTY SHORT ENDS"),
        ("été", "LOWER ALPHA"),
        ("京都", "ALPHA"),  # no letter case
    ],
)
def test_flags(word: str, wanted: str) -> None:
    assert flags_of(word) == set(wanted.split())


def test_every_flag_is_a_bit_of_its_own_and_fits() -> None:
    bits = [getattr(words, name) for name in NAMES]
    assert len(set(bits)) == len(NAMES)
    assert all(bit.bit_count() == 1 and bit < 1 << 16 for bit in bits)


@given(st.lists(st.text(max_size=8), max_size=40))
def test_a_word_has_one_number_and_what_belongs_to_it(texts: list[str]) -> None:
    table = WordTable()
    numbers = table.numbers(texts)
    assert len(table) == len(set(texts)) == len(set(numbers))
    assert table.numbers(texts) == numbers
    assert [table.keys[number] for number in numbers] == [normalise(text) for text in texts]
    hashes, singulars = table.hashes
    assert hashes[numbers].tolist() == [word_hash(normalise(text)) for text in texts]
    assert singulars[numbers].tolist() == [word_hash(singular(normalise(text))) for text in texts]
    assert set(table.terms[numbers].tolist()) - {0} == {
        term_hash(longest)
        for text in texts
        if is_term(longest := max(normalise(text).split(), key=len, default=""))
    } - {0}


def test_words_go_by_any_name() -> None:
    table, asked = WordTable(), []
    spelt = {7: "Paris", 9: "river"}

    def text_of(name: int) -> str:
        asked.append(name)
        return spelt[name]

    assert table.numbers([7, 9, 7], text_of) == [0, 1, 0]
    assert table.numbers([9], text_of) == [1]
    assert asked == [7, 9], "a word that is known is not looked at again"
    assert table.keys == ["paris", "river"]


@pytest.mark.parametrize(
    ("limit", "lengths"), [(3, [2, 4, 2, 4]), (100, [2, 4, 6, 8]), (1, [2, 2, 2, 2])]
)
def test_the_table_starts_anew_between_batches_only(limit: int, lengths: list[int]) -> None:
    table, found = WordTable(limit), []
    for batch in range(4):
        table.make_room()
        numbers = table.numbers([f"w{batch}", f"v{batch}", f"w{batch}"])
        assert [table.keys[number] for number in numbers] == [f"w{batch}", f"v{batch}", f"w{batch}"]
        assert (
            len(table.flags)
            == len(table.terms)
            == len(table.hashes[0])
            == len(table.keys)
            == len(table)
        )
        found.append(len(table))
    assert found == lengths


def test_clear_forgets_all() -> None:
    table = WordTable()
    table.numbers(["a", "b"])
    table.clear()
    assert len(table) == len(table.flags) == len(table.terms) == 0
    assert table.numbers(["b"]) == [0]


def test_pairs_differ_by_their_words_and_by_their_order() -> None:
    hashes = np.array([word_hash(f"w{number}") for number in range(200)], np.uint32)
    first, second = (part.ravel() for part in np.meshgrid(hashes, hashes))
    pairs = pair_hashes(first, second)
    assert pairs.dtype == np.uint64
    assert len(np.unique(pairs)) == len(pairs)
    assert not np.isin(
        pair_hashes(hashes[:50], hashes[50:100]), pair_hashes(hashes[50:100], hashes[:50])
    ).any()
    # The upper bits are what a table of bits is addressed by: 40,000 pairs fill 65,536 places as
    # chance would.
    filled = len(np.unique(pairs >> np.uint64(48)))
    assert filled == pytest.approx(65_536 * (1 - np.exp(-len(pairs) / 65_536)), rel=0.02)
    assert len(pair_hashes(hashes[:0], hashes[:0])) == 0


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("cities", "city"), ("rivers", "river"), ("class", "class"), ("virus", "virus"), ("basis", "basis"),
        ("gas", "gas"),  # too short to tell
        ("ties", "tie"), ("river", "river"), ("", ""),
    ],
)  # fmt: skip
def test_singular(word: str, wanted: str) -> None:
    assert singular(word) == wanted


def test_terms_are_content_words() -> None:
    assert text_terms("The capital of France, the capital!") == {
        term_hash("capital"),
        term_hash("france"),
    }
    assert text_terms("of an Ox") == set()  # stop words, and words of two letters
    assert 0 <= term_hash("capital") < 1 << TERM_BITS
    assert [is_listed(word) for word in ("ox", "x", "the", "")] == [True, False, False, False]


def test_what_is_kept_of_words_follows_the_table() -> None:
    table = WordTable(limit=3)
    assert table.numbers(["The", "rivers"]) == [0, 1]
    flags = table.flags
    assert [flags[0] & (OPENS | STOP), flags[1] & (OPENS | LOWER)] == [OPENS | STOP, LOWER]
    assert table.flags is flags  # no word came in between
    assert table.terms.tolist() == [0, term_hash("rivers")]
    assert table.numbers(["rivers", "Rhine", "of"]) == [1, 2, 3]
    assert len(table.flags) == len(table.terms) == len(table.hashes[1]) == 4
    table.make_room()
    assert table.numbers(["Rhine", "a", "b", "c"]) == [0, 1, 2, 3]
    assert table.terms[0] == term_hash("rhine")
