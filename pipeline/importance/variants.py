"""What the encoder reads for `importance`: every original once, and one variant per entity, in which it is replaced.

Goes in: the tokens of a chunk of sentences and the spans of its linked mentions. Comes out: the sequences, the pair of them for
each entity of a sentence, and the pair of each mention. All mentions of one entity in a sentence are replaced together and
share a pair. A sentence that is too long gives a window around its entity's first mention; entities with the same window share
the original. No Python per token or mention.

Arrays have one element per token (T), mention (M), pair (P: an entity of a sentence) or sequence (N).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.arrays.runs import offsets_of, spread
from pipeline.encoder.sequences import Sequences, window


@dataclass(frozen=True, slots=True)
class MentionTokens:
    """Linked mentions of sentences, in order of their sentence; spans count the tokens of all sentences."""

    sentences: np.ndarray  # int64 (M,)
    qids: np.ndarray  # int64 (M,)
    low: np.ndarray  # int64 (M,), first token
    high: (
        np.ndarray
    )  # int64 (M,), one past the last; not above the first where no token touches the mention


@dataclass(frozen=True, slots=True)
class Variants:
    """Sequences to encode, and who compares which of them."""

    sequences: Sequences
    originals: np.ndarray  # int64 (P,), number of the sequence
    replaced: np.ndarray  # int64 (P,), that of the same without the entity
    pairs: (
        np.ndarray
    )  # int64 (M,), the pair that scores each mention; -1 where no token of its entity is there


def plan_variants(
    sentences: Sequences, mentions: MentionTokens, width: int, replacement: int | None
) -> Variants:
    """The sequences of at most `width` tokens that score these mentions.

    Args:
        sentences: tokens of whole sentences.
        mentions: their linked mentions.
        width: tokens that the encoder reads, special ones not counted.
        replacement: token in an entity's place; None leaves its tokens out.
    """
    found = np.flatnonzero(mentions.low < mentions.high)
    entities = np.unique(mentions.sentences << 32 | mentions.qids, return_inverse=True)[1]
    scored, first, own_pair = np.unique(entities[found], return_index=True, return_inverse=True)
    pairs = np.full(int(entities.max(initial=-1)) + 1, -1, np.int64)
    pairs[scored] = np.arange(len(scored))
    starts, lengths = _windows(sentences, mentions, found[first], width)
    _, alike, originals = np.unique(starts, return_index=True, return_inverse=True)
    offsets = offsets_of(np.concatenate([lengths[alike], lengths]))
    ids = sentences.ids[spread(np.concatenate([starts[alike], starts]), np.diff(offsets))]
    begin = offsets[len(alike) : -1]  # of the variants
    gone = np.zeros(len(ids) + 1, np.int64)  # +1 where a span begins, -1 where it ends
    for edges, step in ((mentions.low[found], 1), (mentions.high[found], -1)):
        inside = np.clip(
            edges - starts[own_pair], 0, lengths[own_pair]
        )  # a window may cut a mention, or leave it out
        gone += step * np.bincount(begin[own_pair] + inside, minlength=len(gone))
    sequences = _without(Sequences(ids, offsets), np.cumsum(gone)[:-1] > 0, replacement)
    return Variants(sequences, originals, len(alike) + np.arange(len(scored)), pairs[entities])


def _windows(
    sentences: Sequences, mentions: MentionTokens, chosen: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """First token and length of the window around each chosen mention; its first token tells a window from others."""
    own = mentions.sentences[chosen]
    first = sentences.offsets[own]
    span = (mentions.low[chosen] - first, mentions.high[chosen] - first)
    low, high = window(sentences.lengths[own], span, width)
    return first + low, high - low


def _without(sequences: Sequences, gone: np.ndarray, replacement: int | None) -> Sequences:
    """The sequences with a token in the place of those that are gone, or without them."""
    if replacement is not None:
        return Sequences(np.where(gone, replacement, sequences.ids), sequences.offsets)
    kept = offsets_of(~gone)
    return Sequences(sequences.ids[~gone], kept[sequences.offsets])
