"""Sentences as training examples: windows of whole words, which spans they keep, where they go. Vectorised, pure.

Goes in: the tokens of many sentences laid end to end (`offsets`: first token of each), and spans as half-open token numbers
counted over all of them. Comes out: windows, counted the same way.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.arrays.hashing import GOLDEN, hash64, splitmix64
from schemas.array_types import Array


def window_bounds(
    offsets: Array, starts_word: Array, spans: tuple[Array, Array], width: int
) -> Array:
    """First tokens of all windows, and the end of the last: sentences, those that are too long cut into windows.

    Windows of a sentence have at most `width` tokens, are about equal, and cut no span that fits into one, and no word where
    it can be helped.

    Args:
        offsets: of the sentences, shape (sentences + 1,).
        starts_word: whether a word starts at a token, shape (tokens,).
        spans: starts and ends, in order, none overlapping.
        width: tokens that fit, special tokens not counted.
    """
    too_long = np.flatnonzero(np.diff(offsets) > width)
    cuts: list[int] = []
    if len(too_long):
        fits = spans[1] - spans[0] <= width
        edges = np.zeros(len(starts_word) + 1, np.int64)
        np.add.at(edges, spans[0][fits] + 1, 1)
        np.add.at(edges, spans[1][fits], -1)
        is_free = np.cumsum(edges[:-1]) == 0
        for low, high in zip(
            offsets[too_long].tolist(), offsets[too_long + 1].tolist(), strict=True
        ):
            cuts += [low + cut for cut in _cuts(is_free[low:high], starts_word[low:high], width)]
    return np.unique(np.concatenate([offsets, np.array(cuts, np.int64)]))


def _cuts(is_free: Array, starts_word: Array, width: int) -> list[int]:
    """Where the windows of one sentence begin, but the first."""
    good, cuts, start = is_free & starts_word, [], 0
    while len(is_free) - start > width:
        left = len(is_free) - start
        step = math.ceil(left / math.ceil(left / width))
        start = next(
            place for mask in (good, is_free) if (place := _nearest(mask, start, step, width))
        )
        cuts.append(start)
    return cuts


def _nearest(mask: Array, start: int, step: int, width: int) -> int:
    """The place nearest to start + step, earlier ones first, up to start + width; 0 where there is none.

    There is a free one: a span fits into a window, so its start or its end is free.
    """
    before = np.flatnonzero(mask[start + 1 : start + step + 1])
    if len(before):
        return start + 1 + int(before[-1])
    after = np.flatnonzero(mask[start + step + 1 : start + width + 1])
    return start + step + 1 + int(after[0]) if len(after) else 0


def document_hash(doc_id: str, seed: int) -> int:
    """What a document's split and the places of its rows follow from: 64 bits, the same on every machine."""
    return hash64(f"split:{seed}:{doc_id}")


def in_validation(document_hashes: Array, validation_share: float) -> Array:
    """Whole documents go to one split, and nothing moves when documents are added. Bool (n,)."""
    return document_hashes / 2.0**64 < validation_share


def shuffle_keys(document_hashes: Array, starts: Array) -> Array:
    """Where rows go in the shuffled order: 64 bits of a document's hash and the row's start in it. uint64 (n,)."""
    with np.errstate(over="ignore"):
        return splitmix64(
            splitmix64(document_hashes + GOLDEN)
            + (starts.astype(np.uint64) + np.uint64(1)) * GOLDEN
        )


def bucket_of(keys: Array, num_buckets: int) -> Array:
    """Bucket of each key: equal ranges of keys, so buckets one after the other are in the order of the keys. int64 (n,)."""
    return (((keys >> np.uint64(32)) * np.uint64(num_buckets)) >> np.uint64(32)).astype(np.int64)
