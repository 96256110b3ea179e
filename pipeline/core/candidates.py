"""Candidates of a mention: exact keys first, blocked fuzzy matching only where they give nothing.

Goes in: a surface and the alias index. Comes out: items with anchor counts and the similarity of name and surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from rapidfuzz import fuzz, process

from pipeline.core.aliases import normalise, query_keys

MIN_FUZZY_CHARACTERS = 5
MAX_FUZZY_KEYS = 4
TOKEN_SORT_WEIGHT = 0.95


class NameIndex(Protocol):
    """What candidates need of the alias index."""

    def postings(self, key: str) -> KeyPostings:
        """Candidates of a key."""

    def similar_keys(self, key: str) -> list[str]:
        """Keys that this one may be a misspelling of."""


class KeyPostings(Protocol):
    """Parallel arrays of one key."""

    @property
    def qids(self) -> np.ndarray: ...  # noqa: D102
    @property
    def counts(self) -> np.ndarray: ...  # noqa: D102
    @property
    def flags(self) -> np.ndarray: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidates of one mention, parallel arrays of shape (n,)."""

    qids: np.ndarray  # uint32
    counts: np.ndarray  # uint32: anchors with this name that lead to the item
    similarity: np.ndarray  # float32, 0 to 1: 1 where the name is the surface's first key


NONE = Candidates(np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty(0, np.float32))
# A variant of the surface (no article, singular, …) matches less surely than the surface itself.
VARIANT_SIMILARITY = 0.95


def is_known(surface: str, index: NameIndex) -> bool:
    """Whether some exact key of the surface is listed."""
    return any(len(index.postings(key).qids) for key in query_keys(surface))


def exact_candidates(surface: str, index: NameIndex) -> Candidates:
    """Candidates of the first key of the surface that the index lists."""
    first = normalise(surface)
    for key in query_keys(surface):
        found = index.postings(key)
        if len(found.qids):
            similarity = 1.0 if key == first else VARIANT_SIMILARITY
            return Candidates(found.qids, found.counts, np.full(len(found.qids), similarity, np.float32))
    return NONE


def fuzzy_candidates(surface: str, index: NameIndex, cutoff: float) -> Candidates:
    """Candidates of the keys most like the surface, in blocks that share a half with it; cutoff 0 to 100."""
    key = normalise(surface)
    if len(key) < MIN_FUZZY_CHARACTERS or key.isdigit():
        return NONE
    choices = [other for other in index.similar_keys(key) if abs(len(other) - len(key)) <= max(1, len(key) // 5)]
    scored = _most_similar(key, choices, cutoff)
    parts = [(index.postings(other), score / 100) for other, score in scored]
    parts = [(found, score) for found, score in parts if len(found.qids)]
    if not parts:
        return NONE
    return _best_of_each(
        np.concatenate([found.qids for found, _ in parts]),
        np.concatenate([found.counts for found, _ in parts]),
        np.concatenate([np.full(len(found.qids), score, np.float32) for found, score in parts]),
    )


def _most_similar(key: str, choices: Sequence[str], cutoff: float) -> list[tuple[str, float]]:
    scores: dict[str, float] = {}
    for name, score, _ in process.extract(key, choices, scorer=fuzz.ratio, score_cutoff=cutoff, limit=MAX_FUZZY_KEYS):
        scores[name] = score
    if " " in key:
        for name, score, _ in process.extract(
            key, choices, scorer=fuzz.token_sort_ratio, score_cutoff=cutoff / TOKEN_SORT_WEIGHT, limit=MAX_FUZZY_KEYS
        ):
            scores[name] = max(scores.get(name, 0.0), TOKEN_SORT_WEIGHT * score)
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return ranked[:MAX_FUZZY_KEYS]


def _best_of_each(qids: np.ndarray, counts: np.ndarray, similarity: np.ndarray) -> Candidates:
    order = np.lexsort((-similarity, qids))
    qids, counts, similarity = qids[order], counts[order], similarity[order]
    first = np.diff(qids.astype(np.int64), prepend=-1) != 0
    return Candidates(qids[first], counts[first], similarity[first])
