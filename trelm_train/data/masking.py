"""Choose the tokens that the model must predict: whole words, and linked mentions as a whole.

A unit is a mention together with every word it touches, or a word. Every choice is a hash of (seed,
epoch, sentence, token number), so the masks of a sentence do not depend on the batch or the layout,
and resuming needs no random state. Each sentence is hashed once; its units then take one step of a
generator each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from schemas.array_types import I64, U64, Bools
from trelm_train.config import MaskingConfig
from trelm_train.data.arrays import expand, fractions, generators, happens, next_bits
from trelm_train.data.loader import Batch

# Legend: R rows, S tokens per row, M targets, N sentences, U units, C chosen units, D units of C
# that become random tokens, T their tokens.


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """Hold what masking needs to know of a tokenizer."""

    size: int
    mask_id: int
    pad_id: int
    special_ids: tuple[int, ...]
    # By token id: the same number for tokens that read the same; None: each reads as itself alone.
    spelling: I64 | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedBatch:
    """Hold the token ids of a batch with its targets hidden, and the targets."""

    input_ids_RS: I64
    # Flat positions, ascending, and the ids that stood there.
    target_M: I64
    gold_M: I64
    # Whether a token is a target.
    chosen_RS: Bools
    # Whether a target is part of the hidden tail of an asked fact.
    asked_M: Bools


def unit_starts(batch: Batch) -> I64:
    """Return the flat position where each unit starts.

    Units are words, joined where a mention runs over their border.
    """
    is_inner = np.zeros(batch.input_ids_RS.size, np.bool_)
    # Every token of a mention but its first one: a word that starts there belongs to the mention's
    # unit.
    is_inner[expand(batch.span_start_P + 1, batch.span_end_P - batch.span_start_P - 1)] = True
    starts: I64 = batch.word_start_W[~is_inner[batch.word_start_W]]
    return starts


def unit_ends(batch: Batch, starts_U: I64) -> I64:
    """Return one past the last token of each unit: the next unit, or the closing special token."""
    return _ends(batch, starts_U, np.arange(len(starts_U)))


def _ends(batch: Batch, starts_U: I64, chosen_C: I64) -> I64:
    """Return the ends of the chosen units."""
    following_C = starts_U.take(chosen_C + 1, mode="clip")
    following_C[chosen_C == len(starts_U) - 1] = batch.input_ids_RS.size

    # The last unit of a sentence ends before the closing special token, one before its end.
    sentence_C = batch.segment_RS.reshape(-1)[starts_U[chosen_C]]
    ends: I64 = np.minimum(following_C, batch.end_N[sentence_C] - 1)
    return ends


def mask_batch(
    batch: Batch, config: MaskingConfig, vocabulary: Vocabulary, *, seed: int, epoch: int
) -> MaskedBatch:
    """Choose units with the configured probability and hide them.

    By default 80 % of them become the mask token, 10 % random tokens, and 10 % stay as they are
    (BERT, Devlin et al. 2019).
    """
    starts_U = unit_starts(batch)
    bits_U = _unit_bits(batch, starts_U, seed=seed, epoch=epoch)
    chosen_C = happens(bits_U, config.probability).nonzero()[0]

    # The bits of chosen units are evenly spread below the probability. Their position in that range
    # decides what becomes of a unit, so one draw serves both choices.
    bits_C = bits_U[chosen_C]
    start_C = starts_U[chosen_C]
    length_C = _ends(batch, starts_U, chosen_C) - start_C
    target_M = expand(start_C, length_C)

    ids_RS = batch.input_ids_RS.copy()
    flat = ids_RS.reshape(-1)
    gold_M = flat[target_M]

    is_hidden_C = happens(bits_C, config.probability * config.mask_share)
    flat[target_M[np.repeat(is_hidden_C, length_C)]] = vocabulary.mask_id

    # Random tokens: one generator step per token of these units.
    is_changed_C = happens(bits_C, config.probability * (config.mask_share + config.random_share))
    random_D = np.flatnonzero(is_changed_C & ~is_hidden_C)
    token_T = expand(start_C[random_D], length_C[random_D])
    offset_T = batch.offset_RS.reshape(-1)[token_T]
    bits_T = next_bits(np.repeat(bits_C[random_D], length_C[random_D]), offset_T)
    flat[token_T] = _random_ids(bits_T, vocabulary)

    is_target = np.zeros(ids_RS.size, np.bool_)
    is_target[target_M] = True
    return MaskedBatch(
        input_ids_RS=ids_RS,
        target_M=target_M,
        gold_M=gold_M,
        chosen_RS=is_target.reshape(ids_RS.shape),
        asked_M=np.zeros(len(target_M), np.bool_),
    )


def _unit_bits(batch: Batch, starts_U: I64, *, seed: int, epoch: int) -> U64:
    """Draw random bits for each unit, from its sentence and the number of its first token."""
    state_N = generators(seed, "mask", epoch, batch.key_N)
    sentence_U = batch.segment_RS.reshape(-1)[starts_U]
    return next_bits(state_N[sentence_U], batch.offset_RS.reshape(-1)[starts_U])


@cache
def _ordinary_ids(vocabulary: Vocabulary) -> I64:
    """Return all ids that are not special."""
    return np.setdiff1d(np.arange(vocabulary.size), np.asarray(vocabulary.special_ids, np.int64))


def _random_ids(bits: U64, vocabulary: Vocabulary) -> I64:
    """Pick one ordinary token id for each of the random bits."""
    allowed = _ordinary_ids(vocabulary)
    ids: I64 = allowed[(fractions(bits) * len(allowed)).astype(np.int64)]
    return ids
