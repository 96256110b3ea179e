"""Choose the n-grams of a document to look up in the index, so that most text costs nothing.

Goes in: tokens without white space, a table of their words, tests of what is a name. Comes out:
spans that are names.
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
from pipeline.link.spans import NameTests, trim
from schemas.array_types import I64, U32, Bools

# A document with a smaller share of capitalised words is in lower case: capitals say nothing there.
CASELESS_SHARE = 0.02
# A sentence with a larger share of words in capitals is in capitals: case says nothing there
# either.
SHOUTED_SHARE = 0.8
# Words that a sentence must have to be judged so.
MIN_SHOUTED = 3
MIN_CASELESS_CHARACTERS = 4
# A word that a document has as often in lower case is a common word: its capital at the beginning
# of a sentence says nothing.
MIN_COMMON = 3


@dataclass(frozen=True, slots=True)
class DocumentTokens:
    """Hold the tokens of a document that are no white space, as parallel arrays of shape (n,)."""

    # Code points.
    starts: I64
    ends: I64
    # Numbers in the word table.
    words: I64
    opens_sentence: Bools

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.starts)


class Names(NameTests, Protocol):
    """Say what is a name. Keys are normalised.

    Here a proper name is one whose most likely item is written with a capital.
    """

    def is_linked(self, key: str) -> bool:
        """Say whether the corpus's links use a key often, and other sources know it as a name."""

    def is_label(self, surface: str) -> bool:
        """Say whether a surface is the label of an item that it names, letter by letter."""

    def needs_article(self, surface: str, name: str) -> bool:
        """Say whether a surface with its article is a name, rather than the rest of it."""

    def agrees_in_case(self, surface: str, key: str) -> bool:
        """Say whether some item with this name is written with small letters where a surface is."""

    def opens_name(self, hashes: U32, next_hashes: U32) -> Bools:
        """Say of pairs of words (hashes) whether they may begin a name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """Hold what mention detection reads of a document."""

    text: str
    tokens: DocumentTokens
    table: WordTable
    # Tokens of a name, at most.
    max_ngram: int = 10
    # Whether a recogniser has looked for names too.
    has_recogniser: bool = True


class Probes:
    """Look up the n-grams of one document that may be names."""

    def __init__(self, document: Document, names: Names) -> None:
        self.names = names
        self._text, self._reach = document.text, document.max_ngram
        tokens, table = document.tokens, document.table
        self._tokens = tokens

        # By token: as arrays for steps over all tokens, as lists for single ones.
        self._flags_of = table.flags[tokens.words] if len(tokens) else np.empty(0, np.uint16)
        self._hashes = [
            hashes[tokens.words] if len(tokens) else np.empty(0, np.uint32)
            for hashes in table.hashes
        ]
        self._words: list[int] = tokens.words.tolist()
        self._flags: list[int] = self._flags_of.tolist()
        self._opens: list[bool] = tokens.opens_sentence.tolist()
        # By word number.
        self._keys = table.keys

        lower, counts = np.unique(tokens.words[self._flags_of & LOWER > 0], return_counts=True)
        self._lower_keys = {self._keys[word] for word in lower[counts >= MIN_COMMON].tolist()}
        self._is_caseless = self._find_caseless()
        self._has_case: list[bool] = (~self._is_caseless).tolist()

    def _find_caseless(self) -> Bools:
        """Say of each token whether its case says nothing.

        So it is in a document in lower case, and in a sentence in capitals.
        """
        alpha = self._flags_of & ALPHA > 0
        num_alpha = int(alpha.sum())
        num_capitals = int((alpha & (self._flags_of & OPENS > 0)).sum())
        if num_alpha and num_capitals < CASELESS_SHARE * num_alpha:
            return np.ones(len(alpha), bool)

        # Per sentence: words, and words in capitals.
        sentence = np.cumsum(self._tokens.opens_sentence)
        num_words = np.bincount(sentence[alpha], minlength=int(sentence.max(initial=0)) + 1)
        is_upper = alpha & (self._flags_of & UPPER > 0)
        num_upper = np.bincount(sentence[is_upper], minlength=len(num_words))
        shouted = (num_words >= MIN_SHOUTED) & (num_upper >= SHOUTED_SHARE * num_words)
        return shouted[sentence]

    def capitalised(self) -> Iterator[tuple[int, int]]:
        """Yield names that begin and end with a capital or a digit, with only name words inside.

        The first and the last token are looked at; a name may be one token.
        """
        flags, opens, is_caseless = self._flags, self._opens, self._is_caseless.tolist()
        low_tokens = np.flatnonzero(
            (self._flags_of & OPENS > 0) | (self._is_caseless & (self._flags_of & LOWER > 0))
        )
        for low in low_tokens.tolist():
            if self._is_lone_name(low, is_caseless=is_caseless[low]):
                yield self._range(low, low)
            if not flags[low] & OPENS:
                continue

            # Grow the n-gram until a word that cannot be in a name, or the next sentence.
            for high in range(low + 1, min(low + self._reach, len(flags))):
                flag = flags[high]
                if opens[high]:
                    break
                if flag & (OPENS | POSSESSIVE):
                    if self._is_long_name(low, high):
                        yield self._range(low, high)
                elif not flag & INNER:
                    break

    def lower_case(self) -> Iterator[tuple[int, int]]:
        """Yield names of several words, at least one of them in lower case.

        A table of bits holds the pairs of words that begin a name; most pairs begin none and cost
        only array work.
        """
        flags = self._flags_of
        # Tokens with a key, and whether each and the next one may be in one name: they are beside
        # each other or joined by a hyphen, and in one sentence.
        tokens = np.flatnonzero(flags & EMPTY == 0)
        if len(tokens) < 2:
            return
        gaps = np.diff(tokens)
        is_joined = (gaps == 1) | ((gaps == 2) & (flags[tokens[:-1] + 1] & JOINS > 0))
        is_joined &= ~self._tokens.opens_sentence[tokens[1:]]

        words, singulars = (hashes[tokens] for hashes in self._hashes)
        may_open = is_joined & (flags[tokens[:-1]] & (STOP | POSSESSIVE) == 0)
        rows = np.flatnonzero(may_open)
        # A name of two words may be in the plural.
        opens_name = self.names.opens_name(words[rows], words[rows + 1]) | self.names.opens_name(
            words[rows], singulars[rows + 1]
        )

        token_list, joined_list = tokens.tolist(), is_joined.tolist()
        for low in rows[opens_name].tolist():
            for high in range(low + 1, min(low + self._reach, len(token_list))):
                if not joined_list[high - 1]:
                    break
                if self._is_lower_name(token_list[low], token_list[high]):
                    yield self._range(token_list[low], token_list[high])

    def common_words(self) -> Iterator[tuple[int, int]]:
        """Yield the words in lower case that the corpus's own links use often."""
        flags = self._flags_of
        tokens = np.flatnonzero(
            (flags & (LOWER | ALPHA) == LOWER | ALPHA)
            & (flags & (STOP | SHORT | POSSESSIVE | GENERIC) == 0)
        )

        # Each distinct word is looked up once.
        words, word_of_token = np.unique(self._tokens.words[tokens], return_inverse=True)
        is_linked = np.fromiter(
            (self.names.is_linked(self._keys[word]) for word in words.tolist()), bool, len(words)
        )
        for token in tokens[is_linked[word_of_token]].tolist():
            yield self._range(token, token)

    def _range(self, low: int, high: int) -> tuple[int, int]:
        """Return the code points of tokens `low` to `high`, both included, trimmed."""
        start, end = int(self._tokens.starts[low]), int(self._tokens.ends[high])
        is_clean = self._text[start].isalnum() and not self._flags[high] & EDGED
        return (start, end) if is_clean else trim(self._text, start, end)

    def is_name(self, key: str) -> bool:
        """Say whether the index lists a key."""
        return self.names.is_name(key)

    def is_proper(self, key: str) -> bool:
        """Say whether a key is a proper name, and no common word of the document."""
        return key not in self._lower_keys and self.names.is_proper(key)

    def _is_whole_line(self, token: int) -> bool:
        """Say whether a token that opens a sentence is all of it: a heading, an item of a list."""
        return token + 1 == len(self._opens) or self._opens[token + 1]

    def _is_lone_name(self, token: int, *, is_caseless: bool) -> bool:
        """Say whether one token is a name.

        A function word, a number, a letter, and a common word that opens a sentence are none.
        """
        flag = self._flags[token]
        if flag & (STOP | SHORT | POSSESSIVE) or not flag & ALPHA:
            return False

        # Without case as a sign, a single word must be long enough and name a proper item.
        key = self._keys[self._words[token]]
        if is_caseless:
            return (
                len(key) >= MIN_CASELESS_CHARACTERS
                and self.names.is_name(key)
                and self.names.is_proper(key)
            )
        if self._opens[token] and key in self._lower_keys and not self._is_whole_line(token):
            return self.names.is_linked(key)
        return self.names.is_name(key)

    def _is_long_name(self, low: int, high: int) -> bool:
        """Say whether tokens `low` to `high` are a name, not only function words and numbers."""
        flags = self._flags[low : high + 1]
        if all(flag & STOP or not flag & ALPHA for flag in flags):
            return False
        return self.names.is_name(self._key(low, high))

    def _is_lower_name(self, low: int, high: int) -> bool:
        """Say whether tokens `low` to `high` are a name with a word in lower case.

        A function word or a possessive cannot be its last word.
        """
        flags = self._flags[low : high + 1]
        if flags[-1] & (STOP | POSSESSIVE) or not any(flag & LOWER for flag in flags):
            return False
        if not self._is_long_name(low, high):
            return False
        # "true ice age" is no film: a phrase in lower case names what is written so. The corpus's
        # own links overrule that.
        if self._has_case[low] and not flags[0] & OPENS:
            key, (start, end) = self._key(low, high), self._range(low, high)
            surface = self._text[start:end]
            return self.names.agrees_in_case(surface, key) or self.names.is_linked(key)
        return True

    def _key(self, low: int, high: int) -> str:
        """Return the key of tokens `low` to `high`: that of their text, put together from words."""
        keys = self._keys
        return " ".join([key for word in self._words[low : high + 1] if (key := keys[word])])
