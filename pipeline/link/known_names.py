"""Say what is a name, by the alias index and the entity store. Bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from pipeline.index.alias_index import AliasIndex
from pipeline.index.entity_store import EntityStore
from pipeline.index.name_keys import SOURCE_BITS, fold, normalise
from pipeline.link.inflections import inflections, plurals

# Links of a corpus that show what it links; fewer show nothing.
MIN_LINKS = 2_000
# Answers per cache. Emptying a full one is simpler, and faster to use, than an order of use.
CACHE_SIZE = 100_000


class IndexNames:
    """Test names against an index. Answers are kept; above CACHE_SIZE of them all are forgotten."""

    def __init__(self, index: AliasIndex, entities: EntityStore, word_links: float) -> None:
        """Read an index and a store.

        Args:
            index: of names.
            entities: of the same run.
            word_links: share of all links of the corpus that a word must have to be a mention in
                lower case too; 0 = no word is.
        """
        self._index = index
        self._entities = entities
        self._is_name: dict[str, bool] = {}
        self._is_linked: dict[str, bool] = {}
        self._is_proper: dict[str, bool] = {}
        # Without counted links no share can be reached: infinity answers no to every word.
        self._min_links = (
            max(word_links * index.num_links, 1.0) if word_links and index.num_links else math.inf
        )
        self.opens_name = index.opens_name
        self.are_counted = index.num_links >= MIN_LINKS

    def is_name(self, key: str) -> bool:
        """Say whether the index lists a key, the key without diacritics, or its singular."""
        is_name = self._is_name.get(key)
        if is_name is None:
            if len(self._is_name) >= CACHE_SIZE:
                self._is_name.clear()
            is_name = self._is_name[key] = self._look_up(key)
        return is_name

    def is_linked(self, key: str) -> bool:
        """Say whether the corpus's own links use a key often, and other sources know it as a name.

        A form of the key counts too.
        """
        if self._min_links == math.inf:
            return False
        is_linked = self._is_linked.get(key)
        if is_linked is None:
            if len(self._is_linked) >= CACHE_SIZE:
                self._is_linked.clear()
            is_linked = self._is_linked[key] = self._look_up_links(key)
        return is_linked

    def _look_up_links(self, key: str) -> bool:
        postings = self._index.postings(key)
        if int(postings.counts.sum()) < self._min_links:
            return False

        # A key that only links state may be any text, such as "here".
        is_stated = bool((postings.flags != SOURCE_BITS["anchor"]).any())
        return is_stated or any(
            (self._index.postings(form).flags != SOURCE_BITS["anchor"]).any()
            for form in inflections(key)
        )

    def is_proper(self, key: str) -> bool:
        """Say whether the label of the item that a key most likely names begins with a capital.

        The forms of a key are those of `is_name`.
        """
        is_proper = self._is_proper.get(key)
        if is_proper is None:
            if len(self._is_proper) >= CACHE_SIZE:
                self._is_proper.clear()
            is_proper = self._is_proper[key] = next(self._labels(key), "")[:1].isupper()
        return is_proper

    def agrees_in_case(self, surface: str, key: str) -> bool:
        """Say whether some item with this name is written with small letters where a surface is.

        The first letter does not count: "Speed of light" is written so as the title of an article.
        """
        return any(agrees_in_case(surface, label) for label in self._labels(key))

    def is_label(self, surface: str) -> bool:
        """Say whether a surface is the label of an item that it names, letter by letter."""
        return surface in self._labels(normalise(surface))

    def needs_article(self, surface: str, name: str) -> bool:
        """Say whether a surface with its article is a name, rather than the rest of it.

        So it is with "The Hague", and with whatever only the whole names. Where both name something
        the more popular item decides: a film is called "The Cold War", but the war is meant.
        """
        rows = [self._likeliest(normalise(text)) for text in (surface, name)]
        whole, other = rows
        if whole < 0 or other < 0:
            return other < 0
        if not self._entities.label(whole).lower().startswith(surface.split()[0].lower()):
            return False
        popularity, popularity_without = self._entities.popularity(np.array(rows)).tolist()
        return bool(popularity >= popularity_without)

    def _likeliest(self, key: str) -> int:
        """Return the row of the item that a key most likely names; -1 if it names none."""
        rows = self._entities.rows(np.asarray(self._index.postings(key).qids, np.uint32))
        return next((row for row in rows.tolist() if row >= 0), -1)

    def _labels(self, key: str) -> Iterator[str]:
        """Yield the labels of the items that a key names, the most likely first."""
        for form in dict.fromkeys((key, fold(key), *plurals(key))):
            # Postings are sorted.
            rows = self._entities.rows(np.asarray(self._index.postings(form).qids, np.uint32))
            yield from (self._entities.label(row) for row in rows[rows >= 0].tolist())

    def _look_up(self, key: str) -> bool:
        if not key:
            return False
        if key in self._index or (not key.isascii() and fold(key) in self._index):
            return True
        # Only these keys can be plurals; the test keeps nearly all others from more look-ups.
        return key.endswith("s") and any(form in self._index for form in plurals(key))


def agrees_in_case(surface: str, label: str) -> bool:
    """Say whether no word but the first is in lower case in a surface and capitalised in a label.

    A label of other words must be in lower case: the surface is an alias of it.

    >>> agrees_in_case("districts of the North", "Districts of the North")
    True
    >>> agrees_in_case("ice age", "Ice Age")
    False
    """
    words, label_words = surface.split(), label.split()
    if len(words) != len(label_words):
        return label[1:].islower()
    return not any(
        word[:1].islower() and label_word[:1].isupper()
        for word, label_word in zip(words[1:], label_words[1:], strict=True)
    )
