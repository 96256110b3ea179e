"""Mention detection on tokens made without spaCy: what is found, what is not, which of two
overlapping spans wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.index.name_keys import normalise
from pipeline.index.words import WordTable, pair_hashes, word_hash
from pipeline.link.inflections import plurals
from pipeline.link.known_names import agrees_in_case
from pipeline.link.mentions import NamedEntity, detect, initials_of
from pipeline.link.probes import Document
from pipeline.link.spans import Span, trim, visible, without_overlap
from tests.pipeline.index.plain_tokens import tokenise

Found = list[tuple[str, str]]


class Names:
    """Names as written; those that begin with a capital are proper. `linked`: keys that the corpus
    links often.
    """

    def __init__(self, names: Iterable[str], linked: Iterable[str] = ()) -> None:
        self.keys = {normalise(name): name for name in names}
        self.linked = set(linked)
        words = [key.split() for key in self.keys]
        firsts = np.array(
            [[word_hash(word) for word in pair[:2]] for pair in words if len(pair) > 1], np.uint32
        )
        self.pairs = pair_hashes(*firsts.reshape(-1, 2).T)

    def is_name(self, key: str) -> bool:
        return key in self.keys or any(form in self.keys for form in plurals(key))

    def is_proper(self, key: str) -> bool:
        return self.keys.get(key, "")[:1].isupper()

    def is_linked(self, key: str) -> bool:
        return key in self.linked

    def agrees_in_case(self, surface: str, key: str) -> bool:
        return any(
            agrees_in_case(surface, self.keys[form])
            for form in (key, *plurals(key))
            if form in self.keys
        )

    def needs_article(self, surface: str, name: str) -> bool:
        return normalise(surface) in self.keys or not self.is_name(normalise(name))

    def is_label(self, surface: str) -> bool:
        return surface in self.keys.values()

    def opens_name(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.isin(pair_hashes(first, second), self.pairs)


def spans_of(text: str, names: Names, named=(), anchors=(), max_ngram: int = 10) -> list[Span]:
    table = WordTable()
    entities = [
        NamedEntity(text.index(part), text.index(part) + len(part), label) for part, label in named
    ]
    document = Document(
        text=text,
        tokens=tokenise(text, table),
        table=table,
        max_ngram=max_ngram,
        has_recogniser=bool(named),
    )
    return detect(document, entities, anchors, names)


def found_in(text: str, names: Iterable[str], named=(), linked=(), anchors=()) -> Found:
    spans = spans_of(text, Names(names, linked), named, anchors)
    return [(text[span.start : span.end], span.detector) for span in spans]


def by_probes(*surfaces: str) -> Found:
    return [(surface, "dictionary") for surface in surfaces]


BOTH = "ner+dictionary"


@pytest.mark.parametrize(
    ("text", "names", "named", "wanted"),
    [
        # Names in running text
        ("She saw Paris today", ["Paris"], [], by_probes("Paris")),
        ("The Isle of Man is small", ["Man", "Isle of Man"], [], by_probes("Isle of Man")),  # the longest wins
        ("He saw Man of Isle", ["Man", "Isle of Man"], [], by_probes("Man")),  # as written, not as a bag of words
        ("She saw Málaga and Ōsaka", ["Málaga", "Ōsaka"], [], by_probes("Málaga", "Ōsaka")),
        ("He left Paris. Texas won", ["Paris. Texas", "Texas"], [], by_probes("Texas")),  # no name crosses sentences
        ("He left Paris\nTexas won", ["Paris Texas", "Texas"], [], by_probes("Texas")),  # nor lines
        # Function words, numbers and letters are no names
        ("The end", ["The"], [], []),
        ("In 1990 it rained", ["1990", "In"], [("1990", "DATE")], []),
        ("He drew an X there", ["X"], [], []),
        ("He met Seven there", ["Seven"], [], []),
        ("The 1990 World Cup", ["1990 World Cup"], [], by_probes("1990 World Cup")),  # but a number may open one
        # The recogniser
        ("She saw Paris today", ["Paris"], [("Paris", "GPE")], [("Paris", BOTH)]),
        ("He met Velmora", [], [("Velmora", "PERSON")], [("Velmora", "ner")]),  # unknown: NIL is a mention too
        ("Paris Fishing Club won", ["Paris"], [("Paris Fishing Club", "ORG")], [("Paris Fishing Club", "ner")]),
        # Numbers and dates hide the names in them, but not a name that is all of one or longer than it
        ("It cost Five Dollars", ["Dollar"], [("Five Dollars", "MONEY")], []),
        ("He left on November 30 for good", ["November"], [("November 30", "DATE")], []),
        ("He left in November for good", ["November"], [("November", "DATE")], []),
        ("It was built in the Middle Ages", ["Middle Ages"], [("the Middle Ages", "DATE")], by_probes("Middle Ages")),
        ("He left the October War film", ["October War", "October"], [("October", "DATE")], by_probes("October War")),
        ("He said ... to", [], [("...", "ORG")], []),  # nothing nameable
        # Articles
        ("the United Kingdom won", ["United Kingdom"], [("the United Kingdom", "GPE")], [("United Kingdom", BOTH)]),
        ("The Soviet Union fell", ["Soviet Union"], [("The Soviet Union", "GPE")], [("Soviet Union", BOTH)]),
        ("The Hague is old", ["The Hague", "Hague"], [("The Hague", "GPE")], [("The Hague", BOTH)]),
        ("in the Hague it", ["The Hague", "Hague"], [("the Hague", "GPE")], [("Hague", BOTH)]),  # small article: none
        # Possessives, quotes, brackets, dashes, abbreviations
        ("France's king", ["France"], [("France's", "GPE")], [("France", BOTH)]),
        ("France’s king", ["France"], [], by_probes("France")),
        ("He ate at McDonald's there", ["McDonald's", "McDonald"], [], by_probes("McDonald's")),  # of the name
        ("He read “Emma” twice", ["Emma"], [("“Emma”", "WORK_OF_ART")], [("Emma", BOTH)]),
        ("the Rhine-Ruhr area", ["Rhine-Ruhr", "Rhine", "Ruhr"], [], by_probes("Rhine-Ruhr")),
        ("the Paris–Dakar race", ["Paris", "Dakar"], [], []),  # a part of a name that nobody knows
        ("He lives in the U.S. now", ["U.S."], [], by_probes("U.S.")),
        ("He lives in St. Louis now", ["St. Louis", "Louis"], [], by_probes("St. Louis")),
        ("He saw Mount Fuji (or Fujisan", ["Mount Fuji"], [("Mount Fuji (or Fujisan", "LOC")], [("Mount Fuji", BOTH)]),
        ("see Mars (planet) here", ["Mars"], [("Mars (planet)", "LOC")], [("Mars (planet", "ner")]),  # closed: kept whole
        ("in New York\nGazette", ["New York"], [("New York\nGazette", "ORG")], [("New York", BOTH)]),  # cut at a line end
        # Common words
        ("Water is wet. He drank water, more water, and water.", ["Water"], [], []),  # opens a sentence, common here
        ("Water is wet.", ["Water"], [], by_probes("Water")),  # nothing says that it is common
        ("Water\nHe drank water, more water, and water.", ["Water"], [], by_probes("Water")),  # a heading
        ("He liked Water. He drank water, more water, and water.", ["Water"], [], by_probes("Water")),  # within
        # Case that says nothing
        ("PARIS GROWS AS TOWN", ["Paris", "town"], [], by_probes("PARIS")),  # in capitals only proper names count
        ("PARIS GROWS AS TOWN\nHe saw Town", ["Paris", "town"], [], by_probes("PARIS", "Town")),
        ("he went to paris and to the town of bonn", ["Paris", "town", "Bonn"], [], by_probes("paris", "bonn")),
        ("he went to ulm and rome", ["Ulm", "Rome"], [], by_probes("rome")),  # too short to be sure
        ("He went to paris and to bonn", ["Paris", "Bonn"], [], []),  # a document with capitals
        # Names of several words in lower case
        ("He did machine learning there", ["machine learning"], [], by_probes("machine learning")),
        ("They are prime numbers here", ["prime number"], [], by_probes("prime numbers")),
        ("They are lineal-descent groups", ["lineal descent"], [], by_probes("lineal-descent")),  # over a hyphen
        ("He was of the people there", ["of the people"], [], []),  # begins with a function word
        ("He did machine. learning there", ["machine learning"], [], []),
        ("He did machine, learning there", ["machine learning"], [], []),
        ("He did machine\nlearning there", ["machine learning"], [], []),  # two lines
        ("a Nobel prize in physics here", ["Nobel Prize in Physics", "Nobel prize"], [],
         by_probes("Nobel prize in physics")),
        # Short forms, after the long one only
        ("Bakunin came. Mikhail Bakunin wrote. Bakunin left.", ["Mikhail Bakunin"], [],
         [("Mikhail Bakunin", "dictionary"), ("Bakunin", "reuse")]),
        ("Zed Quux wrote. Quux left.", [], [("Zed Quux", "PERSON")], [("Zed Quux", "ner"), ("Quux", "reuse")]),
        ("Zed Quux wrote. Quux left.", [], [("Zed Quux", "ORG")], [("Zed Quux", "ner")]),  # no person: no surname
        ("The National Hockey League began. NHL teams.", ["National Hockey League"], [],
         [("National Hockey League", "dictionary"), ("NHL", "reuse")]),
        ("Bank of Old Town paid. The bank of Town.", ["Bank of Old Town"], [], by_probes("Bank of Old Town")),
        # Spans of the recogniser cut into the names that they are made of
        ("the British East India Company", ["East India Company", "India"], [("British East India Company", "ORG")],
         [("East India Company", BOTH)]),  # the head of a noun phrase, and its label
        ("the Zork Research Center", ["research center"], [("Zork Research Center", "ORG")],
         [("Zork Research Center", "ner")]),  # says what it is, and is no name
        ("the Duke of East India Company", ["East India Company"], [("Duke of East India Company", "PERSON")],
         [("Duke of East India Company", "ner")]),  # no noun phrase with this head
        ("in Gibraltar and Minorca", ["Gibraltar", "Minorca"], [("Gibraltar and Minorca", "GPE")],
         [("Gibraltar", BOTH), ("Minorca", BOTH)]),
        ("in Gibraltar, Zork and Minorca", ["Gibraltar", "Minorca"], [("Gibraltar, Zork and Minorca", "GPE")],
         [("Gibraltar", BOTH), ("Zork", "ner"), ("Minorca", BOTH)]),
        ("the Bill and Melinda Gates Foundation", ["Bill"], [("Bill and Melinda Gates Foundation", "ORG")],
         [("Bill and Melinda Gates Foundation", "ner")]),  # no enumeration: the end is no name
        ("the Office for Health and Care", ["Health", "Care"], [("Office for Health and Care", "ORG")],
         [("Office for Health and Care", "ner")]),
        ("the Golden Horde Tokhtamysh", ["Golden Horde", "Tokhtamysh"], [("Golden Horde Tokhtamysh", "ORG")],
         [("Golden Horde", BOTH.removeprefix("ner+")), ("Tokhtamysh", "dictionary")]),
        ("the Golden Horde Tokhtamysh", ["Golden Horde", "Tokhtamysh"], [("Golden Horde Tokhtamysh", "PERSON")],
         [("Golden Horde Tokhtamysh", "ner")]),  # a person's own name
        ("in Austin, Texas now", ["Austin", "Texas"], [("Austin, Texas", "GPE")], [("Austin", BOTH), ("Texas", BOTH)]),
        ("in Austin, Texas now", ["Austin", "Austin, Texas"], [], by_probes("Austin, Texas")),  # the longest name
        # Names side by side, of which the index knows the whole too
        ("in Austin, Ohio now", ["Austin", "Ohio", "austin, ohio"], [], by_probes("Austin", "Ohio")),
        ("in Austin, Ohio now", ["Austin", "Ohio", "Austin, Ohio"], [], by_probes("Austin, Ohio")),  # a label
        ("in Austin, Inc. now", ["Austin", "Inc", "AUSTIN, INC."], [], by_probes("Austin, Inc")),  # no second name
        # Letter case of phrases against labels
        ("He saw a true ice age begin", ["Ice Age"], [], []),
        ("He saw a true ice age begin", ["ice age"], [], by_probes("ice age")),
        ("He saw the speed of light there", ["Speed of light"], [], by_probes("speed of light")),  # a title's capital
        ("met President Jefferson Davis", ["President Jefferson", "Jefferson Davis"], [("Jefferson Davis", "PERSON")],
         [("Jefferson Davis", BOTH)]),  # the recogniser agrees
        ("The Daily Bugle said so", ["Daily Bugle"], [], by_probes("Daily Bugle")),  # a sentence's capital
        ("He read The Daily Bugle", ["Daily Bugle", "The Daily Bugle"], [], by_probes("The Daily Bugle")),
        # Titles of persons, and articles, before a label
        ("met President Jefferson Davis", ["Jefferson Davis"], [("President Jefferson Davis", "PERSON")],
         [("Jefferson Davis", BOTH)]),
        ("met King Arthur Zork", ["King Arthur Zork", "Arthur Zork"], [("King Arthur Zork", "PERSON")],
         [("King Arthur Zork", BOTH)]),  # called so
        ("met King Zork", ["Zork"], [("King Zork", "PERSON")], [("King Zork", "ner")]),  # one word is too little
        ("met Count\u00a0Jefferson Davis", ["Jefferson Davis"], [("Count\u00a0Jefferson Davis", "PERSON")],
         [("Jefferson Davis", BOTH)]),
        ("met Dr. Jefferson Davis", ["Jefferson Davis"], [("Dr. Jefferson Davis", "PERSON")],
         [("Jefferson Davis", BOTH)]),
        ("read The Daily Bugle there", ["Daily Bugle"], [("The Daily Bugle", "ORG")],
         [("Daily Bugle", BOTH)]),  # no label has the article
    ],
)  # fmt: skip
def test_detect(text: str, names: list[str], named, wanted: Found) -> None:
    assert found_in(text, names, named) == wanted


def test_common_words_that_the_corpus_links() -> None:
    text = "The river bends. A brook and one river."
    assert found_in(text, ["river", "brook"], linked=["river", "one"]) == by_probes(
        "river", "river"
    )
    assert found_in(text, ["river", "brook"]) == []
    assert found_in(
        "Water is wet. He drank water, water, water.", ["Water"], linked=["water"]
    ) == by_probes(*["Water"], *["water"] * 3)
    text = "For years the river bends. Years went by."
    found = found_in(text, ["river", "years"], linked=["river", "years"])
    assert found == by_probes("river", "Years"), "generic words are no mentions in lower case"


@pytest.mark.parametrize(
    ("anchor", "names", "named", "wanted"),
    [
        ("old town", [], [], [("old town", "anchor")]),  # whatever it is
        (" ", [], [], []),  # but not nothing at all
        (
            "Town",
            ["Old Town Hall"],
            [("Old Town Hall", "FAC")],
            [("Town", "anchor")],
        ),  # before longer names
        ("Town Hall", ["Town Hall"], [], [("Town Hall", "anchor+dictionary")]),
        ("Town Hall", ["Town Hall"], [("Town Hall", "FAC")], [("Town Hall", f"anchor+{BOTH}")]),
    ],
)
def test_the_corpus_own_links_go_first(anchor: str, names, named, wanted: Found) -> None:
    text = "an old town with Old Town Hall in" if anchor != "old town" else "an old town"
    start = text.index(anchor)
    assert found_in(text, names, named, anchors=[(start, start + len(anchor))]) == wanted


def test_a_span_keeps_the_label_of_the_recogniser() -> None:
    text = "She saw Paris with Ann Lee; Lee left"
    spans = spans_of(
        text, Names(["Paris", "Ann Lee"]), [("Paris", "GPE"), ("Ann Lee", "PERSON")], [(8, 13)]
    )
    assert [(span.ner_type, span.known) for span in spans] == [
        ("GPE", True),
        ("PERSON", True),
        (None, False),
    ]


def test_no_probe_is_longer_than_asked_for() -> None:
    text, names = (
        "He saw Isle of Man and machine learning model",
        Names(["Isle of Man", "Man", "machine learning model"]),
    )
    assert [text[span.start : span.end] for span in spans_of(text, names, max_ngram=2)] == ["Man"]
    assert len(spans_of(text, names, max_ngram=3)) == 2


@pytest.mark.parametrize("text", ["", " ", "...", "\n\n", "’s"])
def test_nothing_to_find(text: str) -> None:
    assert found_in(text, ["Paris"]) == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("“Paris”,", "Paris"),
        ("(Paris)", "Paris"),
        ("—Paris—", "Paris"),
        ("U.S.", "U.S."),  # an abbreviation keeps its full stop
        ("Jr.", "Jr."),
        ("Bath.", "Bath"),
        ("France's", "France"),
        ("France’s", "France"),
        ("James'", "James'"),  # a bare apostrophe may be part of a name
        ("...", ""),
        ("", ""),
    ],
)
def test_trim(text: str, wanted: str) -> None:
    start, end = trim(text, 0, len(text))
    assert text[start:end] == wanted


@pytest.mark.parametrize(
    ("surface", "wanted"),
    [
        ("National Basketball Association of Canada", "nbac"),
        ("Élan Vital", "év"),
        ("the end", ""),
        ("", ""),
    ],
)
def test_initials(surface: str, wanted: str) -> None:
    assert initials_of(surface) == wanted


SPAN = st.tuples(
    st.integers(0, 40), st.integers(1, 8), st.booleans(), st.sampled_from(["ner", "dictionary"])
)


@given(st.lists(SPAN, max_size=25))
def test_what_is_left_does_not_overlap_and_nothing_that_fits_is_lost(found) -> None:
    spans = [
        Span(
            start,
            start + length,
            detector,
            "ORG" if detector == "ner" else None,
            known or detector == "dictionary",
        )
        for start, length, known, detector in found
    ]
    kept = without_overlap(spans)
    assert all(one.end <= other.start for one, other in pairwise(kept))
    for span in visible(spans):  # what was left out overlaps something kept
        assert span in kept or any(
            span.start < other.end and other.start < span.end for other in kept
        )


WORDS = "Paris paris PARIS Texas of the and The in U.S. 's . , - ( ) “ \n ! Ann Lee NHL National Hockey League 1990 é x".split(
    " "
)
TEXT = st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join) | st.text(
    "Ab .'’s-\n(Ö1", max_size=40
)
NAME = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
RANGES = st.lists(
    st.tuples(st.integers(0, 150), st.integers(1, 30), st.sampled_from(["ORG", "PERSON", "DATE"])),
    max_size=6,
)


@settings(max_examples=300)
@given(
    TEXT,
    st.lists(NAME, max_size=8),
    RANGES,
    st.lists(st.tuples(st.integers(0, 150), st.integers(1, 20)), max_size=3),
)
def test_any_text_and_names(text: str, listed: list[str], ranges, links) -> None:
    """Spans lie in the text, in order, none overlapping; the probes find names, and no link of the
    corpus is lost.
    """
    names = Names(listed, linked=[normalise(name) for name in listed[:2]])
    named, end = [], 0
    for start, length, label in sorted(ranges):  # a recogniser's spans do not overlap
        if start >= end and start + length <= len(text):
            named.append(NamedEntity(start, start + length, label))
            end = start + length
    anchors, end = [], 0
    for start, length in sorted(links):
        if start >= end and start + length <= len(text):
            anchors.append((start, start + length))
            end = start + length
    table = WordTable()
    spans = detect(
        Document(text=text, tokens=tokenise(text, table), table=table), named, anchors, names
    )
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(one.end <= other.start for one, other in pairwise(spans))
    for span in spans:
        surface = text[span.start : span.end]
        if span.detector == "dictionary":
            assert names.is_name(normalise(surface)) or names.is_linked(normalise(surface))
        if "dictionary" in span.detector or span.detector == "anchor":
            assert span.known
        assert span.ner_type not in ("DATE",)
    assert {(span.start, span.end) for span in spans if "anchor" in span.detector} == {
        one for one in anchors if text[slice(*one)].strip()
    }


def test_many_spans_take_little_time() -> None:
    """Quadratic work on a book-sized document would take minutes, and meet the time limit of every test."""
    spans = [
        Span(6 * place, 6 * place + 5, "dictionary", None, known=True) for place in range(60_000)
    ]
    assert len(without_overlap(spans)) == 60_000
    text = "Ann Lee saw Paris and machine learning. " * 2_500
    names = Names(["Ann Lee", "Paris", "machine learning"])
    assert len(spans_of(text, names)) == 3 * 2_500
