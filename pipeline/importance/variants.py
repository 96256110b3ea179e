"""Plan what the encoder reads for `importance`: originals and variants.

In a variant an entity is replaced.

Goes in: the tokens of a chunk of sentences and the spans of its linked mentions. Comes out: the
sequences, the pair of them for each entity of a sentence, and the pair of each mention. All
mentions of one entity in a sentence are replaced together and share a pair. A sentence that is too
long gives a window around its entity's first mention; entities with the same window share the
original. No Python runs per token or mention.

Shapes: T tokens, M mentions, P pairs (an entity of a sentence each), O originals, N sequences (the
originals, then a variant per pair), K mentions that have a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.arrays.runs import offsets_of, spread
from pipeline.encoder.sequences import Sequences, window
from schemas.array_types import I64, Bools


@dataclass(frozen=True, slots=True)
class MentionTokens:
    """Hold the linked mentions of sentences, in order of their sentence. All shapes (M,).

    Spans count the tokens of all sentences.
    """

    sentences: I64
    qids: I64
    # The first token.
    low: I64
    # The token after the last; not above `low` where no token touches the mention.
    high: I64


@dataclass(frozen=True, slots=True)
class Variants:
    """Hold the sequences to encode, and which of them are compared."""

    sequences: Sequences
    # Shape (P,): the number of the original's sequence.
    originals: I64
    # Shape (P,): the number of the same sequence without the entity.
    replaced: I64
    # Shape (M,): the pair that scores each mention; -1 where no mention of its entity has a token.
    pairs: I64


def plan_variants(
    sentences: Sequences, mentions: MentionTokens, width: int, replacement: int | None
) -> Variants:
    """Return the sequences of at most `width` tokens that score these mentions.

    Args:
        sentences: tokens of whole sentences.
        mentions: their linked mentions.
        width: tokens that the encoder reads, special ones not counted.
        replacement: token in an entity's place; None leaves its tokens out.
    """
    # Entities of sentences are numbered; those with a token become pairs.
    with_tokens_K = np.flatnonzero(mentions.low < mentions.high)
    entity_M = np.unique(mentions.sentences << 32 | mentions.qids, return_inverse=True)[1]
    scored_P, first_P, pair_K = np.unique(
        entity_M[with_tokens_K], return_index=True, return_inverse=True
    )
    pair_of_entity = np.full(int(entity_M.max(initial=-1)) + 1, -1, np.int64)
    pair_of_entity[scored_P] = np.arange(len(scored_P))

    # Pairs with the same window share one original. A window is known by its first token.
    starts_P, lengths_P = _windows(sentences, mentions, with_tokens_K[first_P], width)
    _, distinct_O, original_P = np.unique(starts_P, return_index=True, return_inverse=True)
    num_originals = len(distinct_O)

    # The originals, then one copy of the window per pair, laid end to end.
    offsets = offsets_of(np.concatenate([lengths_P[distinct_O], lengths_P]))
    starts_N = np.concatenate([starts_P[distinct_O], starts_P])
    ids_T = sentences.ids[spread(starts_N, np.diff(offsets))]
    copy_starts_P = offsets[num_originals:-1]

    # +1 where a mention begins in the copy of its pair, -1 where it ends: the running sum is above
    # 0 inside.
    edges = np.zeros(len(ids_T) + 1, np.int64)
    for borders_K, step in ((mentions.low[with_tokens_K], 1), (mentions.high[with_tokens_K], -1)):
        # A window may cut a mention, or leave it out: its borders are moved into the window.
        inside_K = np.clip(borders_K - starts_P[pair_K], 0, lengths_P[pair_K])
        edges += step * np.bincount(copy_starts_P[pair_K] + inside_K, minlength=len(edges))
    is_gone_T = np.cumsum(edges)[:-1] > 0

    return Variants(
        sequences=_without(Sequences(ids_T, offsets), is_gone_T, replacement),
        originals=original_P,
        replaced=num_originals + np.arange(len(scored_P)),
        pairs=pair_of_entity[entity_M],
    )


def _windows(
    sentences: Sequences, mentions: MentionTokens, chosen_P: I64, width: int
) -> tuple[I64, I64]:
    """Return first token and length of the window around each chosen mention, shapes (P,).

    Different windows have different first tokens.
    """
    sentence_P = mentions.sentences[chosen_P]
    offset_P = sentences.offsets[sentence_P]
    span = (mentions.low[chosen_P] - offset_P, mentions.high[chosen_P] - offset_P)
    low_P, high_P = window(sentences.lengths[sentence_P], span, width)
    return offset_P + low_P, high_P - low_P


def _without(sequences: Sequences, is_gone_T: Bools, replacement: int | None) -> Sequences:
    """Return the sequences with the replacement for the tokens that are gone, or without them."""
    if replacement is not None:
        return Sequences(np.where(is_gone_T, replacement, sequences.ids), sequences.offsets)

    # The number of tokens that stay before each token, and before the end.
    num_before = offsets_of(~is_gone_T)
    return Sequences(sequences.ids[~is_gone_T], num_before[sequences.offsets])
