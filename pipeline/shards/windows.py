"""Sentences as training examples: windows of whole words, which spans they keep, where they go. Vectorised, pure.

Goes in: the tokens of many sentences laid end to end (`offsets`: first token of each), and spans as half-open token numbers
counted over all of them. Comes out: windows, counted the same way.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipeline.index.name_keys import hash64

Array = np.ndarray[Any, Any]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def first_come(starts: Array, ends: Array) -> Array:
    """Which half-open spans stay where they overlap: each that begins after all that stay before it. Bool (n,).

    Args:
        starts: ascending, shape (n,).
        ends: each after its start, shape (n,).
    """
    reach = np.maximum.accumulate(ends)
    apart = np.append(True, starts[1:] >= reach[:-1])[: len(starts)]  # begins a group of spans that hang together
    stays = apart.copy()
    first = np.flatnonzero(apart)
    sizes = np.diff(first, append=len(starts))
    for group, size in zip(first[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        end = ends[group]
        for place in range(group + 1, group + size):
            if starts[place] >= end:
                stays[place], end = True, ends[place]
    return stays


def window_bounds(offsets: Array, starts_word: Array, spans: tuple[Array, Array], width: int) -> Array:
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
        for low, high in zip(offsets[too_long].tolist(), offsets[too_long + 1].tolist(), strict=True):
            cuts += [low + cut for cut in _cuts(is_free[low:high], starts_word[low:high], width)]
    return np.unique(np.concatenate([offsets, np.array(cuts, np.int64)]))


def _cuts(is_free: Array, starts_word: Array, width: int) -> list[int]:
    """Where the windows of one sentence begin, but the first."""
    good, cuts, start = is_free & starts_word, [], 0
    while len(is_free) - start > width:
        left = len(is_free) - start
        step = math.ceil(left / math.ceil(left / width))
        start = next(place for mask in (good, is_free) if (place := _nearest(mask, start, step, width)))
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
        return _mixed(_mixed(document_hashes + _GOLDEN) + (starts.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def _mixed(state: Array) -> Array:
    """The last steps of splitmix64: every bit of the state moves every bit of the result."""
    state = (state ^ (state >> np.uint64(30))) * _MIX[0]
    state = (state ^ (state >> np.uint64(27))) * _MIX[1]
    return state ^ (state >> np.uint64(31))


def bucket_of(keys: Array, num_buckets: int) -> Array:
    """Bucket of each key: equal ranges of keys, so buckets one after the other are in the order of the keys. int64 (n,)."""
    return (((keys >> np.uint64(32)) * np.uint64(num_buckets)) >> np.uint64(32)).astype(np.int64)
