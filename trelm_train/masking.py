"""Which tokens the model must predict: whole words, and linked mentions wholly or not at all.

A unit is a mention together with every word it touches, or a word. Every choice is a hash of (seed, epoch, sentence,
token number), so the masks of a sentence do not depend on the batch it is packed into, and resuming needs no random
state.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from trelm_train.arrays import I64, Bools, expand, uniform
from trelm_train.config import MaskingConfig
from trelm_train.loader import Batch

# Legend: R packed rows, S tokens per packed row, M targets, U units.


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """What masking needs to know of a tokenizer."""

    size: int
    mask_id: int
    pad_id: int
    special_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Masked:
    """A batch with its targets hidden."""

    input_ids_RS: I64
    target_M: I64  # flat positions, ascending
    gold_M: I64
    chosen_RS: Bools  # is a target


def unit_starts(batch: Batch) -> I64:
    """Flat position where each unit starts: words, joined where a mention runs over their border."""
    starts = np.zeros(batch.input_ids_RS.size, np.bool_)
    starts[batch.word_start_W] = True
    inner = expand(batch.span_start_P + 1, batch.span_end_P - batch.span_start_P - 1)
    starts[inner] = False
    return np.flatnonzero(starts)


def unit_ends(batch: Batch, starts_U: I64) -> I64:
    """One past each unit's last token: the next unit, or the closing special token."""
    sentence = batch.segment_RS.reshape(-1)[starts_U]
    closing = batch.end_N[sentence] - 1
    following = np.append(starts_U[1:], batch.input_ids_RS.size)
    ends: I64 = np.minimum(following, closing)
    return ends


def mask_batch(batch: Batch, config: MaskingConfig, vocabulary: Vocabulary, *, seed: int, epoch: int) -> Masked:
    """Choose units with the configured probability; 80 % become the mask token, 10 % random tokens, 10 % stay."""
    starts = unit_starts(batch)
    keys = (batch.key_N[batch.segment_RS.reshape(-1)[starts]], batch.offset_RS.reshape(-1)[starts])
    chosen = uniform(seed, "choose", epoch, *keys) < config.probability
    lengths = (unit_ends(batch, starts) - starts)[chosen]
    target = expand(starts[chosen], lengths)
    action = np.repeat(uniform(seed, "action", epoch, *keys)[chosen], lengths)
    ids = batch.input_ids_RS.copy()
    flat = ids.reshape(-1)
    gold = flat[target].copy()
    flat[target[action < config.mask_share]] = vocabulary.mask_id
    random = (action >= config.mask_share) & (action < config.mask_share + config.random_share)
    flat[target[random]] = _random_ids(batch, target[random], vocabulary, seed=seed, epoch=epoch)
    flags = np.zeros(ids.size, np.bool_)
    flags[target] = True
    return Masked(input_ids_RS=ids, target_M=target, gold_M=gold, chosen_RS=flags.reshape(ids.shape))


@cache
def _ordinary_ids(vocabulary: Vocabulary) -> I64:
    return np.setdiff1d(np.arange(vocabulary.size), np.asarray(vocabulary.special_ids, np.int64))


def _random_ids(batch: Batch, target_M: I64, vocabulary: Vocabulary, *, seed: int, epoch: int) -> I64:
    allowed = _ordinary_ids(vocabulary)
    key = batch.key_N[batch.segment_RS.reshape(-1)[target_M]]
    draw = uniform(seed, "random", epoch, key, batch.offset_RS.reshape(-1)[target_M])
    ids: I64 = allowed[(draw * len(allowed)).astype(np.int64)]
    return ids
