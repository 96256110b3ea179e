"""Find candidates of a mention: exact keys, other forms, longer names, misspellings. No scan.

Goes in: a surface and the alias index. Comes out: items with anchor counts, how each was found and
how similar the names are. Costs 40 µs for a surface that is exact, 300 µs for a misspelt one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rapidfuzz import fuzz

from pipeline.index.fuzzy_keys import (
    SimilarKey,
    differing_words,
    is_slip,
    similar_choices,
    with_fewest_edits,
)
from pipeline.index.name_keys import SOURCE_BITS, normalise, query_keys
from pipeline.index.words import MORE_STOP_WORDS, STOP_WORDS
from pipeline.link.inflections import inflections
from schemas.array_types import U8, U32

# How a candidate was found, the surest first.
MATCHES = ("exact", "variant", "inflected", "reused", "partial", "fuzzy")
EXACT, VARIANT, INFLECTED, REUSED, PARTIAL, FUZZY = range(len(MATCHES))
MIN_FUZZY_CHARACTERS = 5
MIN_PARTIAL_CHARACTERS = 2
MAX_PARTIAL_WORDS = 5
MAX_FUZZY_KEYS = 4
# Candidates of a longer name that its short form takes over.
MAX_REUSED = 3
ANCHOR_ALONE = SOURCE_BITS["anchor"]


class NameIndex(Protocol):
    """Provide what candidates need of the alias index."""

    def postings(self, key: str) -> KeyPostings:
        """Return the candidates of a key."""

    def similar_keys(self, key: str) -> list[str]:
        """Return the keys of which this one may be a misspelling."""

    def items_with_word(self, word: str) -> U32:
        """Return the items with a longer name that has this word, the most popular first."""


class KeyPostings(Protocol):
    """Provide the candidates of one key as parallel arrays."""

    @property
    def qids(self) -> U32:
        """Return the items."""

    @property
    def counts(self) -> U32:
        """Return how many anchors with this key lead to each item."""

    @property
    def flags(self) -> U8:
        """Return the source bits of each item."""


class Candidate(NamedTuple):
    """Say how an item was found."""

    # Anchors with this name that lead to the item.
    links: int
    # Source bits of the name.
    flags: int
    # Position in MATCHES.
    match: int
    # 0 to 1: of the surface and the name by which it was found.
    similarity: float


# By item, in the order in which they were found. For a handful of them plain Python is faster than
# arrays.
Candidates = dict[int, Candidate]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """Say how far to look for candidates."""

    # rapidfuzz ratio, 0 to 100.
    fuzzy_cutoff: float = 88.0
    # Whether slips of the pen are looked for in every unknown name (`is_slip`).
    slips: bool = True
    # Items with longer names; 0 = none.
    max_partial: int = 12
    inflect: bool = True


def _add(candidates: Candidates, postings: KeyPostings, match: int, similarity: float) -> None:
    """Add the postings of a key; an item that is there already stays as it was found first.

    Names that only the text of a link states are too weak for inflected and fuzzy matches.
    """
    for qid, count, flags in zip(
        postings.qids.tolist(), postings.counts.tolist(), postings.flags.tolist(), strict=True
    ):
        if qid not in candidates and (match < INFLECTED or flags != ANCHOR_ALONE):
            candidates[qid] = Candidate(count, flags, match, similarity)


def exact_candidates(surface: str, index: NameIndex) -> Candidates:
    """Return the candidates of the first key of the surface that the index lists."""
    candidates: Candidates = {}
    for number, key in enumerate(query_keys(surface)):
        postings = index.postings(key)
        if len(postings.qids):
            _add(candidates, postings, VARIANT if number else EXACT, 1.0)
            break
    return candidates


def _add_inflected(candidates: Candidates, key: str, index: NameIndex) -> None:
    for form in inflections(key):
        postings = index.postings(form)
        if len(postings.qids):
            _add(candidates, postings, INFLECTED, fuzz.ratio(key, form) / 100)


def partial_items(key: str, index: NameIndex, limit: int) -> list[int]:
    """Return the most popular items that have all words of a key in names of several words."""
    words = [word for word in dict.fromkeys(key.split()) if word not in STOP_WORDS]
    if not limit or not 1 <= len(words) <= MAX_PARTIAL_WORDS or len(key) < MIN_PARTIAL_CHARACTERS:
        return []

    # The shortest list leads, since no item outside it can have all words.
    shortest, *longer = sorted((index.items_with_word(word).tolist() for word in words), key=len)
    longer_sets = [set(qids) for qids in longer]
    return [qid for qid in shortest if all(qid in qids for qids in longer_sets)][:limit]


def fuzzy_candidates(
    surface: str, index: NameIndex, cutoff: float, *, slips_only: bool = False
) -> Candidates:
    """Return the candidates of the keys with the fewest edits; cutoff 0 to 100.

    Only keys that share a half with the surface are compared.

    Args:
        surface: as written.
        index: of names.
        cutoff: least similarity of a key that is more than one edit away.
        slips_only: take only keys of which the surface is a slip of the pen.
    """
    candidates: Candidates = {}
    key = normalise(surface)
    if len(key) < MIN_FUZZY_CHARACTERS or key.isdigit():
        return candidates

    # Names of very different lengths are no misspellings of each other, whatever their words.
    max_difference = max(1, len(key) // 5)
    choices = [
        choice
        for choice in index.similar_keys(key)
        if abs(len(choice) - len(key)) <= max_difference
    ]
    similar = [
        choice
        for choice in similar_choices(key, choices, cutoff)
        if not _is_real_name(key, choice, index) and (not slips_only or is_slip(key, choice.key))
    ]
    for choice in with_fewest_edits(similar)[:MAX_FUZZY_KEYS]:
        _add(candidates, index.postings(choice.key), FUZZY, choice.similarity)
    return candidates


def _is_real_name(key: str, choice: SimilarKey, index: NameIndex) -> bool:
    """Say whether the words of a key that a choice lacks are words of names: then no misspelling.

    In a name of several words a single edit counts as a misspelling all the same.
    """
    if " " in key and choice.edits <= 1:
        return False
    lost, _ = differing_words(key, choice.key)
    return any(len(index.items_with_word(word)) or len(index.postings(word).qids) for word in lost)


def is_function_word(surface: str, key: str) -> bool:
    """Say whether a surface is a function word: "He", and neither "US" nor "The Who"."""
    is_acronym = surface.isupper() and len(key) > 1
    return (key in STOP_WORDS or key in MORE_STOP_WORDS) and not is_acronym


def find_candidates(
    surface: str, index: NameIndex, reach: Reach, *, allow_fuzzy: bool
) -> Candidates:
    """Return all candidates of a surface by itself; fuzzy ones only where no name fits it whole.

    A pronoun or another function word names nothing by itself, whatever the index lists.

    Args:
        surface: as written.
        index: of names.
        reach: how far to look.
        allow_fuzzy: whether the surface may be misspelt; if not, only slips are looked for.
    """
    key = normalise(surface)
    if is_function_word(surface, key):
        return {}
    candidates = exact_candidates(surface, index)
    if reach.inflect:
        _add_inflected(candidates, key, index)
    if (allow_fuzzy or reach.slips) and not candidates:
        candidates |= fuzzy_candidates(
            surface, index, reach.fuzzy_cutoff, slips_only=not allow_fuzzy
        )
    for qid in partial_items(key, index, reach.max_partial):
        candidates.setdefault(qid, Candidate(0, 0, PARTIAL, 0.0))
    return candidates


def with_reused(short: Candidates, longer: Sequence[Candidates]) -> Candidates:
    """Return the candidates of a short form, and the best of the longer names it may stand for.

    Of each longer name of the same document the first MAX_REUSED that have it as a whole name.

    Args:
        short: candidates of the short form by itself.
        longer: candidates of each longer name.
    """
    candidates = {qid: candidate for qid, candidate in short.items() if candidate.match < REUSED}
    for candidates_of_name in longer:
        whole = [
            (qid, candidate)
            for qid, candidate in candidates_of_name.items()
            if candidate.match <= VARIANT
        ]
        for qid, candidate in whole[:MAX_REUSED]:
            candidates.setdefault(qid, Candidate(0, candidate.flags, REUSED, 0.0))

    # Less sure matches of the short form come last.
    return candidates | {
        qid: candidate for qid, candidate in short.items() if qid not in candidates
    }
