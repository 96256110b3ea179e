"""Let the candidates of a document vote for each other, through the knowledge graph and by name.

Goes in: candidates of a batch with all their other features. Comes out: the features of coherence.
How surely the document means an entity is first judged without coherence, by weights that are set
by hand; then the votes are counted, and judged again with them, ROUNDS times in all. So what one
mention makes clear helps the next one. The votes do not depend on the weights of the run, so
weights can be fitted on these features. Bounded: an item has at most MAX_NEIGHBOURS neighbours, a
mention at most 64 candidates.

Legend: c candidates, m mentions, e distinct (document, entity) pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.index.words import TERM_BITS
from pipeline.link.disambiguation import BY_HAND, contributions, probabilities
from pipeline.link.features import (
    GROUPS,
    Entities,
    EntityPairs,
    FlatCandidates,
    in_sorted,
)
from schemas.array_types import F32, F64, I64, U32, Array

# A third round changed no accuracy on any set that was tried (docs/log.md).
ROUNDS = 2
# Vote of a candidate that merely has the mention's words in its name.
PARTIAL_VOTE = 0.25
# Mentions that may speak for one word of a label, at most.
MAX_KIN = 3.0


@dataclass(frozen=True, slots=True)
class Ties:
    """Hold what ties the entities of the same document; it does not depend on the votes."""

    pairs: EntityPairs
    # One triple joins two pairs: once in each direction, with the weight of the vote.
    receivers: I64
    voters: I64
    weights: F64
    # One element per pair and neighbour of its entity: the pair, the number of the (document,
    # neighbour), and the neighbour's weight for this pair.
    owners: I64
    links: I64
    link_weights: F64
    num_links: int
    # Shape (c,): the number of each candidate's (pair, text of the mention), and the pair of each.
    named: I64
    pair_of_named: I64


def coherence_features(
    flat: FlatCandidates, features: Mapping[str, Array], entities: Entities, pairs: EntityPairs
) -> dict[str, F32]:
    """Return what the document's other mentions say for each candidate.

    `neighbours`: votes for its neighbours. `shared`: votes for others with the same neighbours
    (same class, same country). In both a neighbour that many triples point to says less.
    `mentioned`: votes for itself by mentions with another text; the same text again is no new
    evidence. `kin`: mentions that may mean items whose labels share other words with its label
    ("Orange County" beside "Riverside").

    Args:
        flat: candidates of the batch.
        features: all the others of them, shape (c,) each.
        entities: the store.
        pairs: the distinct (document, entity) pairs.
    """
    if not len(flat.rows):
        return {name: np.empty(0, np.float32) for name in GROUPS["coherence"]}
    kin = _kin(flat, entities.idf)
    ties = _ties(flat, entities, pairs)

    num_mentions = len(flat.documents)
    votes = _judged({**features, "kin": kin}, flat.mentions, num_mentions)
    coherence: dict[str, F32] = {}
    for number in range(ROUNDS):
        coherence = {**_counted(ties, votes), "kin": kin}
        if number + 1 < ROUNDS:
            votes = _judged({**features, **coherence}, flat.mentions, num_mentions)
    return coherence


def _judged(features: Mapping[str, Array], mentions: I64, num_mentions: int) -> F32:
    """Return the probability of each candidate by the weights that are set by hand, shape (c,)."""
    added = contributions(features, BY_HAND)
    scores = np.sum([*added.values()], axis=0) + BY_HAND.bias
    return probabilities(scores, mentions, num_mentions)


def _ties(flat: FlatCandidates, entities: Entities, pairs: EntityPairs) -> Ties:
    """Return what ties the entities of a batch to others of their document."""
    num_pairs = len(pairs.keys)
    popularity = entities.popularity(pairs.rows).astype(np.float64)
    sizes, near = entities.neighbour_runs(pairs.rows)
    owners = np.repeat(np.arange(num_pairs), sizes)
    links = (pairs.documents[owners] << 32) | near

    # Pairs by (document, item): which neighbours are entities of the same document.
    items = np.empty(num_pairs, np.int64)
    items[pairs.of_candidate] = (flat.documents[flat.mentions] << 32) | flat.qids
    order = np.argsort(items)
    hits = in_sorted(items[order], links)
    one, other = owners[hits], order[np.searchsorted(items[order], links[hits])]
    # A hub's list of neighbours is cut, so an edge that either end lists counts for both, once.
    edges = np.unique(np.concatenate([(one << 32) | other, (other << 32) | one]))
    receivers, voters = edges >> 32, edges & 0xFFFFFFFF

    distinct, number_of_link = np.unique(links, return_inverse=True)
    hubs = _popularity_of(entities, (distinct & 0xFFFFFFFF).astype(np.uint32))
    names = (pairs.of_candidate << 32) | flat.names[flat.mentions]
    distinct_names, number_of_name = np.unique(names, return_inverse=True)
    scale = np.sqrt(np.maximum(sizes, 1))
    return Ties(
        pairs=pairs,
        receivers=receivers,
        voters=voters,
        weights=_specific(popularity[voters]),
        owners=owners,
        links=number_of_link,
        link_weights=_specific(hubs[number_of_link]) / scale[owners],
        num_links=len(distinct),
        named=number_of_name,
        pair_of_named=distinct_names >> 32,
    )


def _specific(popularity: F64) -> F64:
    """Return how much a tie through items says: less, the more triples point to them."""
    return 1.0 / np.log(2.0 + popularity)


def _popularity_of(entities: Entities, qids: U32) -> F64:
    """Return the popularity of items; 0 where the store has none."""
    rows = entities.rows(qids)
    popularity = np.zeros(len(qids))
    popularity[rows >= 0] = entities.popularity(rows[rows >= 0])
    return popularity


def _counted(ties: Ties, votes: F32) -> dict[str, F32]:
    """Count the votes for each candidate. `votes` has shape (c,), as have the features."""
    of_candidate, num_pairs = ties.pairs.of_candidate, len(ties.pairs.keys)
    # The document means an entity as surely as the mention that is surest of it.
    means = np.zeros(num_pairs)
    np.maximum.at(means, of_candidate, votes)
    neighbours = np.bincount(ties.receivers, means[ties.voters] * ties.weights, num_pairs)

    # How surely the document means any entity with a neighbour, less the pair's own part in it.
    support = np.bincount(ties.links, means[ties.owners], ties.num_links)
    in_common = np.maximum(support[ties.links] - means[ties.owners], 0.0)
    shared = np.bincount(ties.owners, np.log1p(in_common) * ties.link_weights, num_pairs)

    # Each text counts once for an entity, however often the document repeats it.
    by_name = np.zeros(len(ties.pair_of_named))
    np.maximum.at(by_name, ties.named, votes)
    by_all_names = np.bincount(ties.pair_of_named, by_name, num_pairs)
    mentioned = np.maximum(by_all_names[of_candidate] - by_name[ties.named], 0.0)
    return {
        "neighbours": np.log1p(neighbours)[of_candidate].astype(np.float32),
        "shared": shared[of_candidate].astype(np.float32),
        "mentioned": np.log1p(mentioned).astype(np.float32),
    }


def _kin(flat: FlatCandidates, idf: F32) -> F32:
    """Return log(1 + mentions that speak for the other words of each candidate's label).

    A mention speaks for a word as much as the best of its candidates whose labels have it: shared
    among those with the whole name, PARTIAL_VOTE for all others.
    """
    num_whole = np.bincount(flat.mentions, flat.is_whole, len(flat.documents))[flat.mentions]
    votes = np.where(flat.is_whole, 1.0 / np.maximum(num_whole, 1), PARTIAL_VOTE)

    # One element per candidate and other word; then one per (document, word, text of the mention).
    candidates, columns = np.nonzero(flat.others)
    terms = flat.others[candidates, columns].astype(np.int64)
    mentions = flat.mentions[candidates]
    words, number_of_word = np.unique(
        (flat.documents[mentions] << TERM_BITS) | terms, return_inverse=True
    )
    named, number_of_named = np.unique(
        (number_of_word.astype(np.int64) << 32) | flat.names[mentions], return_inverse=True
    )
    by_name = np.zeros(len(named))
    np.maximum.at(by_name, number_of_named, votes[candidates])
    by_word = np.bincount(named >> 32, by_name, len(words))

    # The mention's own text does not speak for its own candidates.
    foreign = np.clip(by_word[number_of_word] - by_name[number_of_named], 0.0, MAX_KIN)
    weights = idf[terms].astype(np.float64)
    num_candidates = len(flat.rows)
    total = np.maximum(np.bincount(candidates, weights, num_candidates), 1e-9)
    spoken = np.bincount(candidates, weights * foreign, num_candidates)
    kin: F32 = np.log1p(spoken / total).astype(np.float32)
    return kin
