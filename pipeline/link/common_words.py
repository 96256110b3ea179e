"""Say which words are common ones, by the word lists of a lemmatizer. Pure.

Goes in: lists of words by part of speech. Comes out: a test of words. The lists of the English
pipelines hold the verbs, adjectives, adverbs and nouns of WordNet in lower case, 90,000 words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Kinds of words. WordNet's nouns have names of places among them, the other lists have hardly any.
NOUN, OTHER = "noun", "other"
PARTS_OF_SPEECH = {"noun": NOUN, "verb": OTHER, "adj": OTHER, "adv": OTHER}
CACHE_SIZE = 100_000


@dataclass(slots=True)
class CommonWords:
    """Hold lists of common words, by part of speech. Without lists no word is common."""

    # Part of speech: its base forms; its irregular forms; endings, each with what replaces it.
    bases: Mapping[str, frozenset[str]] = field(default_factory=dict)
    irregular: Mapping[str, frozenset[str]] = field(default_factory=dict)
    endings: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    _kinds: dict[str, str] = field(default_factory=dict, repr=False)

    def kind(self, word: str) -> str:
        """Return the kind of a word in lower case: OTHER before NOUN; empty if it is not listed."""
        kind = self._kinds.get(word)
        if kind is None:
            if len(self._kinds) >= CACHE_SIZE:
                self._kinds.clear()
            kind = self._kinds[word] = self._look_up(word)
        return kind

    def _look_up(self, word: str) -> str:
        kinds = {PARTS_OF_SPEECH[part] for part in self.bases if self._is_listed(part, word)}
        return OTHER if OTHER in kinds else NOUN if NOUN in kinds else ""

    def _is_listed(self, part: str, word: str) -> bool:
        bases = self.bases[part]
        if word in bases or word in self.irregular.get(part, ()):
            return True
        return any(
            word.endswith(ending) and word.removesuffix(ending) + replacement in bases
            for ending, replacement in self.endings.get(part, ())
        )
