"""Names found by their words, the same as by looking at every place in the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.synth.names import NameFinder, words_of

WORD = st.sampled_from(["New", "York", "new", "City", "of", "St", "A"])
TEXT = st.lists(WORD, max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("We saw New York City.", {"New York", "York"}),  # inside longer names too
        ("NEW-YORK!", {"New York", "York"}),  # no letter case, no punctuation
        ("Yorkers in Newark", set()),  # whole words
        ("at St. Kilda", {"St Kilda"}),
        ("", set()),
    ],
)
def test_names_by_hand(text: str, wanted: set[str]) -> None:
    assert NameFinder(["New York", "York", "St Kilda", "..."]).names_in(text) == wanted


@given(st.lists(TEXT, max_size=5), TEXT)
def test_the_same_as_every_place(names: list[str], text: str) -> None:
    words = words_of(text)
    wanted = {
        name
        for name in names
        for start in range(len(words))
        if words_of(name) and words[start : start + len(words_of(name))] == words_of(name)
    }
    assert NameFinder(names).names_in(text) == wanted
