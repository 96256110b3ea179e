"""What bank, injection and contrastive loss take of a training step: a step with all of them, and
one with none.

The model has random weights: speed alone is measured. Sentences are 15 to 55 tokens long with two
mentions of three tokens, all of them injected, and every second sentence states a fact.
"""

from __future__ import annotations

import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from schemas.shards import POLICY_BITS
from trelm_train.cka.loss import Cka
from trelm_train.cka.plan import CkaPlan, CkaPlanner
from trelm_train.config import CkaConfig, InjectionConfig, MaskingConfig, MemoryConfig
from trelm_train.data.arrays import from_lengths
from trelm_train.data.knowledge import Knowledge
from trelm_train.data.loader import Batch, Packing, Position, Sentences, assemble, plan_batches
from trelm_train.data.masking import MaskedBatch, Vocabulary, mask_batch
from trelm_train.facts.plan import FactChooser, hide, mentions
from trelm_train.memory.injection import Injector, freeze_embeddings
from trelm_train.memory.memory_bank import MemoryBank, take_notes
from trelm_train.model.masked_lm import MaskedLm, mlm_loss_sum

VOCABULARY = Vocabulary(size=30_522, mask_id=103, pad_id=0, special_ids=(0, 100, 101, 102, 103))
SHAPES = {"mini": (4, 256), "base": (12, 768)}
ENTITIES, RELATIONS, TRIPLES, TAILS = 100_000, 500, 8, 2000
# Half of the sentences with facts ask for one.
CHOOSER = FactChooser(policy="all", probability=0.5, seed=0)
PARTS = ("cka_plan", "injection", "cka_loss", "memory")


def made_knowledge() -> Knowledge:
    """Entities with triples, relations with many tails, labels of three tokens."""
    rng = np.random.default_rng(1)
    rows = ENTITIES + RELATIONS
    is_entity = np.arange(rows) < ENTITIES
    triples = np.where(is_entity, TRIPLES, 0)
    relation = from_lengths(rng.integers(ENTITIES, rows, triples.sum()), triples)
    other = from_lengths(rng.integers(0, ENTITIES, triples.sum()), triples)
    return Knowledge(
        ids=np.arange(rows),
        is_entity=is_entity,
        labels=pa.nulls(rows, pa.string()),
        label_ids=from_lengths(rng.integers(1000, VOCABULARY.size, 3 * rows), np.full(rows, 3)),
        bank_row=np.where(is_entity, np.arange(rows), -1),
        triple_relation=relation,
        triple_other=other,
        triple_is_head=from_lengths(rng.integers(0, 2, triples.sum()), triples),
        true_tail_relation=relation,
        true_tail=other,
        tails=from_lengths(
            np.concatenate([rng.choice(ENTITIES, TAILS, replace=False) for _ in range(RELATIONS)]),
            np.where(is_entity, 0, TAILS),
        ),
        name=np.arange(rows),
    )


def made_batches(batch_tokens: int, count: int) -> list[Batch]:
    """Packed rows of 128."""
    rng = np.random.default_rng(2)
    number = batch_tokens * (count + 2) // 35
    lengths = rng.integers(15, 56, number)
    two, some = np.full(number, 2), np.arange(number) % 2
    sentences = Sentences(
        key_N=np.arange(number),
        is_statement_N=np.zeros(number, np.bool_),
        ids=from_lengths(rng.integers(1000, VOCABULARY.size, lengths.sum()), lengths),
        words=from_lengths(
            np.concatenate([np.arange(1, length - 1) for length in lengths]), lengths - 2
        ),
        span_start=from_lengths(np.tile([2, 8], number), two),
        span_end=from_lengths(np.tile([5, 11], number), two),
        span_entity=from_lengths((rng.random(2 * number) ** 3 * ENTITIES).astype(np.int64), two),
        span_policies=from_lengths(np.full(2 * number, POLICY_BITS["all"]), two),
        fact_head=from_lengths(np.zeros(some.sum(), np.int64), some),
        fact_relation=from_lengths(rng.integers(ENTITIES, ENTITIES + RELATIONS, some.sum()), some),
        fact_tail=from_lengths(np.ones(some.sum(), np.int64), some),
    )
    packing = Packing(max_tokens=128, batch_tokens=batch_tokens, limit=512)
    rows = plan_batches(lengths, packing)[:count]
    return [assemble(sentences, each, Position(index=index), 0) for index, each in enumerate(rows)]


