"""Mention detection: probes, trimming, and which of two overlapping spans wins."""

from __future__ import annotations

import re

import pytest

from pipeline.core.mentions import NamedEntity, Token, detect, trim

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
