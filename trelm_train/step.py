"""One training step, in the order that the method fixes.

Mask; hide the tails of the facts that serve; read the memory bank; forward with the injected embeddings; loss
`lambda_1 MLM + (1 - lambda_1) CKA`; backward; clip; update; write the memory bank from the states of that forward.
A step whose loss or gradient is not finite changes nothing.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trelm_train.arrays import I64
from trelm_train.cka import Cka, Facts, choose_facts, hide
from trelm_train.config import Config
from trelm_train.injection import Injector
from trelm_train.knowledge import Knowledge
from trelm_train.loader import Batch
from trelm_train.masking import Masked, Vocabulary, mask_batch
from trelm_train.memory_bank import MemoryBank, take_notes
from trelm_train.metrics import Timers
from trelm_train.model import MaskedLm, mlm_loss_sum
from trelm_train.optim import Optimiser, rate_factor
from trelm_train.sparse_ffn import SparseFfn


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a step works with; None where a component is switched off."""

    config: Config
    model: MaskedLm
    vocabulary: Vocabulary
    knowledge: Knowledge
    optimiser: Optimiser
    injector: Injector | None
    bank: MemoryBank | None
    cka: Cka | None
    sparse: SparseFfn | None
    timers: Timers


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What a step measured."""

    loss: float
    mlm_loss: float
    cka_loss: float
    grad_norm: float
    num_tokens: int
    num_targets: int
    num_facts: int
    num_injected: int
    applied: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Inputs:
    masked: Masked
    input_ids_RS: I64
    facts: Facts | None


def train_step(parts: Parts, batch: Batch, step: int) -> StepResult:
    """One update of the model and of the memory bank."""
    with parts.timers.measure("masking"):
        inputs = _prepare(parts, batch)
    num_injected, edit = 0, None
    if parts.injector is not None:
        with parts.timers.measure("injection"):
            blocked = inputs.facts.hidden_P if inputs.facts else np.zeros(len(batch.span_start_P), np.bool_)
            injection = parts.injector.plan(batch, inputs.masked.chosen_RS, blocked, parts.bank)
            num_injected = len(injection.span_J)
            edit = parts.injector.edit(batch, injection)
    with parts.timers.measure("forward_backward"):
        parts.model.hf.train()
        with parts.sparse.patched() if parts.sparse else nullcontext(), parts.model.edit_embeddings(edit):
            hidden_RSH = parts.model.encode(parts.model.pack(batch, inputs.input_ids_RS))
            mlm, cka, loss = _losses(parts, batch, inputs, hidden_RSH, step)
            if loss.requires_grad:
                torch.autograd.backward(loss)
    with parts.timers.measure("optimiser"):
        grad_norm, applied = _update(parts, loss.detach(), step)
    if parts.bank is not None and applied:
        with parts.timers.measure("memory"):
            rows = parts.knowledge.bank_row[batch.span_entity_P]
            parts.bank.write(take_notes(batch, hidden_RSH, rows, parts.config.memory.window))
    return StepResult(
        loss=float(loss.detach()),
        mlm_loss=float(mlm),
        cka_loss=float(cka),
        grad_norm=grad_norm,
        num_tokens=batch.num_tokens,
        num_targets=len(inputs.masked.target_M),
        num_facts=len(inputs.facts) if inputs.facts else 0,
        num_injected=num_injected,
        applied=applied,
    )


def _prepare(parts: Parts, batch: Batch) -> _Inputs:
    seed, epoch = parts.config.train.seed, batch.position.epoch
    masked = mask_batch(batch, parts.config.masking, parts.vocabulary, seed=seed, epoch=epoch)
    if parts.cka is None:
        return _Inputs(masked=masked, input_ids_RS=masked.input_ids_RS, facts=None)
    facts = choose_facts(batch, masked, parts.config.cka, seed=seed)
    ids = hide(batch, masked.input_ids_RS, facts.hidden_P, parts.vocabulary.mask_id)
    return _Inputs(masked=masked, input_ids_RS=ids, facts=facts)


def _losses(
    parts: Parts, batch: Batch, inputs: _Inputs, hidden_RSH: Tensor, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    target_M = torch.from_numpy(inputs.masked.target_M).to(parts.model.device)
    gold_M = torch.from_numpy(inputs.masked.gold_M).to(parts.model.device)
    mlm = mlm_loss_sum(parts.model, hidden_RSH, target_M, gold_M) / max(1, len(gold_M))
    if parts.cka is None or inputs.facts is None:
        return mlm.detach(), torch.zeros(()), mlm
    cka = parts.cka(hidden_RSH, batch, inputs.facts, parts.model.word_embeddings, step)
    share = parts.config.cka.mlm_share
    return mlm.detach(), cka.detach(), share * mlm + (1 - share) * cka


def _update(parts: Parts, loss: Tensor, step: int) -> tuple[float, bool]:
    trained = list(parts.optimiser.named.values()) + (parts.sparse.parameters() if parts.sparse else [])
    grad_norm = float(torch.nn.utils.clip_grad_norm_(trained, parts.config.train.clip_norm))
    applied = bool(np.isfinite(grad_norm)) and bool(torch.isfinite(loss))
    if applied:
        factor = rate_factor(step, parts.config.train)
        parts.optimiser.step(factor)
        if parts.sparse is not None:
            parts.sparse.step(factor)
    parts.optimiser.zero_grad()
    if parts.sparse is not None:
        parts.sparse.zero_grad()
    return grad_norm, applied
