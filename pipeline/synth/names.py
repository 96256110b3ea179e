"""Find names in text, word by word: as many names as one likes, one look-up per word.

Names are compared as the words that they consist of, without letter case and punctuation: "St
Kilda" is in "AT ST. KILDA" too. So no tokenizer sees a name where this finds none. Pure.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

_WORD = re.compile(r"\w+")


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text, without letter case."""
    return tuple(_WORD.findall(text.casefold()))


class NameFinder:
    """Hold names by their words."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names: dict[tuple[str, ...], set[str]] = defaultdict(set)
        # The numbers of words of the names that begin with a word.
        self._lengths: dict[str, set[int]] = defaultdict(set)
        for name in names:
            words = words_of(name)
            # A name without any word, such as a sign, is in no text.
            if words:
                self._names[words].add(name)
                self._lengths[words[0]].add(len(words))

    def names_in(self, text: str) -> set[str]:
        """Return the names that a text has, also those inside longer names."""
        words = words_of(text)
        names: set[str] = set()
        for start, word in enumerate(words):
            # `get`, because a look-up in a defaultdict would add every word of the text.
            for length in self._lengths.get(word, ()):
                names |= self._names.get(words[start : start + length], set())
        return names
