"""Fine-tune one classifier with one setting and seed, and take its answers.

AdamW with a linear warm-up and decay, gradients clipped; the same seed gives the same weights on one
processor. The last weights count, as in the published protocols, unless early stopping is asked for.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from schemas.array_types import I64
from schemas.errors import TrelmError
from trelm_train.config import TrainConfig
from trelm_train.finetune.batches import PaddedBatch, by_length, epoch_order, padded
from trelm_train.finetune.classifier import Encoder, SpanClassifier
from trelm_train.finetune.examples import Example
from trelm_train.finetune.marking import Encoded
from trelm_train.finetune.task import Answer, Scores, Task
from trelm_train.model.precision import number_format, products
from trelm_train.optim import Optimiser, rate_factor
from trelm_train.reporting.progress import Show, progress
from trelm_train.training.signals import InterruptedRun, Stop

log = logging.getLogger(__name__)
# Rows of an evaluation batch for each row of a training batch: it keeps no gradients.
EVALUATION_ROWS = 4
# Progress is said this often in a cell.
_LINES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Hold what the grid varies; of epochs and steps one is 0."""

    rate: float
    epochs: int = 0
    steps: int = 0

    @property
    def name(self) -> str:
        """Return a name for files and lines."""
        length = f"{self.steps}-steps" if self.steps else f"{self.epochs}-epochs"
        # All digits: two rates never share a file.
        return f"rate-{self.rate!r}-{length}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Hold what all cells of a grid share."""

    batch: int
    length: int
    # Read the states at the markers instead of that of [CLS].
    reads_marks: bool = False
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    # Epochs without a better dev score after which training stops, and the best weights are taken; 0: off.
    patience: int = 0
    precision: str = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Hold the examples of each part, also as tokens; markers have been added to the encoder."""

    task: Task
    encoder: Encoder
    examples: dict[str, list[Example]]
    encoded: dict[str, list[Encoded]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """Hold what came of one cell; None where training diverged."""

    dev: Scores | None
    # Not compared with the gold here.
    test_answers: list[Answer] | None
    steps: int
    # Whole epochs.
    epochs: int
    # Mean of the last epoch; None where it is not finite.
    loss: float | None
    seconds: float


class DivergedError(TrelmError):
    """Say that a classifier gives NaN or infinite logits."""


def fit(
    data: Data, setting: Setting, seed: int, recipe: Recipe, device: torch.device, stop: Stop
) -> Fitted:
    """Train one classifier from the pretrained encoder, and answer dev and test.

    Raises:
        InterruptedRun: a signal asked for the end.
    """
    start_s = time.monotonic()
    with _seeded(seed, device):
        run = _Run(data, setting, seed, recipe, device)
        with progress(0, run.num_steps, silent=False) as show:
            run.train(stop, show)
        dev: Scores | None = None
        answers: list[Answer] | None = None
        try:
            dev, answers = run.evaluate("dev"), run.answers("test")
        except DivergedError:
            # A result of this rate, not of the whole grid.
            log.warning("%s, seed %d: training diverged", setting.name, seed)
    return Fitted(
        dev=dev,
        test_answers=answers,
        steps=run.step,
        epochs=run.epoch,
        # JSON has no NaN.
        loss=run.last_loss if math.isfinite(run.last_loss) else None,
        seconds=time.monotonic() - start_s,
    )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch inside a `with` block, and leave its generators as they were."""
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


