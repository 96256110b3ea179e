import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from schemas.array_types import I64
from tests.trelm_train.conftest import some_sentences
from tests.trelm_train.world import COUNTRIES, ROW, TOWNS
from trelm_train.cka.loss import Cka, info_nce_sum, label_means
from trelm_train.cka.plan import (
    SAMPLE,
    CkaPlan,
    CkaPlanner,
    relation_contrast,
    tail_contrast,
)
from trelm_train.config import CkaConfig, MaskingConfig
from trelm_train.data.arrays import among, from_lengths, uniform
from trelm_train.data.knowledge import Knowledge
from trelm_train.data.loader import Batch, BatchStream, Position, assemble
from trelm_train.data.masking import MaskedBatch, Vocabulary, mask_batch
from trelm_train.facts.plan import FactChooser, StepFacts, hide, mentions
from trelm_train.memory.injection import freeze_embeddings
from trelm_train.model.masked_lm import MaskedLm

CONFIG = CkaConfig()
CHOOSER = FactChooser(policy="all", probability=1.0, seed=0)


@pytest.fixture
def masked(batch: Batch, vocabulary: Vocabulary) -> MaskedBatch:
    return mask_batch(batch, MaskingConfig(), vocabulary, seed=0, epoch=0)


@pytest.fixture
def facts(batch: Batch, masked: MaskedBatch) -> StepFacts:
    return CHOOSER.choose(batch, masked)


@pytest.fixture
def plan(batch: Batch, masked: MaskedBatch, knowledge: Knowledge) -> CkaPlan:
    return CkaPlanner(CONFIG, knowledge, seed=0).plan(batch, CHOOSER.choose(batch, masked))


def relations_of(knowledge: Knowledge) -> I64:
    return np.flatnonzero(~knowledge.is_entity)


@pytest.fixture
def cka(model: MaskedLm, knowledge: Knowledge) -> Cka:
    return Cka(
        CONFIG, knowledge, freeze_embeddings(model.word_embeddings.weight, knowledge), seed=0
    )


def test_every_mention_of_a_tail_is_fully_masked(
    batch: Batch, masked: MaskedBatch, facts: StepFacts, vocabulary: Vocabulary
) -> None:
    hidden = mentions(batch, facts.sentence_G, facts.tail_G)
    ids = hide(batch, masked.input_ids_RS, hidden, vocabulary.mask_id).reshape(-1)
    assert len(facts)
    for head_span, tail in zip(facts.head_span_G.tolist(), facts.tail_G.tolist(), strict=True):
        sentence = batch.span_sentence_P[head_span]
        for span in np.flatnonzero(
            (batch.span_sentence_P == sentence) & (batch.span_entity_P == tail)
        ).tolist():
            assert (
                ids[batch.span_start_P[span] : batch.span_end_P[span]] == vocabulary.mask_id
            ).all()
    kept = ~np.isin(np.arange(ids.size), np.flatnonzero(ids == vocabulary.mask_id))
    assert np.array_equal(ids[kept], masked.input_ids_RS.reshape(-1)[kept])


def test_heads_are_visible_and_sentences_serve_once(
    batch: Batch, masked: MaskedBatch, facts: StepFacts
) -> None:
    assert not masked.chosen_RS.reshape(-1)[batch.span_start_P[facts.head_span_G]].any()
    sentences = batch.span_sentence_P[facts.head_span_G]
    assert len(set(sentences.tolist())) == len(sentences)
    assert not len(replace(CHOOSER, probability=0.0).choose(batch, masked))


def test_true_tails_are_never_negatives(facts: StepFacts, knowledge: Knowledge) -> None:
    contrast = tail_contrast(facts, knowledge, CONFIG, seed=0, epoch=0)
    for number in range(len(facts)):
        row = contrast.row_GN[number][contrast.valid_GN[number]]
        assert row[0] == facts.tail_G[number]
        true = knowledge.true_tails(int(facts.head_G[number]), int(facts.relation_G[number]))
        assert not np.isin(row[1:], true).any()
        assert len(set(row.tolist())) == len(row)
        tails = TOWNS if facts.relation_G[number] == ROW["lives in"] else COUNTRIES
        assert {ROW[name] for name in tails} <= set(row.tolist()), "tails of the relation fill up"


