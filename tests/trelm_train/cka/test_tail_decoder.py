"""The loss that decodes a tail from its head, after the description of DKPLM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.trelm_train.world import ROW
from trelm_train.cka.plan import CkaPlan, CkaPlanner
from trelm_train.cka.tail_decoder import MAX_DECODED, TailDecoder
from trelm_train.config import CkaConfig, MaskingConfig
from trelm_train.data.arrays import from_lengths
from trelm_train.data.knowledge import Knowledge
from trelm_train.data.loader import Batch
from trelm_train.data.masking import Vocabulary, mask_batch
from trelm_train.facts.plan import FactChooser
from trelm_train.memory.injection import freeze_embeddings
from trelm_train.model.masked_lm import MaskedLm


@pytest.fixture
def plan(batch: Batch, vocabulary: Vocabulary, knowledge: Knowledge) -> CkaPlan:
    masked = mask_batch(batch, MaskingConfig(), vocabulary, seed=0, epoch=0)
    chooser = FactChooser(policy="all", probability=1.0, seed=0)
    return CkaPlanner(CkaConfig(), knowledge, seed=0).plan(batch, chooser.choose(batch, masked))


def decoder_of(model: MaskedLm, knowledge: Knowledge) -> TailDecoder:
    initial = freeze_embeddings(model.word_embeddings.weight, knowledge)
    return TailDecoder(knowledge, initial, seed=0)


def test_the_loss_is_that_of_the_formula(
    batch: Batch, plan: CkaPlan, model: MaskedLm, knowledge: Knowledge
) -> None:
    """Value and gradients against the textbook form, fact by fact and token by token."""
    decoder = decoder_of(model, knowledge)
    table = model.word_embeddings.weight
    states = model.encode(model.pack(batch)).detach().requires_grad_()
    loss = decoder.loss_sum(states, plan, model.word_embeddings)
    inputs = (states, table, decoder.mention.weight, decoder.step.weight)
    ours = torch.autograd.grad(loss, inputs)

    flat = states.reshape(-1, model.hidden_size)
    wanted = torch.zeros(())
    lengths = []
    for number in range(len(plan)):
        head = flat[plan.head_start_G[number] : plan.head_end_G[number]].mean(0)
        entity = decoder.norm(functional.gelu(decoder.mention.weight @ head))
        words = torch.from_numpy(knowledge.label_ids.of(int(plan.facts.relation_G[number])))
        relation = decoder.initial.table_VH[words].mean(0)
        state = relation / (relation.square().mean() + torch.finfo(torch.float32).eps).sqrt()
        tokens = knowledge.label_ids.of(int(plan.facts.tail_G[number])).tolist()[:MAX_DECODED]
        lengths.append(len(tokens))
        for token in tokens:
            state = torch.tanh((decoder.step.weight @ state) * entity)
            wanted = wanted - torch.log_softmax(table @ state, 0)[token] / len(tokens)
    assert len(plan) > 2
    assert max(lengths) > 1, "a label of several tokens is among them"
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    for left, right in zip(ours, torch.autograd.grad(wanted, inputs), strict=True):
        assert float(right.abs().sum()) > 0
        assert torch.allclose(left, right, rtol=1e-4, atol=1e-5)


def test_a_batch_without_facts_and_a_label_without_tokens_add_nothing(
    batch: Batch, plan: CkaPlan, model: MaskedLm, knowledge: Knowledge
) -> None:
    states = model.encode(model.pack(batch)).detach()
    none = plan.facts.take(np.zeros(len(plan), np.bool_))
    empty = replace(plan, facts=none)
    assert float(decoder_of(model, knowledge).loss_sum(states, empty, model.word_embeddings)) == 0

    lengths = np.zeros(len(knowledge), np.int64)
    nameless = replace(knowledge, label_ids=from_lengths(np.zeros(0, np.int64), lengths))
    assert float(decoder_of(model, nameless).loss_sum(states, plan, model.word_embeddings)) == 0


def test_training_finds_the_tails(
    batch: Batch, plan: CkaPlan, model: MaskedLm, knowledge: Knowledge
) -> None:
    decoder = decoder_of(model, knowledge)
    states = model.encode(model.pack(batch)).detach()
    optimiser = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = decoder.loss_sum(states, plan, model.word_embeddings) / len(plan)
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert ROW["lives in"] in plan.facts.relation_G
