import numpy as np
import pytest
import torch

from trelm_train.config import RoutingConfig
from trelm_train.errors import TrelmError
from trelm_train.loader import Batch, BatchStream, Packing, Position, assemble, sentences_from_lists
from trelm_train.masking import Vocabulary
from trelm_train.model import MaskedLm
from trelm_train.routing import Router, make_probe, top_neurons, votes, whole_parameters


def router(model: MaskedLm, vocabulary: Vocabulary, **settings: object) -> Router:
    config = RoutingConfig(**{"probe_facts": 20, "share": 0.25, **settings})  # type: ignore[arg-type]
    return Router(config, model, vocabulary, seed=4)


def total(neurons: dict[int, torch.Tensor]) -> int:
    return sum(len(index) for index in neurons.values())


def test_votes_by_hand() -> None:
    attribution = torch.tensor([[[1.0, 0.2, 0.1], [-3.0, 0.5, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, -1.0]]])
    assert votes(attribution, 0.2).tolist() == [[1, 1, 0], [0, 1, 0]], "no positive attribution, no vote"


def test_ties_go_to_the_second_score_then_to_the_seed() -> None:
    first = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    second = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]])
    chosen = top_neurons([first, second], 2, first_layer=0, seed=0)
    assert {layer: index.tolist() for layer, index in chosen.items()} == {0: [1], 1: [0]}
    zeros = torch.zeros(2, 50)
    left, right, other = (top_neurons([zeros], 10, first_layer=0, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(left[layer], right[layer]) for layer in left)
    assert not all(torch.equal(left[layer], other[layer]) for layer in left)
    assert total(top_neurons([zeros], 10, first_layer=1, seed=0)) == len(
        top_neurons([zeros], 10, first_layer=1, seed=0)[1]
    )


@pytest.mark.parametrize("policy", ["ig", "random", "top_layers"])
def test_policies_choose_as_many(policy: str, model: MaskedLm, vocabulary: Vocabulary, stream: BatchStream) -> None:
    chosen = router(model, vocabulary, policy=policy).neurons(stream, Position())
    assert total(chosen) == round(0.25 * 3 * 64)
    again = router(model, vocabulary, policy=policy).neurons(stream, Position())
    for layer, index in chosen.items():
        assert torch.equal(index, again[layer])
        assert torch.equal(index, index.sort().values)
    if policy == "top_layers":
        assert {layer: len(index) for layer, index in chosen.items()} == {0: 0, 1: 0, 2: 48}


def test_all_neurons_and_the_layer_budget(model: MaskedLm, vocabulary: Vocabulary, stream: BatchStream) -> None:
    assert total(router(model, vocabulary, policy="ffn_all").neurons(stream, Position())) == 3 * 64
    for policy in ("ig", "random"):
        narrow = router(model, vocabulary, policy=policy, layer_budget=1, share=0.9).neurons(stream, Position())
        assert {layer: len(index) for layer, index in narrow.items()} == {0: 0, 1: 0, 2: 64}


def test_refreshes_are_smoothed_and_survive_a_round_trip(
    model: MaskedLm, vocabulary: Vocabulary, stream: BatchStream
) -> None:
    first = router(model, vocabulary, smoothing=0.9)
    first.neurons(stream, Position())
    assert first.votes_LI is not None
    before = first.votes_LI.clone()
    restored = router(model, vocabulary)
    restored.load({name: tensor.clone() for name, tensor in first.state().items()})
    first.refresh(stream, Position(epoch=1))
    fresh = router(model, vocabulary)
    assert fresh.state() == {}
    fresh.refresh(stream, Position(epoch=1))
    assert fresh.votes_LI is not None
    assert torch.allclose(first.votes_LI, 0.9 * before + 0.1 * fresh.votes_LI)
    restored.refresh(stream, Position(epoch=1))
    assert restored.votes_LI is not None
    assert torch.equal(restored.votes_LI, first.votes_LI)


def test_when_a_refresh_is_due(model: MaskedLm, vocabulary: Vocabulary) -> None:
    ig, random = (router(model, vocabulary, policy=policy, refresh_every=10) for policy in ("ig", "random"))
    assert [step for step in range(25) if ig.due(step)] == [0, 10, 20]
    assert [step for step in range(25) if random.due(step)] == [0]


def test_a_probe_hides_every_mention_of_what_it_asks(batch: Batch, vocabulary: Vocabulary) -> None:
    probe = make_probe(batch, vocabulary, seed=0, limit=1000)
    assert probe is not None
    targets = probe.targets
    assert targets.num_examples == len(set(batch.span_sentence_P.tolist()))
    assert (probe.input_ids_RS.reshape(-1)[targets.position_T] == vocabulary.mask_id).all()
    assert np.array_equal(targets.gold_T, batch.input_ids_RS.reshape(-1)[targets.position_T])
    tails = batch.span_start_P[batch.fact_tail_F]
    assert np.isin(tails, targets.position_T).all(), "tails of facts come first"
    limited = make_probe(batch, vocabulary, seed=0, limit=2)
    assert limited is not None
    assert limited.targets.num_examples == 2


def test_shards_without_mentions(
    model: MaskedLm, vocabulary: Vocabulary, stream: BatchStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = assemble(sentences_from_lists({"ids": [[2, 7, 3]]}), [[0]], Position(), 0)
    assert make_probe(plain, vocabulary, seed=0, limit=5) is None
    bare = BatchStream(stream.shards, Packing(max_tokens=48, batch_tokens=96, limit=64), seed=0, pad_id=0)
    monkeypatch.setattr(bare, "iterate", lambda _: iter([(plain, Position(epoch=2))]))
    with pytest.raises(TrelmError, match="needs linked mentions"):
        router(model, vocabulary).neurons(bare, Position())


@pytest.mark.parametrize(
    ("switch", "names"),
    [
        ("", set()),
        ("train_attention", {"attention"}),
        ("train_embeddings", {"word_embeddings", "position_embeddings"}),
        ("train_layer_norm", {"LayerNorm"}),
        ("train_head", {"transform.dense", "output.dense.bias", "predictions.bias"}),
    ],
)
def test_everything_else_is_frozen_but_for_its_switch(switch: str, names: set[str], model: MaskedLm) -> None:
    chosen = whole_parameters(model, RoutingConfig(**({switch: True} if switch else {})))
    assert all(any(name in key for key in chosen) for name in names)
    assert bool(chosen) == bool(names)
    for name, parameter in model.hf.named_parameters():
        assert parameter.requires_grad == (name in chosen)
        assert not (name in chosen and "intermediate" in name)
    assert model.hf.get_output_embeddings().weight is model.word_embeddings.weight  # type: ignore[operator]


def test_full_trains_everything(model: MaskedLm) -> None:
    chosen = whole_parameters(model, RoutingConfig(policy="full"))
    assert len(chosen) == len(list(model.hf.parameters()))
