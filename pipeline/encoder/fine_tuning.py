"""Teach a sentence encoder to bring a context near the right one of several texts. Imports torch,
lazily.

Goes in: token ids of contexts, each with the texts of its candidates, of which the first one is
right. The loss is the cross-entropy of a softmax over the cosines of a context and all texts of its
batch (InfoNCE, van den Oord 2018), so the candidates of other contexts are wrong answers as well.
Costs about three forward passes of the encoder per sequence: 1,000 contexts with 6 texts each take
3 minutes on one core for 6 layers of width 384.

Legend: B contexts of a batch, M distinct texts of a batch, n tokens, d the width of the model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.encoder.tokenizer import NUM_SPECIAL
from pipeline.engine.worker_threads import threads_of_a_worker
from schemas.array_types import Ints

if TYPE_CHECKING:
    from pipeline.encoder.sentence_encoder import SentenceEncoder

WEIGHT_DECAY, MAX_NORM = 0.01, 1.0
# Share of the steps in which the rate rises; afterwards it falls to 0.
WARM_UP = 0.1
# Gets the share of the steps that are done, and the mean loss since the last call.
Report = Callable[[float, float], None]


@dataclass(frozen=True, slots=True)
class RankingExample:
    """Hold a context and the texts of its candidates, as token ids without special tokens."""

    context: Ints
    # The first one is right.
    texts: tuple[Ints, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuning:
    """Say how to train."""

    epochs: int = 1
    batch_size: int = 16
    learning_rate: float = 3e-5
    # Cosines are divided by it: the smaller, the more the nearest wrong texts count.
    temperature: float = 0.05
    seed: int = 0


def fine_tune(
    encoder: SentenceEncoder,
    examples: Sequence[RankingExample],
    settings: FineTuning,
    report: Report | None = None,
) -> float:
    """Train the encoder in place, and return the mean loss of the last tenth of the steps.

    The same examples, settings and threads give the same weights.
    """
    import torch

    chance = random.Random(settings.seed)
    torch.manual_seed(settings.seed)
    batches = [
        batch
        for _ in range(settings.epochs)
        for batch in _batches(examples, settings.batch_size, chance)
    ]
    optimizer = torch.optim.AdamW(
        encoder.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate_share(step, len(batches))
    )

    losses: list[float] = []
    # The encoder itself takes one thread per batch; here all threads share a step.
    threads = torch.get_num_threads()
    torch.set_num_threads(threads_of_a_worker())
    try:
        with encoder.training():
            for number, batch in enumerate(batches, 1):
                loss = _loss(encoder, batch, settings.temperature)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(encoder.parameters(), MAX_NORM)
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
                if report is not None:
                    report(number / len(batches), losses[-1])
    finally:
        torch.set_num_threads(threads)
    last = losses[-max(len(losses) // 10, 1) :]
    return sum(last) / len(last) if last else math.nan


def _rate_share(step: int, num_steps: int) -> float:
    """Return the share of the highest rate: it rises, then falls in a straight line."""
    rising = max(int(num_steps * WARM_UP), 1)
    if step < rising:
        return (step + 1) / rising
    return max(num_steps - step, 0) / max(num_steps - rising, 1)


def _batches(
    examples: Sequence[RankingExample], size: int, chance: random.Random
) -> Iterator[list[RankingExample]]:
    """Yield all examples once, in a random order."""
    order = list(range(len(examples)))
    chance.shuffle(order)
    for low in range(0, len(order), size):
        yield [examples[number] for number in order[low : low + size]]


def _loss(encoder: SentenceEncoder, batch: Sequence[RankingExample], temperature: float) -> Any:  # noqa: ANN401
    """Return the mean loss of a batch, as a tensor."""
    import torch
    from torch.nn import functional

    # Equal texts are one: a text may be a wrong answer here and the right one there.
    number_of_text: dict[bytes, int] = {}
    texts: list[Ints] = []
    for example in batch:
        for text in example.texts:
            if number_of_text.setdefault(text.tobytes(), len(texts)) == len(texts):
                texts.append(text)
    right_B = torch.tensor([number_of_text[example.texts[0].tobytes()] for example in batch])

    contexts_Bd = functional.normalize(
        encoder.padded_vectors([example.context for example in batch]), dim=1
    )
    texts_Md = functional.normalize(encoder.padded_vectors(texts), dim=1)
    cosines_BM = contexts_Bd @ texts_Md.T
    return functional.cross_entropy(cosines_BM / temperature, right_B.to(cosines_BM.device))


def padded(sequences: Sequence[Ints], frame: tuple[int, int], padding: int) -> tuple[Ints, Ints]:
    """Return sequences with their special tokens as one array of ids, and their mask.

    Args:
        sequences: token ids without special tokens.
        frame: ids of the opening and the closing token.
        padding: id that fills the shorter ones.

    Returns:
        Ids and mask (1 = a token), both of shape (N, n).
    """
    width = max(map(len, sequences)) + NUM_SPECIAL
    ids_Nn = np.full((len(sequences), width), padding, np.int64)
    mask_Nn = np.zeros((len(sequences), width), np.int64)
    for row, sequence in enumerate(sequences):
        length = len(sequence) + NUM_SPECIAL
        ids_Nn[row, :length] = [frame[0], *sequence, frame[1]]
        mask_Nn[row, :length] = 1
    return ids_Nn, mask_Nn
