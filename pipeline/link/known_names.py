"""What is a name, by the alias index and the entity store: the tests that mention detection asks for. Bounded memory."""

from __future__ import annotations

import math

import numpy as np

from pipeline.index.alias_index import AliasIndex
from pipeline.index.entity_store import EntityStore
from pipeline.index.name_keys import SOURCE_BITS, fold
from pipeline.link.inflections import inflections, plurals

CACHE_SIZE = 100_000


class IndexNames:
    """Names in an index. Answers are kept; above CACHE_SIZE of them all are forgotten."""

    def __init__(self, index: AliasIndex, entities: EntityStore, word_links: float) -> None:
        """Read an index and a store.

        Args:
            index: of names.
            entities: of the same run.
            word_links: share of all links of the corpus that a word must have to be a mention in lower case too.
        """
        self._index = index
        self._entities = entities
        self._known: dict[str, bool] = {}
        self._linked: dict[str, bool] = {}
        self._min_links = (
            max(word_links * index.num_links, 1.0) if word_links and index.num_links else math.inf
        )
        self.opens_name = index.opens_name

    def is_name(self, key: str) -> bool:
        """Whether the index lists a key, the key without diacritics, or its singular."""
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= CACHE_SIZE:
                self._known.clear()
            known = self._known[key] = self._look_up(key)
        return known

    def is_linked(self, key: str) -> bool:
        """Whether the corpus's own links use a key often, and it is a name, or a form of one, by more than the links."""
        if self._min_links == math.inf:
            return False
        linked = self._linked.get(key)
        if linked is None:
            if len(self._linked) >= CACHE_SIZE:
                self._linked.clear()
            linked = self._linked[key] = self._look_up_links(key)
        return linked

    def _look_up_links(self, key: str) -> bool:
        found = self._index.postings(key)
        if int(found.counts.sum()) < self._min_links:
            return False
        stated = bool((found.flags != SOURCE_BITS["anchor"]).any())
        return stated or any(
            (self._index.postings(form).flags != SOURCE_BITS["anchor"]).any()
            for form in inflections(key)
        )

    def is_proper(self, key: str) -> bool:
        """Whether the label of the item that a key most likely names begins with a capital."""
        rows = self._entities.rows(np.asarray(self._index.postings(key).qids, np.uint32))
        known = rows[rows >= 0]
        return bool(len(known) and self._entities.label(int(known[0]))[:1].isupper())

    def _look_up(self, key: str) -> bool:
        if not key:
            return False
        if key in self._index or (not key.isascii() and fold(key) in self._index):
            return True
        return key.endswith("s") and any(form in self._index for form in plurals(key))