def test_namesakes_of_a_true_tail_are_never_negatives(
    facts: StepFacts, knowledge: Knowledge
) -> None:
    """A candidate is its label: a namesake would be a negative equal to the positive, a loss that nothing can lower."""
    town, other = (ROW[name] for name in TOWNS[:2])
    name = np.where(knowledge.name == knowledge.name[other], knowledge.name[town], knowledge.name)
    twins = replace(knowledge, name=name)
    seen = False
    for number, row in enumerate(tail_contrast(facts, twins, CONFIG, seed=0, epoch=0).row_GN):
        if facts.tail_G[number] in (town, other):
            seen = True
            assert not np.isin(row[1:], [town, other]).any()
    assert seen


def test_tails_of_the_batch_come_first(facts: StepFacts, knowledge: Knowledge) -> None:
    few = tail_contrast(facts, knowledge, CkaConfig(negatives=2), seed=0, epoch=0)
    assert few.row_GN.shape[1] == 3
    assert np.isin(few.row_GN[:, 1:][few.valid_GN[:, 1:]], facts.tail_G).all()


def test_a_relation_with_many_tails_is_sampled(facts: StepFacts, knowledge: Knowledge) -> None:
    lengths = np.zeros(len(knowledge), np.int64)
    lengths[ROW["lives in"]] = lengths[ROW["country"]] = 5000
    big = replace(knowledge, tails=from_lengths(np.tile(np.arange(20), 500), lengths))
    contrast = tail_contrast(facts, big, CkaConfig(negatives=8), seed=0, epoch=0)
    assert contrast.row_GN.shape[1] == 9
    assert contrast.valid_GN.all()


def test_wrong_relations_do_not_hold(facts: StepFacts, knowledge: Knowledge) -> None:
    contrast = relation_contrast(facts, knowledge, relations_of(knowledge), seed=0, epoch=0)
    assert contrast.row_GN.shape == (len(facts), 4)
    assert (contrast.row_GN[:, 0] == facts.relation_G).all()
    assert (contrast.row_GN[:, 1:] != facts.relation_G[:, None]).all()
    assert not knowledge.is_entity[contrast.row_GN].any()


def tails_one_by_one(facts: StepFacts, knowledge: Knowledge, config: CkaConfig) -> list[list[int]]:
    """The same draw as `tail_contrast`, fact by fact."""
    in_batch, rows = np.unique(facts.tail_G), []
    for head, relation, tail, key in zip(
        facts.head_G.tolist(),
        facts.relation_G.tolist(),
        facts.tail_G.tolist(),
        facts.key_G.tolist(),
        strict=True,
    ):
        banned = np.append(knowledge.true_tails(head, relation), tail)
        tails, most = knowledge.tails.of(relation), SAMPLE * config.negatives
        if len(tails) > most:
            tails = tails[
                (uniform(0, "some", 0, key, np.arange(most)) * len(tails)).astype(np.int64)
            ]
        near = knowledge.without_names_of(in_batch, banned)
        far = knowledge.without_names_of(np.setdiff1d(tails, near), banned)
        parts = [part[np.argsort(uniform(0, "tail", 0, key, part))] for part in (near, far)]
        rows.append([tail, *np.concatenate(parts)[: config.negatives].tolist()])
    return rows


@pytest.mark.parametrize("tails", [0, 50], ids=["the world's tails", "50 tails with repeats"])
@pytest.mark.parametrize("negatives", [1, 3, 64])
def test_tails_are_those_of_a_plain_loop(
    negatives: int, tails: int, facts: StepFacts, knowledge: Knowledge
) -> None:
    config = CkaConfig(negatives=negatives)
    if tails:
        lengths = np.where(np.arange(len(knowledge)) >= ROW["lives in"], tails, 0)
        knowledge = replace(
            knowledge, tails=from_lengths(np.arange(int(lengths.sum())) % 20, lengths)
        )
    contrast = tail_contrast(facts, knowledge, config, seed=0, epoch=0)
    found = [
        row[valid].tolist() for row, valid in zip(contrast.row_GN, contrast.valid_GN, strict=True)
    ]
    assert found == tails_one_by_one(facts, knowledge, config)


