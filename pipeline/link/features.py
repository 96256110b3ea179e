"""Compute features of candidates: from the surface, from the text around, from the other mentions.

Goes in: candidates of many mentions of several documents, flat. Comes out: one float32 column per
feature. All array work: no Python per candidate.

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
from schemas.array_types import F32, F64, I64, U8, U32, Bools, Ints

# How many anchors the popularity prior is worth.
PRIOR_STRENGTH = 3.0
# Text around a mention, on each side.
NEAR_TOKENS, WINDOW_TOKENS = 20, 100

GROUPS: dict[str, tuple[str, ...]] = {
    "prior": ("prior", "popularity", "statements", "primary"),
    "string": (
        "variant",
        "inflected",
        "reused",
        "partial",
        "fuzzy",
        "inexact",
        "similarity",
        "label",
        "title",
    ),
    "context": ("near", "window", "document"),
    "coherence": ("neighbours", "shared", "mentioned"),
    "type": ("type",),
    "position": ("position",),
    "semantic": ("semantic",),
}
FEATURES = tuple(name for group in GROUPS.values() for name in group)
# Features of a surface and a candidate that are the same in every document.
STATIC = (*GROUPS["prior"], *GROUPS["string"])


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


def log_prior(owners: I64, counts: F64, popularity: U32) -> F64:
    """Return log P(entity | surface): anchor counts smoothed by popularity.

    Popularity is sitelinks and incoming triples, plus one.

    Args:
        owners: number of the surface of each candidate, from 0, shape (n,).
        counts: anchors with this surface that lead to the candidate, shape (n,).
        popularity: of each candidate, shape (n,).
    """
    popular = popularity + 1.0
    share = popular / np.bincount(owners, popular)[owners] if len(owners) else popular
    total = np.bincount(owners, counts)[owners] if len(owners) else popular
    return np.log((counts + PRIOR_STRENGTH * share) / (total + PRIOR_STRENGTH))


def dynamic_features(
    flat: FlatCandidates, tokens: BatchTokens, entities: Entities
) -> dict[str, F32]:
    """Return context and coherence of all candidates, each of shape (c,)."""
    if not len(flat.rows):
        names = (*GROUPS["context"], *GROUPS["coherence"])
        return {name: np.empty(0, np.float32) for name in names}

    # Several mentions of a document may have the same candidate: its terms are read once.
    document_of = flat.documents[flat.mentions]
    pairs = EntityPairs(*np.unique((document_of << 32) | flat.rows, return_inverse=True))
    context = context_features(flat, tokens, entities, pairs)
    return context | coherence_features(flat, entities, pairs)


def context_features(
    flat: FlatCandidates, tokens: BatchTokens, entities: Entities, pairs: EntityPairs
) -> dict[str, F32]:
    """Weigh by IDF the terms that an entity shares with the text around a mention.

    `near` and `window` are log(1 + sum) for terms near the mention and in a wider window;
    `document` is a share of all the entity's terms. The mention's own words do not count.
    """
    # One element per pair and term of its entity.
    num_candidates = len(pairs.of_candidate)
    sizes, terms = entities.term_runs(pairs.rows)
    owners = np.repeat(np.arange(len(pairs.keys)), sizes)
    weights = entities.idf[terms].astype(np.float64)
    total = np.bincount(owners, weights, len(pairs.keys))

    # `hits`: the elements whose term occurs in the document.
    occurrences = _occurrences(tokens)
    hits = _in_sorted(occurrences >> 32, (pairs.documents[owners] << TERM_BITS) | terms)
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


def _in_sorted(values: I64, requested: I64) -> I64:
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
    is_own_word[_in_sorted(words, (mentions << TERM_BITS) | terms)] = True
    return is_own_word


def coherence_features(
    flat: FlatCandidates, entities: Entities, pairs: EntityPairs
) -> dict[str, F32]:
    """Weigh what the document's other mentions say for an entity, each as log(1 + sum).

    `neighbours`: those of its neighbours that other mentions may mean. `shared`: neighbours that it
    has in common with what others may mean (same class, same country). `mentioned`: other mentions
    that may mean itself. "May mean" is one over the number of whole-name candidates of the other
    mention, at most 1 per entity.
    """
    # How surely the document means each pair's entity.
    num_pairs = len(pairs.keys)
    num_whole = np.bincount(flat.mentions, flat.is_whole, len(flat.documents))
    share = np.where(flat.is_whole, 1.0 / np.maximum(num_whole[flat.mentions], 1), 0.0)
    likely = np.bincount(pairs.of_candidate, share, num_pairs)
    capped = np.minimum(likely, 1.0)

    # One element per pair and neighbour of its entity; `links` is (document, neighbour).
    sizes, near = entities.neighbour_runs(pairs.rows)
    owners = np.repeat(np.arange(num_pairs), sizes)
    links = (pairs.documents[owners] << 32) | near

    # Pairs by (document, item): which neighbours are entities of the same document.
    items = np.empty(num_pairs, np.int64)
    items[pairs.of_candidate] = (pairs.documents[pairs.of_candidate] << 32) | flat.qids
    order = np.argsort(items)
    hits = _in_sorted(items[order], links)
    neighbour_pairs = order[np.searchsorted(items[order], links[hits])]
    neighbours = np.bincount(owners[hits], capped[neighbour_pairs], num_pairs)

    # How surely the document means any entity with a neighbour, less the pair's own part in it.
    distinct_links, number_of_link = np.unique(links, return_inverse=True)
    support = np.bincount(number_of_link, capped[owners], len(distinct_links))
    in_common = np.maximum(support[number_of_link] - capped[owners], 0.0)
    shared = np.bincount(owners, np.log1p(in_common), num_pairs) / np.maximum(sizes, 1)

    mentioned = np.maximum(likely[pairs.of_candidate] - share, 0.0)
    return {
        "neighbours": np.log1p(neighbours)[pairs.of_candidate].astype(np.float32),
        "shared": shared[pairs.of_candidate].astype(np.float32),
        "mentioned": np.log1p(mentioned).astype(np.float32),
    }
