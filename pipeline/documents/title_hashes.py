"""Titles to QIDs through redirects, as sorted arrays.

Goes in: (title, QID) of articles, (title, title) redirects, (QID, QID) redirects. Comes out: the hashes of all titles
that lead to an item, sorted, and the QID of each. Costs a hash of 1 µs per title and a few array look-ups. Memory: 16
bytes per title and redirect while it is built, 12 in the result. Two of 20 million titles share a 64-bit hash with
a probability of 1e-5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.documents.wikitext_titles import normalise_title
from pipeline.index.name_keys import hash64

MAX_HOPS = 5
Array = np.ndarray[Any, Any]


def hash_texts(texts: Iterable[str]) -> Array:
    """Hashes of many texts."""
    return np.fromiter(map(hash64, texts), dtype=np.uint64)


def hash_titles(titles: Iterable[str]) -> Array:
    """Hashes of many titles; "paris", "Paris" and "Paris_" are one."""
    return hash_texts(map(normalise_title, titles))


@dataclass(frozen=True, kw_only=True, slots=True)
class SortedMap:
    """Keys in ascending order, each once, and their values."""

    keys: Array
    values: Array

    def find(self, wanted: Array) -> tuple[Array, Array]:
        """Which of the wanted keys are there, and the values (of those that are not: any)."""
        if not len(self.keys):
            return np.zeros(len(wanted), dtype=bool), np.zeros(len(wanted), dtype=self.values.dtype)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return self.keys[places] == wanted, self.values[places]


def sorted_map(keys: Array, values: Array) -> SortedMap:
    """Of equal keys the one with the lowest value stays, so the order of the rows does not matter."""
    order = np.lexsort((values, keys))
    keys, values = keys[order], values[order]
    first = np.ones(len(keys), dtype=bool)
    first[1:] = keys[1:] != keys[:-1]
    return SortedMap(keys=keys[first], values=values[first])


def follow(redirects: SortedMap, wanted: Array) -> Array:
    """Where values lead after at most five hops; a cycle or a longer chain ends where the hops end."""
    current = wanted.copy()
    for _ in range(MAX_HOPS):
        known, targets = redirects.find(current)
        if not known.any():
            break
        current = np.where(known, targets, current)
    return current


def resolve_titles(articles: SortedMap, title_redirects: SortedMap, qid_redirects: SortedMap) -> SortedMap:
    """All titles that lead to an item: articles, then redirects to them, through merged items.

    A title that is an article is never followed further. Redirects that lead nowhere, or in a cycle, are left out.
    """
    sources, current = title_redirects.keys, title_redirects.values
    for _ in range(MAX_HOPS - 1):
        is_article, _ = articles.find(current)
        known, targets = title_redirects.find(current)
        current = np.where(known & ~is_article, targets, current)
    resolved, qids = articles.find(current)
    is_article, _ = articles.find(sources)
    kept = resolved & ~is_article
    keys = np.concatenate([articles.keys, sources[kept]])
    values = np.concatenate([articles.values, qids[kept]]).astype(np.uint32)
    return sorted_map(keys, follow(qid_redirects, values))
