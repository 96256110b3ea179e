"""Score whole sentences by an encoder: the pseudo-log-likelihood.

Every token is masked in its turn, and the natural logarithms of the probabilities of what stood
there are added up (Salazar et al. 2020). While a token of a word of several is masked, the rest of
its word to the right is masked too, or the pieces would give each other away (Kauf and Ivanova
2023, PLL-word-l2r). Special tokens are not scored.

Goes in: a tokenizer's encodings. Comes out: a number per sentence, at most 0. Costs a forward pass
per token; sentences that differ in masked tokens alone share it, and only masked positions go
through the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from schemas.array_types import F64, I64
from trelm_train.data.arrays import Ragged, expand, from_lengths
from trelm_train.data.loader import Position, assemble, plan_batches, sentences_from_ids
from trelm_train.evaluate.answers import BATCH
from trelm_train.evaluate.finite import check_finite
from trelm_train.model.masked_lm import MaskedLm

# Legend: N sentences, T tokens of all of them, W scored tokens, Q inputs after equal ones have been
# joined, M inputs of a batch, V vocabulary, X tokens of all inputs.

# Input tokens that are made at a time; 8 bytes each, a few times over.
BLOCK_TOKENS = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedInputs:
    """Hold the inputs that score some sentences: one per scored token, equal ones once."""

    ids: Ragged
    # The scored position of each input.
    position_Q: I64
    # Of each scored token: its input, what stands there, and its sentence.
    input_W: I64
    gold_W: I64
    sentence_W: I64


def pseudo_log_likelihoods(
    model: MaskedLm, pad_id: int, mask_id: int, encodings: Sequence[Any]
) -> F64:
    """Score sentences, as N.

    Args:
        model: an encoder.
        pad_id: what fills rows.
        mask_id: the mask token.
        encodings: of the sentences, as a fast tokenizer returns them under `encodings`, none longer
            than the model takes.

    Raises:
        NotFiniteError: the model gives NaN or infinite logits.
    """
    ids = _ragged([encoding.ids for encoding in encodings])
    words = _ragged(
        # Special tokens belong to no word.
        [[-1 if word is None else word for word in encoding.word_ids] for encoding in encodings]
    )
    special = _ragged([encoding.special_tokens_mask for encoding in encodings])

    score_N = np.zeros(len(ids))
    with model.evaluating(), torch.no_grad():
        for sentence_N in _blocks(ids):
            inputs = masked_inputs(ids, words, special, sentence_N, mask_id)
            log_p_W = _log_probabilities(model, pad_id, inputs)
            np.add.at(score_N, inputs.sentence_W, log_p_W)
    return score_N


def masked_inputs(
    ids: Ragged, words: Ragged, special: Ragged, sentence_N: I64, mask_id: int
) -> MaskedInputs:
    """Mask every token of some sentences in its turn, with the rest of its word.

    Args:
        ids: token ids of all sentences.
        words: the number of each token's word in its sentence.
        special: 1 where a token is special.
        sentence_N: numbers of the sentences.
        mask_id: the mask token.
    """
    length_N = ids.lengths(sentence_N)
    sentence_T = np.repeat(sentence_N, length_N)
    offset_T = expand(np.zeros(len(sentence_N), np.int64), length_N)
    id_T, word_T = ids.take(sentence_N), words.take(sentence_N)

    # One past the last token of each token's word: where the next word, or sentence, begins.
    begins_T = np.ones(len(id_T), np.bool_)
    begins_T[1:] = (word_T[1:] != word_T[:-1]) | (sentence_T[1:] != sentence_T[:-1])
    borders = np.append(np.flatnonzero(begins_T), len(id_T))
    end_T = borders[np.cumsum(begins_T)]

    # An input per scored token: its whole sentence, and the rest of the word hidden.
    token_W = np.flatnonzero(special.take(sentence_N) == 0)
    sentence_W = sentence_T[token_W]
    length_W = ids.lengths(sentence_W)
    id_X = ids.take(sentence_W)
    begin_W = np.cumsum(length_W) - length_W
    id_X[expand(begin_W + offset_T[token_W], end_T[token_W] - token_W)] = mask_id

    masked = from_lengths(id_X, length_W)
    input_W, first_Q = _joined(masked, offset_T[token_W])
    return MaskedInputs(
        ids=from_lengths(masked.take(first_Q), length_W[first_Q]),
        position_Q=offset_T[token_W][first_Q],
        input_W=input_W,
        gold_W=id_T[token_W],
        sentence_W=sentence_W,
    )


def _joined(ids: Ragged, position_W: I64) -> tuple[I64, I64]:
    """Give equal inputs one number; return the number of each, and the first input of each number."""
    numbers: dict[bytes, int] = {}
    first: list[int] = []
    values, borders = np.ascontiguousarray(ids.values), ids.offsets.tolist()
    input_W = np.zeros(len(position_W), np.int64)
    for number, position in enumerate(position_W.tolist()):
        key = values[borders[number] : borders[number + 1]].tobytes() + position.to_bytes(4, "big")
        found = numbers.setdefault(key, len(first))
        if found == len(first):
            first.append(number)
        input_W[number] = found
    return input_W, np.asarray(first, np.int64)


def _log_probabilities(model: MaskedLm, pad_id: int, inputs: MaskedInputs) -> F64:
    """Return the log-probability of each scored token, as W."""
    sentences = sentences_from_ids(inputs.ids)
    # The tokens of an input stand one after the other in this order.
    order_W = np.argsort(inputs.input_W, kind="stable")
    tokens = from_lengths(order_W, np.bincount(inputs.input_W, minlength=len(inputs.ids)))
    log_p_W = np.zeros(len(order_W))

    for rows in plan_batches(inputs.ids.lengths(np.arange(len(inputs.ids))), BATCH):
        batch = assemble(sentences, rows, Position(), pad_id)
        hidden_RSH = model.encode(model.pack(batch))
        position_M = torch.from_numpy(batch.start_N + inputs.position_Q[batch.key_N])
        logits_MV = model.logits(hidden_RSH.reshape(-1, model.hidden_size)[position_M]).float()
        check_finite(model, logits_MV, "the statements")

        # One softmax for all the tokens that a masked position is asked about.
        token_W = tokens.take(batch.key_N)
        row_W = np.repeat(np.arange(len(batch.key_N)), tokens.lengths(batch.key_N))
        row = torch.from_numpy(row_W).to(logits_MV.device)
        gold = torch.from_numpy(inputs.gold_W[token_W]).to(logits_MV.device)
        log_p = logits_MV[row, gold] - logits_MV.logsumexp(1)[row]
        log_p_W[token_W] = log_p.double().cpu().numpy()
    return log_p_W


def _ragged(lists: list[list[int]]) -> Ragged:
    lengths = np.fromiter((len(row) for row in lists), np.int64, len(lists))
    values = np.fromiter((value for row in lists for value in row), np.int64, int(lengths.sum()))
    return from_lengths(values, lengths)


def _blocks(ids: Ragged) -> list[I64]:
    """Cut sentences into runs that give about BLOCK_TOKENS tokens of inputs each."""
    lengths = ids.lengths(np.arange(len(ids)))
    number = np.cumsum(lengths**2) // BLOCK_TOKENS
    return np.split(np.arange(len(ids)), np.flatnonzero(np.diff(number)) + 1) if len(ids) else []
