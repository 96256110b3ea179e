"""Which tokens the model must predict: whole words, and linked mentions wholly or not at all.

A unit is a mention together with every word it touches, or a word. Every choice is a hash of (seed, epoch, sentence,
token number), so the masks of a sentence do not depend on the batch or the layout, and resuming needs no random state.
Each sentence is hashed once; its units then take one step of a generator each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from schemas.array_types import I64, U64, Bools
from trelm_train.config import MaskingConfig
from trelm_train.data.arrays import expand, fractions, generators, happens, next_bits
from trelm_train.data.loader import Batch

# Legend: R rows, S tokens per row, M targets, N sentences, U units, C chosen units.


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """What masking needs to know of a tokenizer."""

    size: int
    mask_id: int
    pad_id: int
    special_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedBatch:
    """A batch with its targets hidden."""

    input_ids_RS: I64
    target_M: I64  # flat positions, ascending
    gold_M: I64
    chosen_RS: Bools  # is a target


def unit_starts(batch: Batch) -> I64:
    """Flat position where each unit starts: words, joined where a mention runs over their border."""
    is_inner = np.zeros(batch.input_ids_RS.size, np.bool_)
    is_inner[expand(batch.span_start_P + 1, batch.span_end_P - batch.span_start_P - 1)] = True
    starts: I64 = batch.word_start_W[~is_inner[batch.word_start_W]]
    return starts


def unit_ends(batch: Batch, starts_U: I64) -> I64:
    """One past each unit's last token: the next unit, or the closing special token."""
    return _ends(batch, starts_U, np.arange(len(starts_U)))


def _ends(batch: Batch, starts_U: I64, chosen: I64) -> I64:
    following = starts_U.take(chosen + 1, mode="clip")
    following[chosen == len(starts_U) - 1] = batch.input_ids_RS.size
    closing = batch.end_N[batch.segment_RS.reshape(-1)[starts_U[chosen]]] - 1
    ends: I64 = np.minimum(following, closing)
    return ends


def mask_batch(
    batch: Batch, config: MaskingConfig, vocabulary: Vocabulary, *, seed: int, epoch: int
) -> MaskedBatch:
    """Choose units with the configured probability; 80 % become the mask token, 10 % random tokens, 10 % stay."""
    starts = unit_starts(batch)
    bits_U = _unit_bits(batch, starts, seed=seed, epoch=epoch)
    chosen = happens(bits_U, config.probability).nonzero()[0]
    bits_C = bits_U[
        chosen
    ]  # evenly spread below the probability: their share of it decides what becomes of a unit
    start_C = starts[chosen]
    length_C = _ends(batch, starts, chosen) - start_C
    target = expand(start_C, length_C)
    ids = batch.input_ids_RS.copy()
    flat = ids.reshape(-1)
    gold = flat[target]
    is_hidden = happens(bits_C, config.probability * config.mask_share)
    flat[target[np.repeat(is_hidden, length_C)]] = vocabulary.mask_id
    is_changed = happens(bits_C, config.probability * (config.mask_share + config.random_share))
    random = np.flatnonzero(is_changed & ~is_hidden)
    token = expand(start_C[random], length_C[random])
    bits = next_bits(
        np.repeat(bits_C[random], length_C[random]), batch.offset_RS.reshape(-1)[token]
    )
    flat[token] = _random_ids(bits, vocabulary)
    flags = np.zeros(ids.size, np.bool_)
    flags[target] = True
    return MaskedBatch(
        input_ids_RS=ids, target_M=target, gold_M=gold, chosen_RS=flags.reshape(ids.shape)
    )


def _unit_bits(batch: Batch, starts_U: I64, *, seed: int, epoch: int) -> U64:
    state_N = generators(seed, "mask", epoch, batch.key_N)
    sentence_U = batch.segment_RS.reshape(-1)[starts_U]
    return next_bits(state_N[sentence_U], batch.offset_RS.reshape(-1)[starts_U])


@cache
def _ordinary_ids(vocabulary: Vocabulary) -> I64:
    return np.setdiff1d(np.arange(vocabulary.size), np.asarray(vocabulary.special_ids, np.int64))


def _random_ids(bits: U64, vocabulary: Vocabulary) -> I64:
    allowed = _ordinary_ids(vocabulary)
    ids: I64 = allowed[(fractions(bits) * len(allowed)).astype(np.int64)]
    return ids
