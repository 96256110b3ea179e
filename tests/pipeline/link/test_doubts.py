"""What speaks against a mention that the dictionary alone has found, and lists of common words."""

from __future__ import annotations

import pytest
import spacy

from pipeline.config import LinkConfig
from pipeline.link.common_words import NOUN, OTHER, CommonWords
from pipeline.link.doubts import NOUN_WORD, PHRASE, WORD, doubts_of
from pipeline.link.spacy_annotator import Annotator
from pipeline.link.spans import Span

MODEL = LinkConfig().spacy_model
WORDS = CommonWords(
    bases={"noun": frozenset(["share", "turin", "ox"]), "verb": frozenset(["share", "run"])},
    irregular={"noun": frozenset(["oxen"])},
    endings={"noun": (("s", ""),), "verb": (("ies", "y"), ("s", ""))},
)


class Links:
    """The links of a corpus, by key."""

    def __init__(self, *linked: str, are_counted: bool = False) -> None:
        self.linked = set(linked)
        self.are_counted = are_counted or bool(linked)

    def is_linked(self, key: str) -> bool:
        return key in self.linked


@pytest.mark.parametrize(
    ("surface", "detector", "links", "wanted"),
    [
        ("crude oil", "dictionary", Links(), PHRASE),
        ("crude oil", "dictionary", Links(are_counted=True), ""),  # the links show what is one
        ("Share", "dictionary", Links(), WORD),  # a verb
        ("Share", "dictionary", Links("share"), ""),
        ("Share", "dictionary", Links("other"), WORD),
        ("Turin", "dictionary", Links(), NOUN_WORD),  # a noun at most
        ("Oxen", "dictionary", Links(), NOUN_WORD),
        ("Velmora", "dictionary", Links(), ""),
        ("DE", "dictionary", Links(), WORD),  # more often a code than a name
        ("U.S", "dictionary", Links(), ""),
        ("LAX", "dictionary", Links(), ""),  # no adjective
        ("EU", "ner+dictionary", Links(), ""),
        ("Share Turin", "dictionary", Links(), ""),  # no list has several words
        ("Share", "ner+dictionary", Links(), ""),  # the recogniser agrees
        ("crude oil", "anchor", Links(), ""),
    ],
)
def test_doubts(surface: str, detector: str, links: Links, wanted: str) -> None:
    span = Span(0, len(surface), detector, None, known=True)
    # A name with a capital shows that letter case says something here.
    other = Span(90, 95, "ner", "PERSON", known=False)
    assert doubts_of([span, other], [surface, "Quuxy"], WORDS, links) == [wanted, ""]


def test_without_letter_case_there_is_no_doubt() -> None:
    surfaces = ["barack obama", "lady gaga"]
    spans = [
        Span(0, 12, "dictionary", None, known=True),
        Span(20, 29, "dictionary", None, known=True),
    ]
    assert doubts_of(spans, surfaces, WORDS, Links()) == ["", ""]


@pytest.mark.parametrize(
    ("word", "wanted"),
    [("run", OTHER), ("share", OTHER), ("shares", OTHER), ("turins", NOUN), ("oxen", NOUN), ("bo", "")],
)  # fmt: skip
def test_kinds_of_words(word: str, wanted: str) -> None:
    assert WORDS.kind(word) == wanted
    assert WORDS.kind(word) == wanted, "the answer that was kept is another"
    assert CommonWords().kind(word) == "", "without lists no word is common"


def test_the_lists_of_a_pipeline() -> None:
    words = Annotator(MODEL).common_words
    kinds = {word: words.kind(word) for word in ("share", "went", "oxen", "velmora")}
    assert kinds == {"share": OTHER, "went": OTHER, "oxen": NOUN, "velmora": ""}
    # The same as the lemmatizer has them, which is not loaded.
    tables = spacy.load(MODEL).get_pipe("lemmatizer").lookups
    assert words.bases["noun"] == frozenset(tables.get_table("lemma_index")["noun"])
    assert Annotator("blank:en").common_words.kind("share") == ""
