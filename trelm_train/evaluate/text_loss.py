"""Measure the masked-LM loss on any text, on masks that are the same for every model of a tokenizer.

A text goes in: its lines are cut into pieces, and the tokens of a piece are masked by a hash of its
number, 80/10/10. A loss per masked token comes out, so that two models can be compared piece by
piece. Costs a forward pass per piece; all pieces are in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.array_types import F64, I64
from schemas.bounded_lines import bounded_lines
from schemas.errors import ConfigError
from schemas.regular_files import open_regular
from trelm_train.config import MaskingConfig
from trelm_train.data.loader import (
    Packing,
    Position,
    Sentences,
    assemble,
    plan_batches,
    sentences_from_lists,
)
from trelm_train.data.masking import MaskedBatch, mask_batch
from trelm_train.evaluate.answers import ranks_of
from trelm_train.evaluate.finite import check_finite
from trelm_train.evaluate.mlm import MASK_SEED
from trelm_train.model.masked_lm import MaskedLm, vocabulary_of
from trelm_train.model.protocols import Tokenizer

# Legend: M masked tokens, V vocabulary, R rows, S tokens per row, H hidden size.

MAX_TOKENS = 128
BATCH_TOKENS = 4096
# In `TextAnswers.best_M`: the likeliest token is not alone.
TIED = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPieces:
    """Hold the pieces of a text: with special tokens at both ends, `width` tokens at most."""

    path: Path
    sentences: Sentences
    width: int

    def __len__(self) -> int:
        return len(self.sentences)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextAnswers:
    """Hold what a model says at the masked tokens of a text, in an order that all models share."""

    # Number of the token's piece.
    piece_M: I64
    # Natural-log cross-entropy.
    loss_M: F64
    gold_M: I64
    # The likeliest token, or TIED.
    best_M: I64

    @property
    def accuracy(self) -> float:
        """Return the share of tokens that are likelier than every other one."""
        return float((self.best_M == self.gold_M).mean())


def read_pieces(path: Path, tokenizer: Tokenizer, max_tokens: int, limit: int = 0) -> TextPieces:
    """Read a text and cut it into pieces, at most `limit` of them (0: all).

    `max_tokens` are the positions of the model, or of the smaller one of two.

    Raises:
        ConfigError: the file is unreadable.
    """
    width = min(MAX_TOKENS, max_tokens)
    # Room for the opening and the closing special token.
    ids, words = _cut(tokenizer, read_text(path), width - 2, limit)
    sentences = sentences_from_lists({"ids": ids, "words": words})
    return TextPieces(path=path, sentences=sentences, width=width)


def answer_text(
    model: MaskedLm,
    tokenizer: Tokenizer,
    pieces: TextPieces,
    asked: str,
    show: Callable[[int], None] | None = None,
) -> TextAnswers:
    """Ask a model for the masked tokens of a text.

    Args:
        model: that is asked.
        tokenizer: that the pieces were made with.
        pieces: of the text.
        asked: what errors call the text.
        show: called with the number of pieces that are done.

    Raises:
        ConfigError: nothing in the text is masked.
        NotFiniteError: the model gives NaN or infinite logits.
    """
    vocabulary = vocabulary_of(tokenizer, model.config.vocab_size)
    packing = Packing(max_tokens=pieces.width, batch_tokens=BATCH_TOKENS, limit=pieces.width)
    lengths = pieces.sentences.ids.lengths(np.arange(len(pieces)))
    parts: list[TextAnswers] = []
    num_done = 0

    with model.evaluating(), torch.no_grad():
        for rows in plan_batches(lengths, packing):
            batch = assemble(pieces.sentences, rows, Position(), vocabulary.pad_id)
            masked = mask_batch(batch, MaskingConfig(), vocabulary, seed=MASK_SEED, epoch=0)
            hidden_RSH = model.encode(model.pack(batch, masked.input_ids_RS))
            target_M = torch.from_numpy(masked.target_M).to(model.device)
            logits_MV = model.logits(hidden_RSH.reshape(-1, model.hidden_size)[target_M]).float()
            check_finite(model, logits_MV, asked)
            segment_M = batch.segment_RS.reshape(-1)[masked.target_M]
            parts.append(_answers(batch.key_N[segment_M], masked, logits_MV))
            num_done += len(batch.key_N)
            if show is not None:
                show(num_done)

    answers = TextAnswers(
        piece_M=np.concatenate([np.zeros(0, np.int64), *(part.piece_M for part in parts)]),
        loss_M=np.concatenate([np.zeros(0), *(part.loss_M for part in parts)]),
        gold_M=np.concatenate([np.zeros(0, np.int64), *(part.gold_M for part in parts)]),
        best_M=np.concatenate([np.zeros(0, np.int64), *(part.best_M for part in parts)]),
    )
    if not len(answers.loss_M):
        raise ConfigError(f"{asked}: {pieces.path} is too short, no token was masked")
    return answers


def _answers(piece_M: I64, masked: MaskedBatch, logits_MV: Tensor) -> TextAnswers:
    """Return the answers at the masks of a batch."""
    gold_M = torch.from_numpy(masked.gold_M).to(logits_MV.device)
    best_M1, place_M1 = logits_MV.max(1, keepdim=True)
    is_tied_M = ranks_of(logits_MV, best_M1) > 1
    # Double precision: a long sum of small numbers would lose digits.
    loss_M = F.cross_entropy(logits_MV, gold_M, reduction="none").double()
    return TextAnswers(
        piece_M=piece_M,
        loss_M=loss_M.cpu().numpy(),
        gold_M=masked.gold_M,
        best_M=place_M1[:, 0].masked_fill(is_tied_M, TIED).cpu().numpy(),
    )


def read_text(path: Path) -> list[str]:
    """Return the lines of a text that are not empty.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            return [line.decode().rstrip("\r\n") for _, line in bounded_lines(file, str(path))]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read it as UTF-8 text ({error}); check it") from error


def _cut(
    tokenizer: Tokenizer, lines: list[str], room: int, limit: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Cut lines into pieces of at most `room` tokens; return their ids and where words start."""
    ids: list[list[int]] = []
    words: list[list[int]] = []
    if not lines:
        return ids, words
    # No warning of long lines: they are cut here.
    for encoding in tokenizer(lines, add_special_tokens=False, verbose=False).encodings:
        for start in range(0, len(encoding.ids), room):
            if limit and len(ids) >= limit:
                return ids, words
            piece = encoding.ids[start : start + room]
            of_word = encoding.word_ids[start : start + room]

            # One more for the opening special token.
            starts = [
                place + 1
                for place in range(len(piece))
                if place == 0 or of_word[place] != of_word[place - 1]
            ]
            ids.append([tokenizer.cls_token_id, *piece, tokenizer.sep_token_id])
            words.append(starts)
    return ids, words
