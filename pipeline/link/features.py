"""Features of candidates: what the surface says of them, what the text around says, what the document's others say.

Goes in: candidates of many mentions of several documents, flat. Comes out: one float32 column per feature. All array work:
no Python per candidate. Legend: c candidates, m mentions, e distinct (document, entity) pairs, t tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.arrays.runs import spread
from pipeline.index.words import TERM_BITS
from schemas.array_types import Array

PRIOR_STRENGTH = 3.0  # anchors that the popularity prior is worth
NEAR_TOKENS, WINDOW_TOKENS = 20, 100  # text around a mention, each side

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
STATIC = (
    *GROUPS["prior"],
    *GROUPS["string"],
)  # of a surface and a candidate, whatever the document


class Entities(Protocol):
    """What the features need of the entity store. `rows` are places in it."""

    idf: Array

    def term_runs(self, rows: Array) -> tuple[Array, Array]: ...  # noqa: D102
    def neighbour_runs(self, rows: Array) -> tuple[Array, Array]: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """All tokens of a batch of documents, one after another."""

    terms: Array  # uint32 (t,): hash as a term, 0 = none
    documents: Array  # int64 (t,): number of the document, ascending


@dataclass(frozen=True, kw_only=True, slots=True)
class Flat:
    """Candidates of a batch."""

    mentions: Array  # int64 (c,): number of the mention, ascending
    rows: Array  # int64 (c,): place in the entity store
    qids: Array  # uint32 (c,)
    is_whole: Array  # bool (c,): found by its whole name
    documents: Array  # int64 (m,): document of each mention
    first_tokens: Array  # int64 (m,): tokens of each mention, in the batch
    end_tokens: Array  # int64 (m,)


def log_prior(owners: Array, counts: Array, popularity: Array) -> Array:
    """log P(entity | surface): anchor counts smoothed by popularity (sitelinks and incoming triples, plus one).

    All of shape (n,); `owners` says which surface a candidate belongs to, from 0.
    """
    popular = popularity + 1.0
    share = popular / np.bincount(owners, popular)[owners] if len(owners) else popular
    total = np.bincount(owners, counts)[owners] if len(owners) else popular
    return np.log((counts + PRIOR_STRENGTH * share) / (total + PRIOR_STRENGTH))


def dynamic_features(flat: Flat, tokens: Tokens, entities: Entities) -> dict[str, Array]:
    """Context and coherence of all candidates."""
    if not len(flat.rows):
        names = (*GROUPS["context"], *GROUPS["coherence"])
        return {name: np.empty(0, np.float32) for name in names}
    document_of = flat.documents[flat.mentions]
    pairs, pair_of = np.unique((document_of << 32) | flat.rows, return_inverse=True)
    context = context_features(flat, tokens, entities, (pairs, pair_of))
    return context | coherence_features(flat, entities, (pairs, pair_of))


def context_features(
    flat: Flat, tokens: Tokens, entities: Entities, pairs: tuple[Array, Array]
) -> dict[str, Array]:
    """IDF of the terms that an entity shares with the text: near the mention, in a wider window, in the document.

    The first two are log(1 + sum), the last is a share of the entity's own terms. The mention's own words do not count.
    """
    keys, pair_of = pairs
    sizes, terms = entities.term_runs(keys & 0xFFFFFFFF)
    owners = np.repeat(np.arange(len(keys)), sizes)
    weights = entities.idf[terms].astype(np.float64)
    total = np.bincount(owners, weights, len(keys))
    spots = _occurrences(tokens)
    hits = _in_sorted(spots >> 32, ((keys[owners] >> 32) << TERM_BITS) | terms)
    ends = np.searchsorted(owners[hits], np.arange(len(keys) + 1))
    counts = np.diff(ends)[pair_of]
    found = hits[spread(ends[pair_of], counts)]  # one element per candidate and shared term
    candidates = np.repeat(np.arange(len(pair_of)), counts)
    foreign = ~_in_own_words(flat, tokens, flat.mentions[candidates], terms[found])
    found, candidates = found[foreign], candidates[foreign]
    mention = flat.mentions[candidates]
    term_keys = (((flat.documents[mention]) << TERM_BITS) | terms[found]) << 32
    sums = [np.bincount(candidates, weights[found], len(pair_of))]
    for reach in (WINDOW_TOKENS, NEAR_TOKENS):
        low, high = (
            np.maximum(flat.first_tokens[mention] - reach, 0),
            flat.end_tokens[mention] + reach,
        )
        at = np.minimum(np.searchsorted(spots, term_keys + low), len(spots) - 1)
        inside = (
            (spots[at] >= term_keys + low) & (spots[at] < term_keys + high)
            if len(spots)
            else np.zeros(0, bool)
        )
        sums.append(np.bincount(candidates[inside], weights[found[inside]], len(pair_of)))
    return {
        "near": np.log1p(sums[2]).astype(np.float32),
        "window": np.log1p(sums[1]).astype(np.float32),
        "document": (sums[0] / (1.0 + total[pair_of])).astype(np.float32),
    }


def _occurrences(tokens: Tokens) -> Array:
    """Where terms occur: (document, term) << 32 | token, sorted."""
    places = np.flatnonzero(tokens.terms)
    spots = (((tokens.documents[places] << TERM_BITS) | tokens.terms[places]) << 32) | places
    spots.sort()
    return spots


def _in_sorted(values: Array, wanted: Array) -> Array:
    """Places of those wanted that are among sorted values."""
    if not len(values):
        return np.empty(0, np.int64)
    at = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    return np.flatnonzero(values[at] == wanted)


def _in_own_words(flat: Flat, tokens: Tokens, mentions: Array, terms: Array) -> Array:
    """Whether a term is one of the mention's own words."""
    lengths = flat.end_tokens - flat.first_tokens
    own_mention = np.repeat(np.arange(len(lengths)), lengths)
    own_term = tokens.terms[spread(flat.first_tokens, lengths)]
    own = np.unique((own_mention << TERM_BITS) | own_term)
    is_own = np.zeros(len(mentions), bool)
    is_own[_in_sorted(own, (mentions << TERM_BITS) | terms)] = True
    return is_own


