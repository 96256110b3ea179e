"""Say which found mentions may be none at all: what nobody but the dictionary vouches for.

Pure. Goes in: the spans of a document. Comes out: a kind of doubt for each, or none. The linker's
weights say what a doubt costs, so strong evidence for an item can outweigh it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.index.name_keys import normalise
from pipeline.link.common_words import NOUN, OTHER, CommonWords
from pipeline.link.spans import DICTIONARY, Span

# Of what is more often a code or a letter of something else than a name.
MAX_LETTERS = 2
# Kinds of doubt: in lower case; a single word with a capital that is a common word of the language;
# one that is at most a noun, and may be the name of a place or a body all the same.
DOUBTS = PHRASE, WORD, NOUN_WORD = "phrase", "word", "noun_word"


class LinkedNames(Protocol):
    """Say what the corpus's own links show."""

    @property
    def are_counted(self) -> bool:
        """Say whether the index has learned from links at all."""

    def is_linked(self, key: str) -> bool:
        """Say whether links use a key often."""


def doubts_of(
    spans: Sequence[Span], surfaces: Sequence[str], words: CommonWords, names: LinkedNames
) -> list[str]:
    """Return what speaks against each mention of a document being one; empty where nothing does.

    Only what the dictionary alone found is doubted. A corpus whose links are known shows by them
    that it links phrases, and which words.

    Args:
        spans: of a document that a recogniser has read.
        surfaces: their texts.
        words: common words of the language.
        names: of the corpus's links.
    """
    # Of "barack obama met lady gaga" the recogniser knows as little as letter case does.
    if not any(surface[:1].isupper() for surface in surfaces):
        return [""] * len(spans)
    return [
        _doubt(surface, words, names) if span.detector == DICTIONARY else ""
        for span, surface in zip(spans, surfaces, strict=True)
    ]


def _doubt(surface: str, words: CommonWords, names: LinkedNames) -> str:
    if surface[:1].islower():
        return "" if names.are_counted else PHRASE
    key = normalise(surface)
    if names.is_linked(key):
        return ""
    if len(key) <= MAX_LETTERS:
        return WORD
    # "LAX" is no adjective, and no list has a name of several words.
    if surface.isupper():
        return ""
    return {OTHER: WORD, NOUN: NOUN_WORD}.get(words.kind(key), "")