class _Run:
    """Train one classifier, and ask it."""

    def __init__(
        self, data: Data, setting: Setting, seed: int, recipe: Recipe, device: torch.device
    ) -> None:
        self.data, self.setting, self.seed = data, setting, seed
        self.recipe, self.device = recipe, device
        num_spans = len(data.encoded["train"][0].marks)
        # A copy: the next cell begins at the same weights.
        encoder = copy.deepcopy(data.encoder.hf)
        self.model = SpanClassifier(
            encoder, len(data.task.classes), num_spans, reads_marks=recipe.reads_marks
        ).to(device)
        self.targets = data.task.targets(data.examples["train"])
        self.lengths = _lengths(data.encoded["train"])
        self.steps_per_epoch = -(-len(self.lengths) // recipe.batch)
        self.num_steps = setting.steps or setting.epochs * self.steps_per_epoch
        self.dtype = number_format(recipe.precision, device)
        self.config = TrainConfig(
            steps=self.num_steps,
            learning_rate=setting.rate,
            weight_decay=recipe.weight_decay,
            warmup_share=recipe.warmup_share,
        )
        self.optimiser = Optimiser(dict(self.model.named_parameters()), self.config)
        self.step = self.epoch = 0
        self.last_loss = 0.0

    def train(self, stop: Stop, show: Show) -> None:
        """Train until the last step, or until dev gets no better.

        Raises:
            InterruptedRun: a signal asked for the end.
        """
        best, best_state, num_worse = -1.0, None, 0
        while self.step < self.num_steps:
            self._epoch(stop, show)
            if not self.recipe.patience:
                continue
            try:
                score = self.evaluate("dev")[self.data.task.metric]
            except DivergedError:
                break
            num_worse = 0 if score > best else num_worse + 1
            if score > best:
                best, best_state = score, copy.deepcopy(self.model.state_dict())
            if num_worse >= self.recipe.patience:
                break
        if best_state is not None:
            self.model.load_state_dict(best_state)

    def _epoch(self, stop: Stop, show: Show) -> None:
        batches = epoch_order(self.lengths, self.recipe.batch, self.seed, self.epoch)
        batches = batches[: self.num_steps - self.step]
        self.model.train()
        losses = []
        for batch in self._padded("train", batches):
            losses.append(self._step(batch))
            if self.step % max(1, self.num_steps // _LINES) == 0:
                show(
                    self.step, f"{self.setting.name} seed {self.seed}  loss {losses[-1].item():.4f}"
                )
            if stop.signum:
                raise InterruptedRun(
                    stop.signum,
                    f"stopped in {self.setting.name}, seed {self.seed}; what was finished is kept: the "
                    "same command goes on",
                )
        self.last_loss = float(torch.stack(losses).mean())
        self.epoch += len(batches) == self.steps_per_epoch

    def _step(self, batch: PaddedBatch) -> Tensor:
        with products(self.dtype, self.device):
            logits_RC = self.model(batch.ids_RS, batch.mask_RS, batch.marks_RP)
        targets = self.targets[torch.from_numpy(batch.numbers)].to(self.device)
        loss = self.data.task.loss(logits_RC, targets)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimiser.step(rate_factor(self.step, self.config))
        self.step += 1
        return loss.detach()

    def _padded(self, part: str, batches: Sequence[I64]) -> Iterator[PaddedBatch]:
        encoder = self.data.encoder
        return padded(
            self.data.encoded[part], batches, encoder.pad_id, encoder.max_tokens, self.device
        )

    def evaluate(self, part: str) -> Scores:
        """Score the answers to a part.

        Raises:
            DivergedError: the logits are not finite.
        """
        return self.data.task.scores(self.data.examples[part], self.answers(part))

    @torch.no_grad()
    def answers(self, part: str) -> list[Answer]:
        """Answer every example of a part, in their order.

        Raises:
            DivergedError: the logits are not finite.
        """
        self.model.eval()
        encoded = self.data.encoded[part]
        logits_NC = torch.zeros(len(encoded), len(self.data.task.classes))
        order = by_length(_lengths(encoded), self.recipe.batch * EVALUATION_ROWS)
        for batch in self._padded(part, order):
            with products(self.dtype, self.device):
                logits_RC = self.model(batch.ids_RS, batch.mask_RS, batch.marks_RP)
            logits_NC[torch.from_numpy(batch.numbers)] = logits_RC.cpu()
        if not bool(logits_NC.isfinite().all()):
            raise DivergedError(f"{self.setting.name}, seed {self.seed}: NaN or infinite logits")
        return self.data.task.answers(logits_NC)


def _lengths(encoded: Sequence[Encoded]) -> I64:
    return np.asarray([len(row.ids) for row in encoded], np.int64)