def test_relations_are_those_of_a_plain_loop(facts: StepFacts, knowledge: Knowledge) -> None:
    contrast = relation_contrast(facts, knowledge, relations_of(knowledge), seed=0, epoch=0)
    for number in range(len(facts)):
        head, tail, key = (
            int(values[number]) for values in (facts.head_G, facts.tail_G, facts.key_G)
        )
        held = knowledge.true_tail_relation.of(head)[knowledge.true_tail.of(head) == tail]
        wrong = np.setdiff1d(relations_of(knowledge), held)
        wrong = wrong[np.argsort(uniform(0, "wrong", 0, key, wrong))][:3]
        assert contrast.row_GN[number].tolist() == [int(facts.relation_G[number]), *wrong.tolist()]


def test_relations_that_hold_too_are_no_negatives(facts: StepFacts, knowledge: Knowledge) -> None:
    """Every entity is tied to every tail by all relations but one: that one is the only negative."""
    wrong = ROW["sister of"]
    held = np.setdiff1d(relations_of(knowledge), [wrong])
    entities = int(knowledge.is_entity.sum())
    lengths = np.where(knowledge.is_entity, entities * len(held), 0)
    tails = np.tile(np.repeat(np.arange(entities), len(held)), entities)
    everything = replace(
        knowledge,
        true_tail=from_lengths(tails, lengths),
        true_tail_relation=from_lengths(np.tile(held, entities * entities), lengths),
    )
    contrast = relation_contrast(facts, everything, relations_of(knowledge), seed=0, epoch=0)
    assert contrast.row_GN[:, 1].tolist() == [wrong] * len(facts)
    assert not contrast.valid_GN[:, 2:].any()


def test_a_plan_does_not_depend_on_the_packing(
    stream: BatchStream, batch: Batch, knowledge: Knowledge, vocabulary: Vocabulary
) -> None:
    """The same sentences in other rows: the same facts, candidates and hidden mentions, sentence by
    sentence.
    """
    sentences = some_sentences(stream)
    planner = CkaPlanner(CONFIG, knowledge, seed=0)

    def by_sentence(rows: list[list[int]]) -> dict[int, tuple[int, list[int], list[int]]]:
        packed = assemble(sentences, rows, Position(), 0)
        masked = mask_batch(packed, MaskingConfig(), vocabulary, seed=0, epoch=0)
        plan = planner.plan(packed, CHOOSER.choose(packed, masked))
        hidden_P = mentions(packed, plan.facts.sentence_G, plan.facts.tail_G)
        hidden = packed.key_N[packed.span_sentence_P[hidden_P]]
        return {
            int(key): (
                int(plan.facts.head_G[number]),
                plan.tail_U[plan.tail_index_GC[number]][plan.valid_GN[number]].tolist(),
                packed.span_ordinal_P[hidden_P][hidden == key].tolist(),
            )
            for number, key in enumerate(plan.facts.key_G.tolist())
        }

    order = list(range(len(sentences)))
    assert by_sentence([order]) == by_sentence([[item] for item in reversed(order)])
    assert len(by_sentence([order])) > 10


def test_another_epoch_is_another_draw(facts: StepFacts, knowledge: Knowledge) -> None:
    few = CkaConfig(negatives=2)
    left, right = (tail_contrast(facts, knowledge, few, seed=0, epoch=epoch) for epoch in (0, 1))
    assert not np.array_equal(left.row_GN, right.row_GN)


def test_a_fact_without_a_negative_is_dropped(
    batch: Batch, facts: StepFacts, knowledge: Knowledge
) -> None:
    """All towns and countries bear one name: no tail differs from a false one, and no fact counts."""
    whole = CkaPlanner(CONFIG, knowledge, seed=0).plan(batch, facts)
    assert len(whole) == len(facts) > 0
    assert (whole.valid_GN.sum(1) > 1).all()
    alike = replace(
        knowledge,
        name=np.where(np.arange(len(knowledge)) < len(COUNTRIES + TOWNS), 0, knowledge.name),
    )
    assert not len(CkaPlanner(CONFIG, alike, seed=0).plan(batch, facts))


