"""Split sentences into windows, and decide where the rows of a document go.

Windows hold whole words. All is vectorised and pure.

Goes in: the tokens of many sentences laid end to end, and spans as half-open token numbers counted
over all of them.
Comes out: windows, counted the same way; the split and the shuffle key of each row.

Shapes: S sentences, T tokens of all sentences, W windows, P spans, N rows.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.arrays.hashing import GOLDEN, hash64, splitmix64
from schemas.array_types import I64, U64, Array, Bools


def window_bounds(offsets_S1: I64, starts_word_T: Bools, spans: tuple[I64, I64], width: int) -> I64:
    """Return the first tokens of all windows, and the end of the last: shape (W + 1,).

    A sentence is a window; a sentence that is too long is cut into several. These have at most
    `width` tokens, are about equal, and cut no span that fits into one, and no word where it can be
    helped.

    Args:
        offsets_S1: the first token of each sentence, and the end of the last: shape (S + 1,).
        starts_word_T: whether a word starts at a token.
        spans: starts and ends, shape (P,) each, in order, without overlaps.
        width: tokens that fit, special tokens not counted.
    """
    too_long = np.flatnonzero(np.diff(offsets_S1) > width)
    cuts: list[int] = []
    if len(too_long):
        # A token is free for a cut if no span that fits into a window covers it and the token
        # before.
        starts_P, ends_P = spans
        fits_P = ends_P - starts_P <= width
        edges = np.zeros(len(starts_word_T) + 1, np.int64)
        np.add.at(edges, starts_P[fits_P] + 1, 1)
        np.add.at(edges, ends_P[fits_P], -1)
        is_free_T = np.cumsum(edges[:-1]) == 0

        # Python per long sentence: there are few.
        lows, highs = offsets_S1[too_long].tolist(), offsets_S1[too_long + 1].tolist()
        for low, high in zip(lows, highs, strict=True):
            sentence_cuts = _cuts(is_free_T[low:high], starts_word_T[low:high], width)
            cuts += [low + cut for cut in sentence_cuts]
    return np.unique(np.concatenate([offsets_S1, np.array(cuts, np.int64)]))


def _cuts(is_free: Bools, starts_word: Bools, width: int) -> list[int]:
    """Return where the windows of one sentence begin, without the first.

    Both masks have the shape (tokens of the sentence,).
    """
    is_good, cuts, start = is_free & starts_word, [], 0
    while len(is_free) - start > width:
        # The rest is shared out equally, so that no short window remains at the end.
        num_left = len(is_free) - start
        step = math.ceil(num_left / math.ceil(num_left / width))
        start = _nearest(is_good, start, step, width) or _nearest(is_free, start, step, width)
        assert start, "a span that fits into a window leaves a free token"
        cuts.append(start)
    return cuts


def _nearest(mask: Bools, start: int, step: int, width: int) -> int:
    """Return the index nearest to start + step at which the mask is set; 0 if there is none.

    Indices up to start + step come before those after it; the last is start + width. Of free tokens
    there is always one: a span fits into a window, so its start or its end is free.
    """
    earlier = np.flatnonzero(mask[start + 1 : start + step + 1])
    if len(earlier):
        return start + 1 + int(earlier[-1])

    later = np.flatnonzero(mask[start + step + 1 : start + width + 1])
    return start + step + 1 + int(later[0]) if len(later) else 0


def document_hash(doc_id: str, seed: int) -> int:
    """Return 64 bits that decide a document's split and the order of its rows.

    They are the same on every machine.
    """
    return hash64(f"split:{seed}:{doc_id}")


def in_validation(document_hashes: U64, validation_share: float) -> Bools:
    """Say which documents are in the validation split, same shape.

    Whole documents go to one split, and no document changes its split when others are added.
    """
    return document_hashes / 2.0**64 < validation_share


def shuffle_keys(document_hashes_N: U64, starts_N: Array) -> U64:
    """Return the key of each row: the shuffled order is that of the keys.

    A key is 64 bits of the document's hash and of the row's start in it.
    """
    # Sums of 64-bit numbers wrap around on purpose.
    with np.errstate(over="ignore"):
        return splitmix64(
            splitmix64(document_hashes_N + GOLDEN)
            + (starts_N.astype(np.uint64) + np.uint64(1)) * GOLDEN
        )


def bucket_of(keys_N: U64, num_buckets: int) -> I64:
    """Return the bucket of each key.

    Buckets are equal ranges of keys: the buckets, one after the other, are in the order of the
    keys.
    """
    # The high 32 bits decide: their product with the number of buckets fits 64 bits.
    return (((keys_N >> np.uint64(32)) * np.uint64(num_buckets)) >> np.uint64(32)).astype(np.int64)
