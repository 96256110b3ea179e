"""Dictionary probes of a document: which n-grams are looked up, so that nearly all that are not names cost nothing.

Goes in: tokens without white space, a table of their words, tests of what is a name. Comes out: spans that are names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.index.words import (
    ALPHA,
    EDGED,
    EMPTY,
    GENERIC,
    INNER,
    JOINS,
    LOWER,
    OPENS,
    POSSESSIVE,
    SHORT,
    STOP,
    UPPER,
    WordTable,
)
from pipeline.link.spans import trim
from schemas.array_types import Array

CASELESS_SHARE = 0.02  # of capitalised words: below it capitals say nothing
SHOUTED_SHARE = 0.8  # of words in capitals in a sentence: above it too
MIN_SHOUTED = 3
MIN_CASELESS_CHARACTERS = 4
MIN_COMMON = 3  # times in lower case in a document: then its capital at the beginning of a sentence says nothing


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of a document that are no white space, parallel arrays of shape (n,)."""

    starts: Array  # int64, code points
    ends: Array
    words: Array  # int64, numbers in the word table
    opens_sentence: Array  # bool

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.starts)


class Names(Protocol):
    """What is a name. Keys are normalised."""

    def is_name(self, key: str) -> bool:
        """Whether the index lists a key, or its singular."""

    def is_proper(self, key: str) -> bool:
        """Whether what a key most likely names is written with a capital."""

    def is_linked(self, key: str) -> bool:
        """Whether the corpus's own links use a key often, and it is a name by more than these."""

    def opens_name(self, first: Array, second: Array) -> Array:
        """Whether two words (hashes) may begin a name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """What detection reads of a document."""

    text: str
    tokens: Tokens
    table: WordTable
    max_ngram: int = 10


class Probes:
    """Dictionary probes of one document."""

    def __init__(self, document: Document, names: Names) -> None:
        self.names = names
        self._text, self._reach = document.text, document.max_ngram
        tokens, table = document.tokens, document.table
        self._flags_of = table.flags[tokens.words] if len(tokens) else np.empty(0, np.uint16)
        self._hashes = [
            hashes[tokens.words] if len(tokens) else np.empty(0, np.uint32)
            for hashes in table.hashes
        ]
        self._tokens = tokens
        self._words: list[int] = tokens.words.tolist()
        self._keys = table.keys
        self._flags: list[int] = self._flags_of.tolist()
        self._opens: list[bool] = tokens.opens_sentence.tolist()
        lower, counts = np.unique(tokens.words[self._flags_of & LOWER > 0], return_counts=True)
        self._lower_keys = {self._keys[word] for word in lower[counts >= MIN_COMMON].tolist()}
        self._strict = self._caseless()

    def _caseless(self) -> Array:
        """Tokens whose case says nothing: of a document in lower case, of a sentence in capitals."""
        alpha = self._flags_of & ALPHA > 0
        num_alpha = int(alpha.sum())
        capitals = int((alpha & (self._flags_of & OPENS > 0)).sum())
        if num_alpha and capitals < CASELESS_SHARE * num_alpha:
            return np.ones(len(alpha), bool)
        sentence = np.cumsum(self._tokens.opens_sentence)
        words = np.bincount(sentence[alpha], minlength=int(sentence.max(initial=0)) + 1)
        upper = np.bincount(sentence[alpha & (self._flags_of & UPPER > 0)], minlength=len(words))
        shouted = (words >= MIN_SHOUTED) & (upper >= SHOUTED_SHARE * words)
        return shouted[sentence]

    def capitalised(self) -> Iterator[tuple[int, int]]:
        """Names whose first and last token begin with a capital or a digit, with only name words inside."""
        flags, opens, strict = self._flags, self._opens, self._strict.tolist()
        starts = np.flatnonzero(
            (self._flags_of & OPENS > 0) | (self._strict & (self._flags_of & LOWER > 0))
        )
        for first in starts.tolist():
            if self._is_lone_name(first, strict=strict[first]):
                yield self._range(first, first)
            if not flags[first] & OPENS:
                continue
            for last in range(first + 1, min(first + self._reach, len(flags))):
                flag = flags[last]
                if opens[last]:
                    break
                if flag & (OPENS | POSSESSIVE):
                    if self._is_long_name(first, last):
                        yield self._range(first, last)
                elif not flag & INNER:
                    break

    def lower_case(self) -> Iterator[tuple[int, int]]:
        """Names of several words, at least one of them in lower case; pairs that begin no name are passed over at once."""
        flags = self._flags_of
        places = np.flatnonzero(flags & EMPTY == 0)
        if len(places) < 2:
            return
        gaps = np.diff(places)
        joined = (gaps == 1) | ((gaps == 2) & (flags[places[:-1] + 1] & JOINS > 0))
        joined &= ~self._tokens.opens_sentence[places[1:]]
        words, singulars = (hashes[places] for hashes in self._hashes)
        may = joined & (flags[places[:-1]] & (STOP | POSSESSIVE) == 0)
        at = np.flatnonzero(may)
        opening = self.names.opens_name(words[at], words[at + 1]) | self.names.opens_name(
            words[at], singulars[at + 1]
        )
        where, linked = places.tolist(), joined.tolist()
        for place in at[opening].tolist():
            for last in range(place + 1, min(place + self._reach, len(where))):
                if not linked[last - 1]:
                    break
                if self._is_lower_name(where[place], where[last]):
                    yield self._range(where[place], where[last])

    def common_words(self) -> Iterator[tuple[int, int]]:
        """Words in lower case that the corpus's own links use often."""
        flags = self._flags_of
        places = np.flatnonzero(
            (flags & (LOWER | ALPHA) == LOWER | ALPHA)
            & (flags & (STOP | SHORT | POSSESSIVE | GENERIC) == 0)
        )
        numbers, inverse = np.unique(self._tokens.words[places], return_inverse=True)
        linked = np.fromiter(
            (self.names.is_linked(self._keys[word]) for word in numbers.tolist()),
            bool,
            len(numbers),
        )
        for place in places[linked[inverse]].tolist():
            yield self._range(place, place)

    def _range(self, first: int, last: int) -> tuple[int, int]:
        start, end = int(self._tokens.starts[first]), int(self._tokens.ends[last])
        is_clean = self._text[start].isalnum() and not self._flags[last] & EDGED
        return (start, end) if is_clean else trim(self._text, start, end)

    def is_name(self, key: str) -> bool:
        """Whether a key is listed."""
        return self.names.is_name(key)

    def is_proper(self, key: str) -> bool:
        """Whether a name is a proper one, and no common word of the document."""
        return key not in self._lower_keys and self.names.is_proper(key)

    def _is_whole_line(self, place: int) -> bool:
        """Whether a token is a sentence of its own: a heading, an item of a list."""
        return place + 1 == len(self._opens) or self._opens[place + 1]

    def _is_lone_name(self, place: int, *, strict: bool) -> bool:
        """A name of one token, unless it is a function word, a number, a letter, or a common word that opens a sentence."""
        flag = self._flags[place]
        if flag & (STOP | SHORT | POSSESSIVE) or not flag & ALPHA:
            return False
        key = self._keys[self._words[place]]
        if strict:
            return (
                len(key) >= MIN_CASELESS_CHARACTERS
                and self.names.is_name(key)
                and self.names.is_proper(key)
            )
        if self._opens[place] and key in self._lower_keys and not self._is_whole_line(place):
            return self.names.is_linked(key)
        return self.names.is_name(key)

    def _is_long_name(self, first: int, last: int) -> bool:
        flags = self._flags[first : last + 1]
        if all(flag & STOP or not flag & ALPHA for flag in flags):
            return False
        return self.names.is_name(self._key(first, last))

    def _is_lower_name(self, first: int, last: int) -> bool:
        flags = self._flags[first : last + 1]
        if flags[-1] & (STOP | POSSESSIVE) or not any(flag & LOWER for flag in flags):
            return False
        if all(flag & STOP or not flag & ALPHA for flag in flags):
            return False
        return self.names.is_name(self._key(first, last))

    def _key(self, first: int, last: int) -> str:
        keys = self._keys
        return " ".join([key for word in self._words[first : last + 1] if (key := keys[word])])