def test_info_nce_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 5.0, 9.0], [3.0, 0.0, 0.0]])
    valid = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    first = -torch.log_softmax(torch.tensor([2.0, 1.0, 0.0]), 0)[0]
    second = -torch.log_softmax(torch.tensor([1.0, 5.0]), 0)[0]
    assert float(info_nce_sum(logits, valid)) == pytest.approx(float(first + second), rel=1e-6)
    assert float(info_nce_sum(logits[2:], valid[2:])) == 0.0, "no negative, no loss"


@pytest.mark.parametrize("contrast", ["tail", "relation"])
def test_the_loss_is_that_of_the_formula(
    contrast: str, batch: Batch, masked: MaskedBatch, model: MaskedLm, knowledge: Knowledge
) -> None:
    """Value and gradients against the textbook form, fact by fact."""
    initial = freeze_embeddings(model.word_embeddings.weight, knowledge)
    cka = Cka(CkaConfig(contrast=contrast), knowledge, initial, seed=0)
    planner = CkaPlanner(CkaConfig(contrast=contrast), knowledge, seed=0)
    plan = planner.plan(batch, CHOOSER.choose(batch, masked))
    states = model.encode(model.pack(batch)).detach().requires_grad_()
    loss = cka.loss_sum(states, plan, model.word_embeddings)
    inputs = (states, model.word_embeddings.weight, cka.projection.weight)
    found = torch.autograd.grad(loss, inputs)
    flat = states.reshape(-1, model.hidden_size)
    wanted = torch.zeros(())
    for number in range(len(plan)):
        head = flat[plan.head_start_G[number] : plan.head_end_G[number]].mean(0)
        tails = plan.tail_U[plan.tail_index_GC[number]]
        pairs = [
            (int(relation), int(tail)) for relation in plan.relation_GR[number] for tail in tails
        ]
        logits = []
        for relation, tail in pairs[: plan.valid_GN[number].sum()]:
            ids, words = (torch.from_numpy(knowledge.label_ids.of(row)) for row in (relation, tail))
            query = cka.projection(torch.cat([head, initial.table_VH[ids].mean(0)]))
            label = model.word_embeddings.weight[words].mean(0)
            logits.append(torch.cosine_similarity(query, label, dim=0) / CONFIG.temperature)
        wanted = wanted - torch.log_softmax(torch.stack(logits), 0)[0]
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert float(cka(states, plan, model.word_embeddings).detach()) == pytest.approx(
        float(wanted.detach()) / len(plan), rel=1e-5
    )
    for left, right in zip(found, torch.autograd.grad(wanted, inputs), strict=True):
        assert float(right.abs().sum()) > 0
        assert torch.allclose(left, right, rtol=1e-4, atol=1e-5)


def test_states_in_half_precision(batch: Batch, plan: CkaPlan, model: MaskedLm, cka: Cka) -> None:
    """Under autocast all is computed in float32, and the gradient comes back in the states' own
    type.
    """
    states = model.encode(model.pack(batch)).detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cka.loss_sum(states, plan, model.word_embeddings)
    torch.autograd.backward(loss)
    assert loss.dtype == torch.float32
    assert states.grad is not None
    assert states.grad.dtype == torch.bfloat16
    assert float(states.grad.abs().sum()) > 0
    plain = cka.loss_sum(states.detach().float(), plan, model.word_embeddings)
    assert torch.equal(loss.detach(), plain.detach())


def test_a_label_without_tokens_is_no_nan(
    batch: Batch, plan: CkaPlan, model: MaskedLm, knowledge: Knowledge
) -> None:
    lengths = np.zeros(len(knowledge), np.int64)
    nameless = replace(knowledge, label_ids=from_lengths(np.zeros(0, np.int64), lengths))
    cka = Cka(CONFIG, nameless, freeze_embeddings(model.word_embeddings.weight, nameless), seed=0)
    loss = cka.loss_sum(model.encode(model.pack(batch)), plan, model.word_embeddings)
    torch.autograd.backward(loss)
    assert torch.isfinite(loss.detach())
    assert cka.projection.weight.grad is not None
    assert torch.isfinite(cka.projection.weight.grad).all()


