"""Candidates of a mention: exact keys, other forms of the name, names that hold all its words, misspellings. Never a scan.

Goes in: a surface and the alias index. Comes out: items with anchor counts, how each was found and how alike the names are.
Costs 40 µs for a surface that is exact, 300 µs for a misspelt one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rapidfuzz import fuzz

from pipeline.index.fuzzy_keys import (
    SimilarKey,
    differing_words,
    similar_choices,
    with_fewest_edits,
)
from pipeline.index.name_keys import SOURCE_BITS, normalise, query_keys
from pipeline.index.words import STOP_WORDS
from pipeline.link.inflections import inflections
from schemas.array_types import Array

# How a candidate was found, the surest first.
MATCHES = ("exact", "variant", "inflected", "reused", "partial", "fuzzy")
EXACT, VARIANT, INFLECTED, REUSED, PARTIAL, FUZZY = range(len(MATCHES))
MIN_FUZZY_CHARACTERS = 5
MIN_PARTIAL_CHARACTERS = 2
MAX_PARTIAL_WORDS = 5
MAX_FUZZY_KEYS = 4
MAX_REUSED = 3  # candidates of a longer name that its short form takes over
ANCHOR_ALONE = SOURCE_BITS["anchor"]


class NameIndex(Protocol):
    """What candidates need of the alias index."""

    def postings(self, key: str) -> KeyPostings:
        """Candidates of a key."""

    def similar_keys(self, key: str) -> list[str]:
        """Keys that this one may be a misspelling of."""

    def items_with_word(self, word: str) -> Array:
        """Items with a longer name that has this word, the most popular first."""


class KeyPostings(Protocol):
    """Parallel arrays of one key."""

    @property
    def qids(self) -> Array: ...  # noqa: D102
    @property
    def counts(self) -> Array: ...  # noqa: D102
    @property
    def flags(self) -> Array: ...  # noqa: D102


class Candidate(NamedTuple):
    """How an item was found."""

    links: int  # anchors with this name that lead to the item
    flags: int  # sources of the name
    match: int  # place in MATCHES
    similarity: float  # 0 to 1: of the surface and the name that was found


Candidates = dict[
    int, Candidate
]  # by item, as found. A handful: plain Python is faster than arrays here.


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """How far candidates are looked for."""

    fuzzy_cutoff: float = 88.0  # rapidfuzz ratio, 0 to 100
    max_partial: int = 12  # items with longer names; 0 = none
    inflect: bool = True


def _add(to: Candidates, found: KeyPostings, match: int, similarity: float) -> None:
    """Add the postings of a key; an item that is there already stays as it was found first.

    What only the text of a link states is no ground for bending a name further.
    """
    for qid, count, flags in zip(
        found.qids.tolist(), found.counts.tolist(), found.flags.tolist(), strict=True
    ):
        if qid not in to and (match < INFLECTED or flags != ANCHOR_ALONE):
            to[qid] = Candidate(count, flags, match, similarity)


def exact_candidates(surface: str, index: NameIndex) -> Candidates:
    """Candidates of the first key of the surface that the index lists."""
    candidates: Candidates = {}
    for number, key in enumerate(query_keys(surface)):
        found = index.postings(key)
        if len(found.qids):
            _add(candidates, found, VARIANT if number else EXACT, 1.0)
            break
    return candidates


def _add_inflected(candidates: Candidates, key: str, index: NameIndex) -> None:
    for form in inflections(key):
        found = index.postings(form)
        if len(found.qids):
            _add(candidates, found, INFLECTED, fuzz.ratio(key, form) / 100)


def partial_items(key: str, index: NameIndex, limit: int) -> list[int]:
    """The most popular items that have all words of a key in their names of several words."""
    words = [word for word in dict.fromkeys(key.split()) if word not in STOP_WORDS]
    if not limit or not 1 <= len(words) <= MAX_PARTIAL_WORDS or len(key) < MIN_PARTIAL_CHARACTERS:
        return []
    shortest, *others = sorted((index.items_with_word(word).tolist() for word in words), key=len)
    common = [set(other) for other in others]
    return [qid for qid in shortest if all(qid in other for other in common)][:limit]


def fuzzy_candidates(surface: str, index: NameIndex, cutoff: float) -> Candidates:
    """Candidates of the keys with the fewest edits, of those that share a half with the surface; cutoff 0 to 100."""
    candidates: Candidates = {}
    key = normalise(surface)
    if len(key) < MIN_FUZZY_CHARACTERS or key.isdigit():
        return candidates
    choices = [
        other
        for other in index.similar_keys(key)
        if abs(len(other) - len(key)) <= max(1, len(key) // 5)
    ]
    near = [
        one for one in similar_choices(key, choices, cutoff) if not _has_own_words(key, one, index)
    ]
    for one in with_fewest_edits(near)[:MAX_FUZZY_KEYS]:
        _add(candidates, index.postings(one.key), FUZZY, one.similarity)
    return candidates


def _has_own_words(key: str, found: SimilarKey, index: NameIndex) -> bool:
    """Whether the words that it has instead are words of names: then they are not misspelt.

    In a name of several words a single edit is one all the same.
    """
    if " " in key and found.edits <= 1:
        return False
    lost, _ = differing_words(key, found.key)
    return any(len(index.items_with_word(word)) or len(index.postings(word).qids) for word in lost)


def find_candidates(
    surface: str, index: NameIndex, reach: Reach, *, allow_fuzzy: bool
) -> Candidates:
    """All candidates of a surface on its own; fuzzy ones only where no name fits it whole."""
    key = normalise(surface)
    candidates = exact_candidates(surface, index)
    if reach.inflect:
        _add_inflected(candidates, key, index)
    if allow_fuzzy and not candidates:
        candidates |= fuzzy_candidates(surface, index, reach.fuzzy_cutoff)
    for qid in partial_items(key, index, reach.max_partial):
        candidates.setdefault(qid, Candidate(0, 0, PARTIAL, 0.0))
    return candidates


def with_reused(own: Candidates, longer: Sequence[Candidates]) -> Candidates:
    """The candidates of a short form, and the best whole-name candidates of longer names of the same document."""
    candidates = {qid: found for qid, found in own.items() if found.match < REUSED}
    for others in longer:
        whole = [(qid, found) for qid, found in others.items() if found.match <= VARIANT][
            :MAX_REUSED
        ]
        for qid, found in whole:
            candidates.setdefault(qid, Candidate(0, found.flags, REUSED, 0.0))
    return candidates | {qid: found for qid, found in own.items() if qid not in candidates}
