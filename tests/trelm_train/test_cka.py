from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.trelm_train.world import COUNTRIES, ROW, TOWNS
from trelm_train.cka import Cka, Facts, choose_facts, hide, info_nce, label_means, relation_contrast, tail_contrast
from trelm_train.config import CkaConfig, MaskingConfig
from trelm_train.injection import make_anchor
from trelm_train.knowledge import Knowledge
from trelm_train.loader import Batch
from trelm_train.masking import Masked, Vocabulary, mask_batch
from trelm_train.model import MaskedLm

CONFIG = CkaConfig(fact_share=1.0)


@pytest.fixture
def masked(batch: Batch, vocabulary: Vocabulary) -> Masked:
    return mask_batch(batch, MaskingConfig(), vocabulary, seed=0, epoch=0)


@pytest.fixture
def facts(batch: Batch, masked: Masked) -> Facts:
    return choose_facts(batch, masked, CONFIG, seed=0)


@pytest.fixture
def cka(model: MaskedLm, knowledge: Knowledge) -> Cka:
    return Cka(CONFIG, knowledge, make_anchor(model.word_embeddings.weight, knowledge), seed=0)


def test_every_mention_of_a_tail_is_fully_masked(
    batch: Batch, masked: Masked, facts: Facts, vocabulary: Vocabulary
) -> None:
    ids = hide(batch, masked.input_ids_RS, facts.hidden_P, vocabulary.mask_id).reshape(-1)
    assert len(facts)
    for head_span, tail in zip(facts.head_span_G.tolist(), facts.tail_G.tolist(), strict=True):
        sentence = batch.span_sentence_P[head_span]
        for span in np.flatnonzero((batch.span_sentence_P == sentence) & (batch.span_entity_P == tail)).tolist():
            assert (ids[batch.span_start_P[span] : batch.span_end_P[span]] == vocabulary.mask_id).all()
    kept = ~np.isin(np.arange(ids.size), np.flatnonzero(ids == vocabulary.mask_id))
    assert np.array_equal(ids[kept], masked.input_ids_RS.reshape(-1)[kept])


def test_heads_are_visible_and_sentences_serve_once(batch: Batch, masked: Masked, facts: Facts) -> None:
    assert not masked.chosen_RS.reshape(-1)[batch.span_start_P[facts.head_span_G]].any()
    sentences = batch.span_sentence_P[facts.head_span_G]
    assert len(set(sentences.tolist())) == len(sentences)
    assert not len(choose_facts(batch, masked, CkaConfig(fact_share=0.0), seed=0))


def test_true_tails_are_never_negatives(facts: Facts, knowledge: Knowledge) -> None:
    contrast = tail_contrast(facts, knowledge, CONFIG, seed=0, step=1)
    for number in range(len(facts)):
        row = contrast.row_GN[number][contrast.valid_GN[number]]
        assert row[0] == facts.tail_G[number]
        true = knowledge.true_tails(int(facts.head_G[number]), int(facts.relation_G[number]))
        assert not np.isin(row[1:], true).any()
        assert len(set(row.tolist())) == len(row)
        tails = TOWNS if facts.relation_G[number] == ROW["lives in"] else COUNTRIES
        assert {ROW[name] for name in tails} <= set(row.tolist()), "tails of the relation fill up"


def test_namesakes_of_a_true_tail_are_never_negatives(facts: Facts, knowledge: Knowledge) -> None:
    """A candidate is its label: a namesake would be a negative equal to the positive, a loss that nothing can lower."""
    town, other = (ROW[name] for name in TOWNS[:2])
    name = np.where(knowledge.name == knowledge.name[other], knowledge.name[town], knowledge.name)
    twins = replace(knowledge, name=name)
    seen = False
    for number, row in enumerate(tail_contrast(facts, twins, CONFIG, seed=0, step=1).row_GN):
        if facts.tail_G[number] in (town, other):
            seen = True
            assert not np.isin(row[1:], [town, other]).any()
    assert seen


def test_tails_of_the_batch_come_first(facts: Facts, knowledge: Knowledge) -> None:
    few = tail_contrast(facts, knowledge, CkaConfig(negatives=2), seed=0, step=1)
    assert few.row_GN.shape[1] == 3
    assert np.isin(few.row_GN[:, 1:][few.valid_GN[:, 1:]], facts.tail_G).all()


def test_a_relation_with_many_tails_is_sampled(facts: Facts, knowledge: Knowledge) -> None:
    from dataclasses import replace

    from trelm_train.arrays import from_lengths

    lengths = np.zeros(len(knowledge), np.int64)
    lengths[ROW["lives in"]] = lengths[ROW["country"]] = 5000
    big = replace(knowledge, tails=from_lengths(np.tile(np.arange(20), 500), lengths))
    contrast = tail_contrast(facts, big, CkaConfig(negatives=8), seed=0, step=1)
    assert contrast.row_GN.shape[1] == 9
    assert contrast.valid_GN.all()


def test_wrong_relations_do_not_hold(facts: Facts, knowledge: Knowledge) -> None:
    contrast = relation_contrast(facts, knowledge, seed=0, step=1)
    assert contrast.row_GN.shape == (len(facts), 4)
    assert (contrast.row_GN[:, 0] == facts.relation_G).all()
    assert (contrast.row_GN[:, 1:] != facts.relation_G[:, None]).all()
    assert not knowledge.is_entity[contrast.row_GN].any()


def test_info_nce_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 5.0, 9.0], [3.0, 0.0, 0.0]])
    valid = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    first = -torch.log_softmax(torch.tensor([2.0, 1.0, 0.0]), 0)[0]
    second = -torch.log_softmax(torch.tensor([1.0, 5.0]), 0)[0]
    assert float(info_nce(logits, valid)) == pytest.approx(float((first + second) / 2), rel=1e-6)
    assert float(info_nce(logits[2:], valid[2:])) == 0.0, "no negative, no loss"


@pytest.mark.parametrize("contrast", ["tail", "relation"])
def test_the_loss_teaches_encoder_and_embeddings(
    contrast: str, batch: Batch, facts: Facts, model: MaskedLm, knowledge: Knowledge
) -> None:
    anchor = make_anchor(model.word_embeddings.weight, knowledge)
    cka = Cka(CkaConfig(contrast=contrast), knowledge, anchor, seed=0)
    loss = cka(model.encode(model.pack(batch)), batch, facts, model.word_embeddings, 0)
    torch.autograd.backward(loss)
    assert float(loss.detach()) > 0
    for parameter in (cka.projection.weight, model.word_embeddings.weight, model.layers[0].intermediate.dense.weight):
        assert parameter.grad is not None
        assert float(parameter.grad.abs().sum()) > 0


def test_a_batch_without_facts_adds_nothing(batch: Batch, masked: Masked, model: MaskedLm, cka: Cka) -> None:
    none = choose_facts(batch, masked, CkaConfig(fact_share=0.0), seed=0)
    hidden = torch.ones(*batch.input_ids_RS.shape, model.hidden_size)
    assert float(cka(hidden, batch, none, model.word_embeddings, 0)) == 0.0


def test_candidates_are_label_means(model: MaskedLm, knowledge: Knowledge) -> None:
    rows = np.asarray([[ROW["Zenda"], ROW["Golden City"]], [ROW["Zenda"], ROW["Zenda"]]])
    means = label_means(model.word_embeddings, knowledge, rows)
    ids = torch.from_numpy(knowledge.label_ids.of(ROW["Golden City"]))
    assert torch.allclose(means[0, 1], model.word_embeddings.weight[ids].mean(0), atol=1e-6)
    assert torch.equal(means[0, 0], means[1, 1])
