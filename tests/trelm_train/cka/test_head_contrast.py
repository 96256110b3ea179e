"""The contrast through the LM head, against a plain computation; what it teaches; what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.errors import ConfigError
from tests.trelm_train.conftest import request_for, step_on
from trelm_train.cka.head_contrast import gathering, head_contrast_sum
from trelm_train.cka.plan import CkaPlan, CkaPlanner
from trelm_train.config import CkaConfig, MaskingConfig, load_config
from trelm_train.data.knowledge import Knowledge
from trelm_train.data.loader import Batch, Position
from trelm_train.data.masking import Vocabulary, mask_batch
from trelm_train.facts.plan import FactChooser
from trelm_train.model.masked_lm import MaskedLm
from trelm_train.training.session import start_run

HEAD = ("cka.form=head", "cka.mlm_share=0", "facts.share=1", "routing.policy=full", "injection.enabled=false",
        "facts.enabled=false", "train.precision=float32", "train.dropout=0")  # fmt: skip


@pytest.fixture
def plan(batch: Batch, knowledge: Knowledge, vocabulary: Vocabulary) -> CkaPlan:
    masked = mask_batch(batch, MaskingConfig(), vocabulary, seed=0, epoch=0)
    facts = FactChooser(policy="all", probability=1.0, seed=0).choose(batch, masked)
    return CkaPlanner(CkaConfig(), knowledge, seed=0).plan(batch, facts)


def test_against_a_plain_computation(
    batch: Batch, plan: CkaPlan, knowledge: Knowledge, model: MaskedLm
) -> None:
    states = torch.randn(
        *batch.input_ids_RS.shape, model.hidden_size, generator=torch.Generator().manual_seed(3)
    )
    log_p = torch.log_softmax(model.logits(states.reshape(-1, model.hidden_size)), -1)
    flat = batch.input_ids_RS.reshape(-1)
    total, num_compared = torch.zeros(()), 0
    for fact in range(len(plan)):
        places = range(int(plan.tail_start_G[fact]), int(plan.tail_end_G[fact]))
        true = [int(flat[place]) for place in places]
        names = [
            knowledge.label_ids.of(int(plan.tail_U[index])).tolist()
            for index, is_valid in zip(plan.tail_index_GC[fact], plan.valid_GN[fact], strict=True)
            if is_valid
        ][1:]
        others = [name for name in names if len(name) == len(true)]
        num_compared += len(others)
        score = [
            sum(log_p[p, t] for p, t in zip(places, name, strict=True)) for name in [true, *others]
        ]
        total = total - torch.log_softmax(torch.stack([torch.as_tensor(s) for s in score]), 0)[0]
    assert num_compared > len(plan)
    loss = head_contrast_sum(model, states, plan, knowledge, batch.input_ids_RS)
    assert float(loss.detach()) == pytest.approx(float(total.detach()), rel=1e-5)


def test_candidates_of_another_length_are_left_out(
    batch: Batch, plan: CkaPlan, knowledge: Knowledge
) -> None:
    chosen = gathering(plan, knowledge, batch.input_ids_RS)
    length = knowledge.label_ids.lengths(plan.tail_U[plan.tail_index_GC])
    own = (plan.tail_end_G - plan.tail_start_G)[:, None]
    assert chosen.fits_GN[:, 0].all()
    assert np.array_equal(chosen.fits_GN[:, 1:], (plan.valid_GN & (length == own))[:, 1:])
    assert not chosen.fits_GN.all()


def test_a_candidate_with_the_words_of_the_mention_is_left_out(
    batch: Batch, plan: CkaPlan, knowledge: Knowledge
) -> None:
    """As where the text calls Strelsau by a name that is the label of another town."""
    before = gathering(plan, knowledge, batch.input_ids_RS)
    fact, column = np.argwhere(before.fits_GN[:, 1:])[0] + (0, 1)
    label = knowledge.label_ids.of(int(plan.tail_U[plan.tail_index_GC[fact, column]]))
    ids = batch.input_ids_RS.copy()
    ids.reshape(-1)[plan.tail_start_G[fact] : plan.tail_end_G[fact]] = label

    after = gathering(plan, knowledge, ids)
    assert not after.fits_GN[fact, column]
    assert after.fits_GN[:, 0].all()
    others = np.arange(len(plan)) != fact
    assert np.array_equal(after.fits_GN[others], before.fits_GN[others])


def test_nothing_to_compare(
    batch: Batch, model: MaskedLm, knowledge: Knowledge, vocabulary: Vocabulary
) -> None:
    masked = mask_batch(batch, MaskingConfig(), vocabulary, seed=0, epoch=0)
    facts = FactChooser(policy="none", probability=0.0, seed=0).choose(batch, masked)
    nothing = CkaPlanner(CkaConfig(), knowledge, seed=0).plan(batch, facts)
    states = torch.ones(*batch.input_ids_RS.shape, model.hidden_size)
    assert float(head_contrast_sum(model, states, nothing, knowledge, batch.input_ids_RS)) == 0.0


def test_it_is_learned_and_needs_no_weights_of_its_own(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    session = start_run(request_for(shards_path, model_path, tmp_path / "out", *HEAD))
    assert session.components.cka is None
    (batch, _) = next(session.stream.iterate(Position()))
    losses = [step_on(session, batch, number).cka_loss for number in range(5)]
    assert 0 < losses[-1] < 0.8 * losses[0]


def test_relations_have_no_place_at_the_head() -> None:
    with pytest.raises(ConfigError, match="which the LM head cannot name"):
        load_config(None, ["cka.contrast=relation"])