def test_parts_of_a_step_add_up(
    stream: BatchStream, model: MaskedLm, cka: Cka, vocabulary: Vocabulary
) -> None:
    """Sums over micro-batches, each with its own plan, divided by all facts: what the step needs."""
    batches = [batch for batch, _ in itertools.islice(stream.iterate(Position()), 2)]
    plans = [
        CkaPlanner(CONFIG, cka.knowledge, seed=0).plan(
            b, CHOOSER.choose(b, mask_batch(b, MaskingConfig(), vocabulary, seed=0, epoch=0))
        )
        for b in batches
    ]
    sums = [
        float(cka.loss_sum(model.encode(model.pack(b)), plan, model.word_embeddings).detach())
        for b, plan in zip(batches, plans, strict=True)
    ]
    means = [
        float(cka(model.encode(model.pack(b)), plan, model.word_embeddings).detach())
        for b, plan in zip(batches, plans, strict=True)
    ]
    counts = [len(plan) for plan in plans]
    assert sum(sums) / sum(counts) == pytest.approx(np.average(means, weights=counts), rel=1e-5)


def test_a_batch_without_facts_adds_nothing(
    batch: Batch, masked: MaskedBatch, model: MaskedLm, knowledge: Knowledge
) -> None:
    initial = freeze_embeddings(model.word_embeddings.weight, knowledge)
    for contrast in ("tail", "relation"):
        cka = Cka(CkaConfig(contrast=contrast), knowledge, initial, seed=0)
        nothing = replace(CHOOSER, probability=0.0).choose(batch, masked)
        none = CkaPlanner(cka.config, knowledge, seed=0).plan(batch, nothing)
        assert not len(none)
        hidden = torch.ones(*batch.input_ids_RS.shape, model.hidden_size)
        assert float(cka(hidden, none, model.word_embeddings)) == 0.0


def test_candidates_are_label_means(model: MaskedLm, knowledge: Knowledge) -> None:
    means = label_means(
        model.word_embeddings, knowledge, np.asarray([ROW["Zenda"], ROW["Golden City"]])
    )
    ids = torch.from_numpy(knowledge.label_ids.of(ROW["Golden City"]))
    assert torch.allclose(means[1], model.word_embeddings.weight[ids].mean(0), atol=1e-6)


def test_numbers_among_others() -> None:
    assert among(np.asarray([2, 5, 9]), np.asarray([9, 1, 2, 10])).tolist() == [
        True,
        False,
        True,
        False,
    ]
    assert not among(np.zeros(0, np.int64), np.asarray([0, 1])).any()


def test_the_example_in_the_docstring(
    stream: BatchStream, knowledge: Knowledge, vocabulary: Vocabulary
) -> None:
    """The table in the docstring of `CkaPlan`."""
    sentences = some_sentences(stream)
    pair = [sentences.key_N.tolist().index(key) for key in (0, 3)]
    batch = assemble(sentences, [[row] for row in pair], Position(), vocabulary.pad_id)
    masked = mask_batch(batch, MaskingConfig(probability=0.0), vocabulary, seed=0, epoch=0)
    config = CkaConfig(negatives=2)
    facts = CHOOSER.choose(batch, masked)
    plan = CkaPlanner(config, knowledge, seed=0).plan(batch, facts)

    assert (plan.head_start_G.tolist(), plan.head_end_G.tolist()) == ([1, 9], [3, 10])
    assert plan.relation_GR.tolist() == [[ROW["lives in"]]] * 2 == [[20]] * 2
    assert plan.tail_index_GC.tolist() == [[0, 1, 3], [1, 0, 2]]
    assert plan.tail_U.tolist() == [4, 5, 7, 8]
    assert plan.tail_U.tolist() == [
        ROW[name] for name in ("Strelsau", "Bolivar Town", "Golden City", "Zenda")
    ]
    hidden = mentions(batch, facts.sentence_G, facts.tail_G)
    assert hidden.tolist() == [False, True, False, True]