def made_model(shape: str) -> MaskedLm:
    """BERT of this shape."""
    from transformers import BertConfig, BertForMaskedLM

    layers, hidden = SHAPES[shape]
    config = BertConfig(
        vocab_size=VOCABULARY.size, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return MaskedLm(BertForMaskedLM(config), torch.device("cpu"))


class Clock:
    """Processor seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.last = time.process_time()

    def lap(self, part: str) -> None:
        """Add the time since the last lap to a part."""
        now = time.process_time()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A model and its components."""

    model: MaskedLm
    knowledge: Knowledge
    injector: Injector
    bank: MemoryBank
    cka: Cka
    planner: CkaPlanner
    optimiser: torch.optim.Optimizer
    bf16: bool

    def plain(self, batch: Batch) -> float:
        """A step of masked-language-model training alone."""
        clock = Clock()
        masked = mask_batch(batch, MaskingConfig(), VOCABULARY, seed=0, epoch=0)
        self.update(*self.states(batch, masked.input_ids_RS, None), masked, None, clock)
        clock.lap("rest")
        return sum(clock.seconds.values())

    def whole(self, batch: Batch) -> dict[str, float]:
        """A step with everything on; `cka_loss` has its backward down to the states and the
        embeddings.
        """
        clock = Clock()
        masked = mask_batch(batch, MaskingConfig(), VOCABULARY, seed=0, epoch=0)
        clock.lap("rest")
        facts = CHOOSER.choose(batch, masked)
        plan = self.planner.plan(batch, facts)
        hidden = mentions(batch, facts.sentence_G, facts.tail_G)
        ids = hide(batch, masked.input_ids_RS, hidden, VOCABULARY.mask_id)
        clock.lap("cka_plan")
        edit = self.injector.edit(
            batch, self.injector.plan(batch, masked.chosen_RS, hidden, self.bank)
        )
        clock.lap("injection")
        hidden, loss = self.states(batch, ids, edit)
        self.update(hidden, loss, masked, plan, clock)
        clock.lap("rest")
        self.bank.write(take_notes(batch, hidden, self.knowledge.bank_row[batch.span_entity_P], 8))
        clock.lap("memory")
        return clock.seconds

    def states(self, batch: Batch, ids: Any, edit: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Forward; the states as a leaf, so that the losses' own backward can be timed, and as they
        are.
        """
        with (
            torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext(),
            self.model.edit_embeddings(edit),
        ):
            hidden = self.model.encode(self.model.pack(batch, ids))
        return hidden.detach().requires_grad_(), hidden

    def update(
        self, leaf: Tensor, hidden: Tensor, masked: MaskedBatch, plan: CkaPlan | None, clock: Clock
    ) -> None:
        """Losses, backward, AdamW."""
        target, gold = torch.from_numpy(masked.target_M), torch.from_numpy(masked.gold_M)
        with torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext():
            loss = mlm_loss_sum(self.model, leaf, target, gold) / len(gold)
        torch.autograd.backward(loss)
        clock.lap("rest")
        if plan is not None and len(plan):
            torch.autograd.backward(self.cka(leaf, plan, self.model.word_embeddings))
            clock.lap("cka_loss")
        torch.autograd.backward(hidden, leaf.grad)
        torch.nn.utils.clip_grad_norm_(
            [p for group in self.optimiser.param_groups for p in group["params"]], 1.0
        )
        self.optimiser.step()
        self.optimiser.zero_grad()


def make_setting(shape: str, storage: str, folder: Path, *, bf16: bool, ffn_only: bool) -> Setting:
    """Everything that a step needs."""
    model, knowledge = made_model(shape), made_knowledge()
    if ffn_only:
        for name, parameter in model.hf.named_parameters():
            parameter.requires_grad_(
                "intermediate" in name or ("output" in name and "attention" not in name)
            )
    initial = freeze_embeddings(model.word_embeddings.weight, knowledge)
    cka = Cka(CkaConfig(), knowledge, initial, seed=0)
    trained = [p for p in [*model.hf.parameters(), *cka.parameters()] if p.requires_grad]
    return Setting(
        model=model,
        knowledge=knowledge,
        injector=Injector(InjectionConfig(policy="all"), knowledge, initial, seed=0),
        bank=MemoryBank(ENTITIES, model.hidden_size, MemoryConfig(storage=storage), folder=folder),
        cka=cka,
        planner=CkaPlanner(cka.config, knowledge, seed=0),
        optimiser=torch.optim.AdamW(trained, lr=1e-4, fused=True),
        bf16=bf16,
    )


def share(  # noqa: PLR0913
    out: Path,
    shape: str,
    storage: str,
    batch_tokens: int,
    count: int,
    *,
    bf16: bool,
    ffn_only: bool,
) -> dict[str, Any]:
    """Steps with all and with none, in turn; medians in milliseconds of processor time."""
    torch.set_num_threads(1)
    setting = make_setting(shape, storage, out, bf16=bf16, ffn_only=ffn_only)
    whole, plain = [], []
    for number, batch in enumerate(made_batches(batch_tokens, count)):
        with_all, with_none = setting.whole(batch), setting.plain(batch)
        if number:  # the first one is warm-up
            whole.append(with_all)
            plain.append(with_none)
    step = statistics.median(sum(seconds.values()) for seconds in whole)
    parts = {part: 1000 * statistics.median(seconds[part] for seconds in whole) for part in PARTS}
    return {
        "seconds": step,
        "cpu_seconds": step,
        "step_ms": 1000 * step,
        "plain_step_ms": 1000 * statistics.median(plain),
        "parts_ms": parts,
        "share": sum(parts.values()) / (1000 * step),
        "memory_share": parts["memory"] / (1000 * step),
        "share_by_difference": 1 - statistics.median(plain) / step,
    }
