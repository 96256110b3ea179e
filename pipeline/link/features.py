"""Compute features of candidates from the surface and from the text around; name all features.

Goes in: candidates of many mentions of several documents, flat. Comes out: one float32 column per
feature. All array work: no Python per candidate. What the other mentions say is in `coherence`.

A feature is 0 where a knowledge base lacks what it reads: absent evidence is no evidence. Measures
of popularity are compared with the best candidate of the same mention, so a knowledge base without
them, or with more of them, gives the same probabilities.

Legend: c candidates, m mentions, e distinct (document, entity) pairs, t tokens.

A pair's key is document << 32 | row in the entity store. Other keys below put two or three numbers
into one in the same way, so that one sort or one binary search compares them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.arrays.runs import spread
from pipeline.index.words import TERM_BITS
from pipeline.link.doubts import DOUBTS
from schemas.array_types import F32, F64, I64, U8, U32, Bools, Ints

# How many anchors the popularity prior is worth.
PRIOR_STRENGTH = 3.0
# Text around a mention, on each side.
NEAR_TOKENS, WINDOW_TOKENS = 20, 100

GROUPS: dict[str, tuple[str, ...]] = {
    "prior": ("prior", "linked", "popularity", "statements", "age", "primary"),
    "string": (
        "variant",
        "inflected",
        "reused",
        "orphan",
        "partial",
        "fuzzy",
        "inexact",
        "similarity",
        "label",
        "same",
        "ending",
        "opening",
        "common",
        "proper",
        "initials",
        "code",
        "title",
    ),
    "context": ("near", "window", "document", "others", "others_near"),
    "coherence": ("neighbours", "shared", "mentioned", "kin"),
    "type": ("type",),
    "mention": ("position", "mononym", "sole", *DOUBTS),
    "semantic": ("semantic",),
}
FEATURES = tuple(name for group in GROUPS.values() for name in group)
# Features of a surface and a candidate that are the same in every document.
STATIC = (*GROUPS["prior"], *GROUPS["string"])
# What only some knowledge bases or corpora have. Weights for it hold where they were fitted.
LOCAL = frozenset(("primary", "title", "position", "semantic"))
# Words of a label beside those of the mention that are looked for in the text, at most.
MAX_OTHERS = 4


class Entities(Protocol):
    """Provide what linking needs of the entity store. `rows` are numbers of entities in it."""

    # Weight of each term hash.
    idf: F32

    def rows(self, qids: Ints) -> I64:
        """Return the rows of items, -1 where the store has none."""

    def popularity(self, rows: I64) -> U32:
        """Return Wikipedia sitelinks + triples that point to each entity."""

    def statements(self, rows: I64) -> U32:
        """Return how many statements each entity has."""

    def is_primary(self, rows: I64) -> Bools:
        """Say whether Wikipedia's title of an entity needs no disambiguator."""

    def types(self, rows: I64) -> U8:
        """Return the coarse type bits."""

    def is_meta(self, rows: I64) -> Bools:
        """Say whether an entity is a page about pages."""

    def label(self, row: int) -> str:
        """Return the label of one entity."""

    def term_runs(self, rows: I64) -> tuple[I64, U32]:
        """Return how many context terms each entity has, and all of them."""

    def neighbour_runs(self, rows: I64) -> tuple[I64, U32]:
        """Return how many neighbours each entity has, and all of them (QIDs)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchTokens:
    """Hold all tokens of a batch of documents, one after another."""

    # Shape (t,): hash as a term, 0 = none.
    terms: U32
    # Shape (t,): number of the document, ascending.
    documents: I64


@dataclass(frozen=True, kw_only=True, slots=True)
class FlatCandidates:
    """Hold the candidates of a batch, mention after mention."""

    # Shape (c,): number of the mention, ascending.
    mentions: I64
    # Shape (c,): row in the entity store.
    rows: I64
    # Shape (c,).
    qids: U32
    # Shape (c,): found by its whole name.
    is_whole: Bools
    # Shape (m,): document of each mention.
    documents: I64
    # Shape (m,): tokens of each mention, numbered in the batch.
    first_tokens: I64
    end_tokens: I64
    # Shape (m,): number of each mention's text, whatever its letter case.
    names: I64
    # Shape (c, MAX_OTHERS): words of the label that the mention lacks, hashed as terms, 0 = none.
    others: U32


@dataclass(frozen=True, slots=True)
class EntityPairs:
    """Hold the distinct (document, entity) pairs of a batch."""

    # Shape (e,), ascending.
    keys: I64
    # Shape (c,): pair of each candidate.
    of_candidate: I64

    @property
    def documents(self) -> I64:
        """Return the document of each pair, shape (e,)."""
        return self.keys >> 32

    @property
    def rows(self) -> I64:
        """Return the entity of each pair, shape (e,)."""
        return self.keys & 0xFFFFFFFF


def log_prior(owners: I64, counts: F64, popularity: U32, is_whole: Bools) -> tuple[F64, F64]:
    """Return log P(entity | surface) by popularity, and what the corpus's own links add to it.

    Popularity is sitelinks and incoming triples, plus one. Links are smoothed by popularity worth
    PRIOR_STRENGTH of them; without any they add 0. The candidates that have the whole name share
    the probability; any other is compared with these, so that a long list of items whose names
    merely contain the surface says nothing about those that bear it.

    Args:
        owners: number of the surface of each candidate, from 0, shape (n,).
        counts: anchors with this surface that lead to the candidate, shape (n,).
        popularity: of each candidate, shape (n,).
        is_whole: found by its whole name, shape (n,).
    """
    popular = popularity.astype(np.float64) + 1.0
    if not len(owners):
        return popular, popular
    among = popular + np.bincount(owners, popular * is_whole)[owners] - popular * is_whole
    share = popular / among
    total = np.bincount(owners, counts)[owners]
    linked = (counts + PRIOR_STRENGTH * share) / (total + PRIOR_STRENGTH)
    return np.log(share), np.log(linked / share)


def below_best(owners: I64, values: F64, is_whole: Bools) -> F64:
    """Return how far each value lies below the best one of its surface: 0 or negative.

    The best of those that have the whole name where there is one; a value above it counts as equal.

    Args:
        owners: number of the surface of each candidate, from 0, shape (n,).
        values: shape (n,).
        is_whole: found by its whole name, shape (n,).
    """
    if not len(owners):
        return values
    num_owners = int(owners.max()) + 1
    is_compared = is_whole | (np.bincount(owners, is_whole, num_owners) == 0)[owners]
    best = np.full(num_owners, -np.inf)
    np.maximum.at(best, owners[is_compared], values[is_compared])
    return np.minimum(values - best[owners], 0.0)


def pairs_of(flat: FlatCandidates) -> EntityPairs:
    """Return the distinct (document, entity) pairs of the candidates.

    Several mentions of a document may have the same candidate: its terms are read once.
    """
    document_of = flat.documents[flat.mentions]
    return EntityPairs(*np.unique((document_of << 32) | flat.rows, return_inverse=True))


def context_features(
    flat: FlatCandidates, tokens: BatchTokens, entities: Entities, pairs: EntityPairs
) -> dict[str, F32]:
    """Weigh by IDF the terms that an entity shares with the text around a mention.

    `near` and `window` are log(1 + sum) for terms near the mention and in a wider window;
    `document` is a share of all the entity's terms. The mention's own words do not count. `others`
    and `others_near` are the share of the label's other words in the document, and near.
    """
    if not len(flat.rows):
        return {name: np.empty(0, np.float32) for name in GROUPS["context"]}
    # One element per pair and term of its entity.
    num_candidates = len(pairs.of_candidate)
    sizes, terms = entities.term_runs(pairs.rows)
    owners = np.repeat(np.arange(len(pairs.keys)), sizes)
    weights = entities.idf[terms].astype(np.float64)
    total = np.bincount(owners, weights, len(pairs.keys))

    # `hits`: the elements whose term occurs in the document.
    occurrences = _occurrences(tokens)
    hits = in_sorted(occurrences >> 32, (pairs.documents[owners] << TERM_BITS) | terms)
    hit_offsets = np.searchsorted(owners[hits], np.arange(len(pairs.keys) + 1))

    # From pairs to candidates: one element per candidate and shared term.
    counts = np.diff(hit_offsets)[pairs.of_candidate]
    shared = hits[spread(hit_offsets[pairs.of_candidate], counts)]
    candidates = np.repeat(np.arange(num_candidates), counts)
    is_foreign = ~_in_own_words(flat, tokens, flat.mentions[candidates], terms[shared])
    shared, candidates = shared[is_foreign], candidates[is_foreign]

    mention = flat.mentions[candidates]
    term_keys = (((flat.documents[mention]) << TERM_BITS) | terms[shared]) << 32
    in_document = np.bincount(candidates, weights[shared], num_candidates)
    in_window, near = (
        np.bincount(candidates[is_inside], weights[shared[is_inside]], num_candidates)
        for is_inside in (
            _occurs_within(flat, occurrences, mention, term_keys, reach)
            for reach in (WINDOW_TOKENS, NEAR_TOKENS)
        )
    )
    return {
        "near": np.log1p(near).astype(np.float32),
        "window": np.log1p(in_window).astype(np.float32),
        "document": (in_document / (1.0 + total[pairs.of_candidate])).astype(np.float32),
        **_other_words(flat, occurrences, entities.idf),
    }


def _other_words(flat: FlatCandidates, occurrences: I64, idf: F32) -> dict[str, F32]:
    """Return the share, by IDF, of the label's other words that the text has: in all, and near.

    "Jobs" of "Steve Jobs" where the mention is "Steve"; "County" of "Orange County".
    """
    num_candidates = len(flat.rows)
    candidates, words = np.nonzero(flat.others)
    terms = flat.others[candidates, words].astype(np.int64)
    weights = idf[terms].astype(np.float64)
    total = np.maximum(np.bincount(candidates, weights, num_candidates), 1e-9)

    mentions = flat.mentions[candidates]
    keys = (flat.documents[mentions] << TERM_BITS) | terms
    hits = in_sorted(occurrences >> 32, keys)
    is_near = _occurs_within(flat, occurrences, mentions[hits], keys[hits] << 32, NEAR_TOKENS)
    near = hits[is_near]
    return {
        name: (np.bincount(candidates[rows], weights[rows], num_candidates) / total).astype(
            np.float32
        )
        for name, rows in (("others", hits), ("others_near", near))
    }


def _occurs_within(
    flat: FlatCandidates, occurrences: I64, mentions: I64, term_keys: I64, reach: int
) -> Bools:
    """Say of (mention, term) elements whether the term occurs within `reach` tokens."""
    low = np.maximum(flat.first_tokens[mentions] - reach, 0)
    high = flat.end_tokens[mentions] + reach
    if not len(occurrences):
        return np.zeros(0, bool)

    # The first occurrence of this term in this document from token `low` on.
    rows = np.minimum(np.searchsorted(occurrences, term_keys + low), len(occurrences) - 1)
    is_inside: Bools = (occurrences[rows] >= term_keys + low) & (
        occurrences[rows] < term_keys + high
    )
    return is_inside


def _occurrences(tokens: BatchTokens) -> I64:
    """Return where terms occur: (document, term) << 32 | token, sorted."""
    rows = np.flatnonzero(tokens.terms)
    occurrences = (((tokens.documents[rows] << TERM_BITS) | tokens.terms[rows]) << 32) | rows
    occurrences.sort()
    return occurrences


def in_sorted(values: I64, requested: I64) -> I64:
    """Return the positions of those requested that are among sorted values."""
    if not len(values):
        return np.empty(0, np.int64)
    rows = np.minimum(np.searchsorted(values, requested), len(values) - 1)
    return np.flatnonzero(values[rows] == requested)


def _in_own_words(flat: FlatCandidates, tokens: BatchTokens, mentions: I64, terms: U32) -> Bools:
    """Say of (mention, term) elements whether the term is one of the mention's own words."""
    lengths = flat.end_tokens - flat.first_tokens
    word_mention = np.repeat(np.arange(len(lengths)), lengths)
    word_term = tokens.terms[spread(flat.first_tokens, lengths)]
    words = np.unique((word_mention << TERM_BITS) | word_term)

    is_own_word = np.zeros(len(mentions), bool)
    is_own_word[in_sorted(words, (mentions << TERM_BITS) | terms)] = True
    return is_own_word
