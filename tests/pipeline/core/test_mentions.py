"""Mention detection: probes, trimming, and which of two overlapping spans wins."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.mentions import NamedEntity, Span, Token, _visible, _without_overlap, detect, trim

STOPS = {"the", "in", "he", "of", "a", "she", "is", "at"}


def tokens_of(text: str) -> list[Token]:
    found = []
    opens = True
    for match in re.finditer(r"\w+(?:'s)?|[^\w\s]", text):
        found.append(Token(match.group(), match.start(), match.end(), match.group().lower() in STOPS, opens))
        opens = match.group() == "."
    return found


def surfaces(text: str, names: set[str], named: list[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    entities = [NamedEntity(text.index(part), text.index(part) + len(part), label) for part, label in named]
    spans = detect(text, tokens_of(text), entities, lambda name: name in names, max_ngram=6)
    return [(text[span.start : span.end], span.detector) for span in spans]


@pytest.mark.parametrize(
    ("text", "names", "named", "wanted"),
    [
        ("She saw Paris today", {"Paris"}, [], [("Paris", "dictionary")]),
        ("She saw Paris today", {"Paris"}, [("Paris", "GPE")], [("Paris", "ner+dictionary")]),
        ("The Isle of Man is small", {"Man", "Isle of Man"}, [], [("Isle of Man", "dictionary")]),  # longest wins
        ("The end", {"The"}, [], []),  # a lone function word is no mention
        ("In 1990 it rained", {"1990", "In"}, [("1990", "DATE")], []),  # numbers are none either
        # a longer span of the recogniser hides a name inside it
        ("Paris Fishing Club won", {"Paris"}, [("Paris Fishing Club", "ORG")], [("Paris Fishing Club", "ner")]),
        ("the United Kingdom won", {"United Kingdom"}, [("the United Kingdom", "GPE")], [("United Kingdom", "ner+dictionary")]),
        ("France's king", {"France"}, [("France's", "GPE")], [("France", "ner+dictionary")]),
        ("He met Velmora", set(), [("Velmora", "PERSON")], [("Velmora", "ner")]),  # NIL is a mention too
    ],
)  # fmt: skip
def test_detect(text: str, names: set[str], named, wanted) -> None:
    assert surfaces(text, names, named) == wanted


def test_probes_do_not_cross_sentences() -> None:
    assert surfaces("He left Paris. Texas won", {"Paris. Texas", "Texas"}) == [("Texas", "dictionary")]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("“Paris”,", "Paris"), ("U.S.", "U.S."), ("Bath.", "Bath"), ("France's", "France"), ("Jr.", "Jr."), ("...", "")],
)
def test_trim(text: str, wanted: str) -> None:
    start, end = trim(text, 0, len(text))
    assert text[start:end] == wanted


SPAN = st.tuples(st.integers(0, 40), st.integers(1, 8), st.booleans(), st.sampled_from(["ner", "dictionary"]))


@given(st.lists(SPAN, max_size=25))
def test_what_is_left_does_not_overlap_and_nothing_that_fits_is_lost(found) -> None:
    spans = [
        Span(start, start + length, detector, "ORG" if detector == "ner" else None, known or detector == "dictionary")
        for start, length, known, detector in found
    ]
    kept = _without_overlap(spans)
    assert all(one.end <= other.start for one, other in pairwise(kept))
    for span in _visible(spans):  # what was left out overlaps something kept
        assert span in kept or any(span.start < other.end and other.start < span.end for other in kept)


def test_many_spans_take_little_time() -> None:
    """Quadratic work on a book-sized document would take minutes."""
    spans = [Span(6 * place, 6 * place + 5, "dictionary", None, known=True) for place in range(60_000)]
    assert len(_without_overlap(spans)) == 60_000
