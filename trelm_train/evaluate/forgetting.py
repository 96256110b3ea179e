"""Say what a model has forgotten: its masked-LM loss on a text, beside that of the model that it
started from.

A text and one or two models of one tokenizer go in. Losses on the same masks come out, their
difference with an interval, and how often both say the same. Costs a forward pass per piece and
model; both models are in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schemas.array_types import F64, I64
from schemas.errors import ConfigError
from trelm_train.evaluate.text_loss import (
    TIED,
    TextAnswers,
    TextPieces,
    answer_text,
    read_pieces,
)
from trelm_train.model.masked_lm import (
    MaskedLm,
    load_pretrained,
    load_tokenizer,
    pick_device,
    vocabulary_difference,
)
from trelm_train.model.protocols import Tokenizer
from trelm_train.reporting.progress import counting

# Legend: M masked tokens, C pieces.

RESAMPLES = 2000
SEED = 0
QUANTILES = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRequest:
    """Name a text, and the model that another one started from (None: no comparison)."""

    path: Path
    against: str | None = None
    # Pieces from the first; 0: all.
    limit: int = 0


def measure_text(model_name: str, request: TextRequest, device: str) -> dict[str, Any]:
    """Measure a model on a text, and what it has forgotten of it.

    Raises:
        ConfigError: the text is unreadable or too short, or the models have different tokenizers.
        NotFiniteError: a model gives NaN or infinite logits.
    """
    names = [model_name] if request.against is None else [model_name, request.against]
    models = [load_pretrained(name, pick_device(device)) for name in names]
    tokenizer = load_tokenizer(model_name, models[0])
    if request.against is not None:
        _check_vocabularies(names, tokenizer, load_tokenizer(request.against, models[1]))

    max_tokens = min(model.max_tokens for model in models)
    pieces = read_pieces(request.path, tokenizer, max_tokens, request.limit)
    answers = _answer(models, tokenizer, pieces)
    return text_result(request, len(pieces), *answers)


def _check_vocabularies(names: list[str], of_model: Tokenizer, of_start: Tokenizer) -> None:
    """Refuse two models whose losses are of different tokens.

    Raises:
        ConfigError: names the first difference.
    """
    difference = vocabulary_difference(of_model.get_vocab(), of_start.get_vocab(), f"in {names[1]}")
    if difference:
        raise ConfigError(
            f"{names[0]}: its tokenizer is not that of --against {names[1]}: {difference}; their "
            "losses are of different tokens, so give the model that this one started from"
        )


def _answer(models: list[MaskedLm], tokenizer: Tokenizer, pieces: TextPieces) -> list[TextAnswers]:
    """Ask every model, and show how many pieces are done."""
    asked = f"the text {pieces.path}"
    with counting(len(models) * len(pieces), "pieces of the text") as show:
        answers = [answer_text(models[0], tokenizer, pieces, asked, show)]
        for start in models[1:]:
            answers.append(
                answer_text(start, tokenizer, pieces, asked, lambda done: show(len(pieces) + done))
            )
    return answers


def text_result(
    request: TextRequest, num_pieces: int, answers: TextAnswers, start: TextAnswers | None = None
) -> dict[str, Any]:
    """Return the measures of a model on a text, and beside those of the model it started from.

    `loss_difference` is above 0 where the model has become worse. `agreement` is the share of
    masked tokens for which both have the same likeliest token. The interval is None for a single
    piece.
    """
    result: dict[str, Any] = {
        "file": str(request.path),
        "num_pieces": num_pieces,
        "num_masked": len(answers.loss_M),
        "loss": float(answers.loss_M.mean()),
        "accuracy": answers.accuracy,
    }
    if start is None:
        return result

    difference_M = answers.loss_M - start.loss_M
    interval = interval_of_mean(difference_M, answers.piece_M)
    is_same_M = (answers.best_M == start.best_M) & (answers.best_M != TIED)
    result["against"] = {
        "model": request.against,
        "loss": float(start.loss_M.mean()),
        "accuracy": start.accuracy,
        "loss_difference": float(difference_M.mean()),
        "loss_difference_low": None if interval is None else interval[0],
        "loss_difference_high": None if interval is None else interval[1],
        "agreement": float(is_same_M.mean()),
    }
    return result


def interval_of_mean(value_M: F64, piece_M: I64) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean over tokens, by a bootstrap over their pieces.

    Tokens of a piece stand or fall together, so whole pieces are drawn: n - 1 of n, which gives
    the variance of a mean of n (McCarthy and Snowden 1985). The draws are the same every time. None
    for one piece.
    """
    number_M = np.unique(piece_M, return_inverse=True)[1]
    sum_C = np.bincount(number_M, weights=value_M)
    count_C = np.bincount(number_M)
    num_pieces = len(count_C)
    if num_pieces < 2:
        return None

    generator = np.random.default_rng(SEED)
    means = np.zeros(RESAMPLES)
    # One resample at a time: memory is that of one draw per piece, however long the text is.
    for resample in range(RESAMPLES):
        drawn = generator.integers(num_pieces, size=num_pieces - 1)
        means[resample] = sum_C[drawn].sum() / count_C[drawn].sum()
    low, high = np.quantile(means, QUANTILES)
    return float(low), float(high)


def readable_text(result: dict[str, Any]) -> str:
    """Return the measures of a text as a few lines."""
    lines = [
        f"text {result['file']}: {result['num_masked']} masked tokens in {result['num_pieces']} "
        f"pieces, loss {result['loss']:.4f}, accuracy {result['accuracy']:.4f}"
    ]
    if start := result.get("against"):
        low, high = start["loss_difference_low"], start["loss_difference_high"]
        interval = "" if low is None else f" (95 % interval {low:+.4f} to {high:+.4f})"
        lines += [
            f"against {start['model']}: loss {start['loss']:.4f}, accuracy {start['accuracy']:.4f}",
            f"loss difference {start['loss_difference']:+.4f}{interval}, "
            f"same likeliest token {start['agreement']:.4f}",
        ]
    return "\n".join(lines)