def coherence_features(
    flat: Flat, entities: Entities, pairs: tuple[Array, Array]
) -> dict[str, Array]:
    """What the document's other mentions say for an entity, each log(1 + sum).

    neighbours: of its neighbours, those that others may mean; shared: neighbours that it has in common with what others
    may mean (same class, same country); mentioned: others that may mean itself. "May mean": one over the number of whole-name
    candidates of the other mention, at most 1 per entity.
    """
    keys, pair_of = pairs
    num_whole = np.bincount(flat.mentions, flat.is_whole, len(flat.documents))
    share = np.where(flat.is_whole, 1.0 / np.maximum(num_whole[flat.mentions], 1), 0.0)
    likely = np.bincount(pair_of, share, len(keys))
    capped = np.minimum(likely, 1.0)
    sizes, near = entities.neighbour_runs(keys & 0xFFFFFFFF)
    owners = np.repeat(np.arange(len(keys)), sizes)
    documents = keys >> 32
    items = np.empty(len(keys), np.int64)
    items[pair_of] = (documents[pair_of] << 32) | flat.qids
    order = np.argsort(items)
    links = (documents[owners] << 32) | near
    hits = _in_sorted(items[order], links)
    others = order[np.searchsorted(items[order], links[hits])]
    neighbours = np.bincount(owners[hits], capped[others], len(keys))
    spoken, of_link = np.unique(links, return_inverse=True)
    said = np.bincount(of_link, capped[owners], len(spoken))
    in_common = np.maximum(said[of_link] - capped[owners], 0.0)
    shared = np.bincount(owners, np.log1p(in_common), len(keys)) / np.maximum(sizes, 1)
    return {
        "neighbours": np.log1p(neighbours)[pair_of].astype(np.float32),
        "shared": shared[pair_of].astype(np.float32),
        "mentioned": np.log1p(np.maximum(likely[pair_of] - share, 0.0)).astype(np.float32),
    }
