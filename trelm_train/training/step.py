"""Take one training step, in the order that the method fixes.

For each batch: read the memory bank as it was before the step; forward with the injected
embeddings; loss `MLM`, with the tails of asked facts among its targets, or
`lambda_1 MLM + (1 - lambda_1) CKA`; backward; take notes from the states of that forward.
Then sum over ranks; clip; judge; update; write the notes. Losses are divided by the number
of targets and facts of the whole step, over all batches and ranks, before the backward pass: a mean
of means would weigh a target by its batch. A step that is skipped changes nothing, the bank
included.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from trelm_train.cka.head_contrast import head_contrast_sum
from trelm_train.cka.loss import Cka
from trelm_train.cka.tail_decoder import TailDecoder
from trelm_train.config import AT_STATES, Config
from trelm_train.data.arrays import expand, random_bits
from trelm_train.data.knowledge import Knowledge
from trelm_train.data.masking import Vocabulary
from trelm_train.memory.injection import Injector
from trelm_train.memory.memory_bank import MemoryBank, Notes, join_notes, note_window, take_notes
from trelm_train.model.encoder import Attention, ReadPositions, read_positions, varlen_attention
from trelm_train.model.families import Family, Packed
from trelm_train.model.masked_lm import MaskedLm, mlm_losses
from trelm_train.model.precision import products
from trelm_train.optim import Optimiser, rate_factor
from trelm_train.ranks import Ranks
from trelm_train.reporting.metrics import Timers
from trelm_train.routing.sparse_ffn import SparseFfn
from trelm_train.training.spike_guard import SpikeGuard, step_values
from trelm_train.training.step_inputs import MicroBatch, StepInputs

# A sum of losses: a tensor with a graph, or a number.
Summed = TypeVar("Summed", Tensor, float)
Encode = Callable[[Family, Packed, ReadPositions, Attention], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Components:
    """Hold what a step works with; None where a component is switched off."""

    config: Config
    ranks: Ranks
    # Of matrix products.
    dtype: torch.dtype
    attention_dropout: float
    # `encode_reads`, perhaps compiled.
    encode: Encode
    model: MaskedLm
    vocabulary: Vocabulary
    knowledge: Knowledge
    optimiser: Optimiser
    guard: SpikeGuard
    injector: Injector | None
    bank: MemoryBank | None
    # Projection or decoder; the form that uses the LM head has no weights of its own.
    cka: Cka | TailDecoder | None
    sparse: SparseFfn | None
    timers: Timers

    def trained(self) -> list[nn.Parameter]:
        """Return every tensor that gets a gradient in the next step."""
        gathered = self.sparse.parameters() if self.sparse else []
        return list(self.optimiser.named.values()) + gathered

    @property
    def trained_share(self) -> float:
        """Return the share of the model's weights that a step updates.

        The projection of CKA does not count: the model does not have it.
        """
        whole = sum(
            value.numel()
            for name, value in self.optimiser.named.items()
            if not name.startswith("cka.")
        )
        gathered = self.sparse.num_trainable if self.sparse else 0
        # Tied weights count once.
        total = sum(parameter.numel() for parameter in self.model.hf.parameters())
        return (whole + gathered) / total


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """Count the whole step, over all batches and ranks."""

    tokens: int
    # Tokens and padding.
    padded: int
    # Targets of the masks alone, and tokens of the hidden tails of asked facts.
    targets: int
    asked_tokens: int
    # Asked facts, and those that are compared by contrast.
    asked: int
    contrasted: int

    def weights(self, config: Config) -> LossWeights:
        """Return what one target, one token of an asked fact and one contrasted fact weigh.

        Targets and asked tokens share one mean, in which an asked token weighs `facts.weight`.
        """
        share = config.cka.mlm_share if config.cka.enabled else 1.0
        asked_weight = config.facts.weight
        target = share / max(1.0, self.targets + asked_weight * self.asked_tokens)
        return LossWeights(
            target=target,
            asked_token=asked_weight * target,
            contrasted=(1 - share) / max(1, self.contrasted),
        )

    def means(self, losses: LossSums[float]) -> LossSums[float]:
        """Return the mean of each kind of loss; 0 where there is nothing of it."""
        return LossSums(
            targets=losses.targets / max(1, self.targets),
            asked=losses.asked / max(1, self.asked_tokens),
            contrast=losses.contrast / max(1, self.contrasted),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """Hold the weights of a step's losses: of one target, one asked token, one contrasted fact."""

    target: float
    asked_token: float
    contrasted: float

    def total(self, losses: LossSums[Summed]) -> Summed:
        """Add up weighted sums of losses."""
        return (
            self.target * losses.targets
            + self.asked_token * losses.asked
            + self.contrasted * losses.contrast
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSums(Generic[Summed]):
    """Hold sums of losses over a batch or a step: masks, asked facts, contrast."""

    targets: Summed
    asked: Summed
    contrast: Summed


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """Hold what a step measured, over all ranks."""

    loss: float
    # Means over the targets of the masks, the tokens of asked facts, and the contrasted facts.
    mlm_loss: float
    fact_loss: float
    cka_loss: float
    grad_norm: float
    rate: float
    num_injected: int
    totals: Totals
    # The reason why the step was skipped; empty if it was not.
    skipped: str


@dataclass(slots=True)
class _RankSums:
    """Add up losses and injected mentions of this rank."""

    targets: float = 0.0
    asked: float = 0.0
    contrast: float = 0.0
    injected: int = 0

    def add(self, losses: LossSums[Tensor]) -> None:
        """Add the losses of one batch."""
        self.targets += float(losses.targets.detach())
        self.asked += float(losses.asked.detach())
        self.contrast += float(losses.contrast.detach())


def train_step(components: Components, inputs: StepInputs, step: int) -> StepResult:
    """Update the model and the memory bank once; `step` counts from 0."""
    totals = count(components, inputs)
    sums, notes = _RankSums(), []
    # Evaluation may have left the other mode.
    components.model.hf.train()
    for micro in inputs.micro_batches:
        notes += _learn(components, micro, totals, sums, step)

    with components.timers.measure("optimiser"):
        # The sum, not the mean: losses were divided by the counts of the whole step.
        components.ranks.sum_gradients(components.trained())
        targets, asked, contrast, injected = components.ranks.sum(
            [sums.targets, sums.asked, sums.contrast, float(sums.injected)]
        )
        losses = LossSums(targets=targets, asked=asked, contrast=contrast)
        clip_norm = components.config.train.clip_norm
        grad_norm = float(torch.nn.utils.clip_grad_norm_(components.trained(), clip_norm))

        loss = totals.weights(components.config).total(losses)
        means = totals.means(losses)
        skipped = _judge(components, totals, means, grad_norm)
        rate = rate_factor(step, components.config.train)
        _update(components, rate, is_taken=not skipped)

    # Notes are written last, so that no batch of this step reads what another one has written.
    if components.bank is not None and not skipped:
        with components.timers.measure("memory"):
            components.bank.write(_gather_notes(components, notes))

    return StepResult(
        loss=loss,
        mlm_loss=means.targets,
        fact_loss=means.asked,
        cka_loss=means.contrast,
        grad_norm=grad_norm,
        rate=components.config.train.learning_rate * rate,
        num_injected=int(injected),
        totals=totals,
        skipped=skipped,
    )


def count(components: Components, inputs: StepInputs) -> Totals:
    """Count what the losses are divided by, before any of them is computed."""
    micro_batches = inputs.micro_batches
    of_rank = [
        sum(micro.batch.num_tokens for micro in micro_batches),
        sum(micro.input_ids_RS.size for micro in micro_batches),
        sum(int((~micro.masked.asked_M).sum()) for micro in micro_batches),
        sum(int(micro.masked.asked_M.sum()) for micro in micro_batches),
        sum(micro.num_asked for micro in micro_batches),
        sum(micro.num_contrasted for micro in micro_batches),
    ]

    # In one message: every message costs a wait.
    sums = components.ranks.sum([float(number) for number in of_rank])
    tokens, padded, targets, asked_tokens, asked, contrasted = (int(value) for value in sums)
    return Totals(
        tokens=tokens,
        padded=padded,
        targets=targets,
        asked_tokens=asked_tokens,
        asked=asked,
        contrasted=contrasted,
    )


def _learn(
    components: Components, micro: MicroBatch, totals: Totals, sums: _RankSums, step: int
) -> list[Notes]:
    """Run forward and backward of one batch; add its losses to the sums, and return its notes."""
    edit = None
    if components.injector is not None and _is_injecting(components.config, step):
        with components.timers.measure("injection"):
            injection = components.injector.plan(
                micro.batch, micro.masked.chosen_RS, micro.hidden_P, components.bank
            )
            sums.injected += len(injection.span_J)
            edit = components.injector.edit(micro.batch, injection)

    # Dropout is a function of the step's number and the batch's: the same for any number of ranks,
    # and after a resume.
    bits = random_bits(components.config.train.seed, "dropout", step, micro.number)
    torch.manual_seed(int(bits[0] >> np.uint64(1)))

    with (
        components.timers.measure("forward_backward"),
        components.model.edit_embeddings(edit, at_states=_edits_states(components.config)),
        _routed(components),
    ):
        # CKA is left out of it: it computes in float32 in any case.
        with products(components.dtype, components.model.device):
            packed = components.model.pack(micro.batch, micro.input_ids_RS)
            read, attention = _read_positions(components, micro), _attention(components, micro)
            hidden_RSH = components.encode(components.model.family, packed, read, attention)
            targets, asked = _target_sums(components, micro, hidden_RSH)
        contrast = _cka_sum(components, micro, hidden_RSH)

        losses = LossSums(targets=targets, asked=asked, contrast=contrast)
        loss = totals.weights(components.config).total(losses)
        # A batch without targets, facts and trained layers has no graph.
        if loss.requires_grad:
            torch.autograd.backward(loss)

    sums.add(losses)
    if components.bank is None:
        return []
    with components.timers.measure("memory"):
        rows = components.knowledge.bank_row[micro.batch.span_entity_P]
        return [take_notes(micro.batch, hidden_RSH, rows, components.config.memory.window)]


def _is_injecting(config: Config, step: int) -> bool:
    """Say whether mentions are still injected in this step."""
    return step < config.injection.until * config.train.steps


def _edits_states(config: Config) -> bool:
    return config.injection.place == AT_STATES


def _routed(components: Components) -> AbstractContextManager[None]:
    return components.sparse.patched() if components.sparse else nullcontext()


def _read_positions(components: Components, micro: MicroBatch) -> ReadPositions:
    """Find the tokens whose last states the losses and the memory bank read."""
    batch = micro.batch
    # One mark per token of the rows, for each kind of reader.
    learned, noted = np.zeros((2, batch.input_ids_RS.size), np.bool_)
    learned[micro.masked.target_M] = True

    if micro.cka is not None:
        plan = micro.cka
        is_projected = components.cka is not None
        start = plan.head_start_G if is_projected else plan.tail_start_G
        end = plan.head_end_G if is_projected else plan.tail_end_G
        learned[expand(start, end - start)] = True
    if components.bank is not None:
        rows = components.knowledge.bank_row[batch.span_entity_P]
        start, end = note_window(batch, np.flatnonzero(rows >= 0), components.config.memory.window)
        noted[expand(start, end - start)] = True

    return read_positions(learned, noted, components.model.device)


def _attention(components: Components, micro: MicroBatch) -> Attention:
    if components.config.train.attention == "varlen":
        return varlen_attention(micro.batch, components.model.device)
    return Attention(dropout=components.attention_dropout)


def _target_sums(
    components: Components, micro: MicroBatch, hidden_RSH: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum the cross-entropy at the targets of the masks, and at the tokens of asked facts."""
    device, masked = components.model.device, micro.masked
    target_M = torch.from_numpy(masked.target_M).to(device)
    gold_M = torch.from_numpy(masked.gold_M).to(device)
    nothing = torch.zeros((), device=device)
    if not len(target_M):
        # A step without targets still needs a backward pass, which other losses join.
        return hidden_RSH.sum() * 0.0, nothing

    loss_M = mlm_losses(components.model, hidden_RSH, target_M, gold_M)
    if not masked.asked_M.any():
        return loss_M.sum(), nothing
    asked_M = torch.from_numpy(masked.asked_M).to(device)
    return loss_M[~asked_M].sum(), loss_M[asked_M].sum()


def _cka_sum(components: Components, micro: MicroBatch, hidden_RSH: Tensor) -> Tensor:
    if micro.cka is None:
        return torch.zeros((), device=hidden_RSH.device)
    if components.cka is None:
        gold_RS = micro.batch.input_ids_RS
        return head_contrast_sum(
            components.model, hidden_RSH, micro.cka, components.knowledge, gold_RS
        )
    return components.cka.loss_sum(hidden_RSH, micro.cka, components.model.word_embeddings)


def _judge(components: Components, totals: Totals, means: LossSums[float], grad_norm: float) -> str:
    """Return the reason to skip the step, or an empty text; on all ranks alike."""
    values = step_values(
        means.targets,
        grad_norm,
        asked=means.asked if totals.asked else None,
        contrast=means.contrast if totals.contrasted else None,
    )
    # Means over the whole step: the same numbers on all ranks, up to rounding.
    verdict = components.guard.judge(values)

    # Where processors round differently, one rank alone may see a spike.
    if components.ranks.highest(int(bool(verdict))):
        return verdict or "another rank saw a spike"
    components.guard.accept(values)
    return ""


def _gather_notes(components: Components, notes: list[Notes]) -> Notes:
    """Return the notes of all ranks; a rank may have none."""
    if notes:
        names_O4, value_O2H = join_notes(notes).to_tensors()
    else:
        # Empty tensors of the right shape: every rank must join the gathering.
        names_O4 = torch.zeros(0, 4, dtype=torch.int64)
        value_O2H = torch.zeros(0, 2, components.model.hidden_size)

    ranks = components.ranks
    return Notes.from_tensors(ranks.gather(names_O4), ranks.gather(value_O2H))


def _update(components: Components, rate: float, *, is_taken: bool) -> None:
    """Update all trained weights if the step is taken; forget the gradients in any case."""
    if is_taken:
        components.optimiser.step(rate)
        if components.sparse is not None:
            components.sparse.step(rate)

    components.optimiser.zero_grad()
    if components.sparse is not None:
        components.sparse.zero_grad()
