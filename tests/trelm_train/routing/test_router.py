import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from schemas.errors import TrelmError
from tests.trelm_train.conftest import request_for
from trelm_train.config import RoutingConfig, load_config
from trelm_train.data.loader import BatchStream, Packing, Position, assemble, sentences_from_lists
from trelm_train.data.masking import Vocabulary
from trelm_train.model.masked_lm import MaskedLm
from trelm_train.ranks import Ranks
from trelm_train.routing.probes import BACKGROUND, TAIL, upcoming_probes
from trelm_train.routing.router import (
    Router,
    Tally,
    attribution_share,
    rarity,
    tally,
    top_neurons,
    votes,
    whole_parameters,
)
from trelm_train.training.session import start_run


def router(model: MaskedLm, vocabulary: Vocabulary, **settings: object) -> Router:
    config = RoutingConfig(**{"policy": "ig", "probe_facts": 20, "share": 0.25, **settings})  # type: ignore[arg-type]
    return Router(config, model, vocabulary, seed=4)


def total(neurons: dict[int, torch.Tensor]) -> int:
    return sum(len(index) for index in neurons.values())


def test_votes_by_hand() -> None:
    attribution = torch.tensor(
        [[[1.0, 0.2, 0.1], [-3.0, 0.5, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, -1.0]]]
    )
    assert votes(attribution, 0.2).tolist() == [[1, 1, 0], [0, 1, 0]], (
        "no positive attribution, no vote"
    )


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
def test_policies_choose_as_many(
    policy: str, model: MaskedLm, vocabulary: Vocabulary, stream: BatchStream
) -> None:
    chosen = router(model, vocabulary, policy=policy).neurons(stream, Position())
    assert total(chosen) == round(0.25 * 3 * 64)
    again = router(model, vocabulary, policy=policy).neurons(stream, Position())
    for layer, index in chosen.items():
        assert torch.equal(index, again[layer])
        assert torch.equal(index, index.sort().values)
    if policy == "top_layers":
        assert {layer: len(index) for layer, index in chosen.items()} == {0: 0, 1: 0, 2: 48}


def test_all_neurons_and_the_layer_budget(
    model: MaskedLm, vocabulary: Vocabulary, stream: BatchStream
) -> None:
    assert total(router(model, vocabulary, policy="ffn_all").neurons(stream, Position())) == 3 * 64
    for policy in ("ig", "random"):
        narrow = router(model, vocabulary, policy=policy, layer_budget=1, share=0.9).neurons(
            stream, Position()
        )
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


def test_rarity_by_hand() -> None:
    """Of 3 background probes 0, 1, 2 and 3 vote: ln 4, ln 2, ln 4/3, ln 1."""
    share = torch.tensor([[0.0, 1 / 3, 2 / 3, 1.0]])
    expected = [math.log(4), math.log(2), math.log(4 / 3), 0.0]
    assert rarity(share, 3, 1.0)[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert rarity(share, 3, 0.5)[0].tolist() == pytest.approx(
        [value**0.5 for value in expected], abs=1e-3
    )
    assert rarity(share, 3, 0.0)[0].tolist() == [1.0, 1.0, 1.0, 1.0]


def test_what_every_sentence_uses_is_not_chosen(model: MaskedLm, vocabulary: Vocabulary) -> None:
    made = router(model, vocabulary, background_weight=1.0)
    made.votes_LI = torch.tensor([[0.9, 0.5, 0.5], [0.1, 0.0, 0.0]])
    made.strength_LI = torch.tensor([[3.0, 1.0, 2.0], [1.0, 0.0, 0.0]])
    made.background_LI = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    made.num_background = 3
    votes_LI, strength_LI = made.scores()
    assert votes_LI.flatten().tolist() == pytest.approx(
        [0.0, 0.5 * math.log(4), 0.5 * math.log(4), 0.1 * math.log(4), 0.0, 0.0]
    )
    assert strength_LI[0].tolist() == pytest.approx([0.0, math.log(4), 2 * math.log(4)])
    chosen = top_neurons(made.scores(), 1, first_layer=0, seed=0)
    assert {layer: index.tolist() for layer, index in chosen.items()} == {0: [2], 1: []}


def test_the_background_is_counted_apart(
    model: MaskedLm, vocabulary: Vocabulary, plain_stream: BatchStream
) -> None:
    """The votes of facts are those without it; the background's are those of its own probes."""
    without = router(model, vocabulary, probe_at="tail")
    without.refresh(plain_stream, Position())
    made = router(model, vocabulary, probe_at="tail", background_weight=1.0)
    made.refresh(plain_stream, Position())
    assert made.votes_LI is not None
    assert made.strength_LI is not None
    assert torch.equal(made.votes_LI, without.scores()[0])
    assert torch.equal(made.strength_LI, without.scores()[1])

    probes = upcoming_probes(
        plain_stream.iterate(Position()), vocabulary, seed=4, limit=20, start=Position(), kind=BACKGROUND
    )  # fmt: skip
    expected, _, num_probes = made.count_votes(probes, plain_stream).means((3, 64))
    assert made.background_LI is not None
    assert torch.equal(made.background_LI, expected)
    assert made.num_background == num_probes == len(probes)
    assert not torch.equal(made.scores()[0], made.votes_LI)


def test_a_smoothed_background_survives_a_round_trip(
    model: MaskedLm, vocabulary: Vocabulary, plain_stream: BatchStream
) -> None:
    settings = {"background_weight": 0.5, "probe_at": "tail"}
    first = router(model, vocabulary, **settings)
    first.neurons(plain_stream, Position())
    restored = router(model, vocabulary, **settings)
    restored.load({name: tensor.clone() for name, tensor in first.state().items()})
    assert set(first.state()) == {"votes", "strength", "background"}
    left, right = (made.neurons(plain_stream, Position(epoch=1)) for made in (first, restored))
    assert all(torch.equal(left[layer], right[layer]) for layer in left)
    assert all(torch.equal(restored.state()[name], value) for name, value in first.state().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"background_weight": 1.0}, "sentences without a mention"),
        ({"probe_at": "tail"}, "sentences that state facts"),
    ],
)
def test_shards_without_what_is_asked(
    settings: dict[str, object],
    message: str,
    model: MaskedLm,
    vocabulary: Vocabulary,
    stream: BatchStream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every sentence of the world has a mention; this one states no fact."""
    lists = {
        "ids": [[2, 7, 8, 3]], "words": [[1, 2]], "span_start": [[1]], "span_end": [[2]],
        "span_entity": [[5]], "span_policies": [[0]],
    }  # fmt: skip
    batch = assemble(sentences_from_lists(lists), [[0]], Position(), 0)
    bare = BatchStream(
        stream.shards, Packing(max_tokens=48, batch_tokens=96, limit=64), seed=0, pad_id=0
    )
    monkeypatch.setattr(bare, "iterate", lambda _: iter([(batch, Position(epoch=2))]))
    with pytest.raises(TrelmError, match=message):
        router(model, vocabulary, **settings).neurons(bare, Position())


def test_when_a_refresh_is_due(model: MaskedLm, vocabulary: Vocabulary) -> None:
    ig, random = (
        router(model, vocabulary, policy=policy, refresh_every=10) for policy in ("ig", "random")
    )
    assert [step for step in range(25) if ig.due(step)] == [0, 10, 20]
    assert [step for step in range(25) if random.due(step)] == [0]


def test_a_tally_is_whole_numbers(model: MaskedLm) -> None:
    """Mean votes and mean positive attribution come back, to 2^-30 per example."""
    rng = torch.Generator().manual_seed(0)
    attribution = torch.randn(7, 3, 64, generator=rng) * 0.01
    counted = tally(attribution, 0.2)
    assert counted.counts.dtype == torch.int64
    votes_LI, strength_LI, num_examples = counted.means((3, 64))
    assert num_examples == 7
    assert torch.allclose(votes_LI, votes(attribution, 0.2) / 7)
    assert torch.allclose(strength_LI, attribution.clamp(min=0).mean(0), atol=2**-30)


@dataclass(frozen=True, kw_only=True)
class Others:
    """Ranks whose counts are known beforehand."""

    rank: int
    size: int
    # One for each tensor that is summed.
    counts: tuple[torch.Tensor, ...]

    def sum_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        for tensor, count in zip(tensors, self.counts, strict=True):
            tensor += count


@pytest.mark.parametrize("size", [2, 3, 5])
def test_any_number_of_ranks_gives_the_same_bits(
    size: int,
    model: MaskedLm,
    vocabulary: Vocabulary,
    stream: BatchStream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "trelm_train.routing.probes.CHUNK_TOKENS", 64
    )  # many chunks, also of so few probes
    alone = router(model, vocabulary)
    chosen = alone.neurons(stream, Position())
    probes = upcoming_probes(
        stream.iterate(Position()), vocabulary, seed=4, limit=20, start=Position()
    )
    shares = [
        router(model, vocabulary).count_votes(probes, stream, Ranks(rank=rank, size=size))
        for rank in range(size)
    ]
    assert sum(share.means((3, 64))[2] for share in shares) == 20
    assert all(share.means((3, 64))[2] for share in shares), "every rank has something to do"
    for rank in range(size):
        others = torch.stack(
            [share.counts for number, share in enumerate(shares) if number != rank]
        ).sum(0)
        mine = router(model, vocabulary)
        ranks = Others(rank=rank, size=size, counts=(others,))
        found = mine.neurons(stream, Position(), ranks)
        assert all(torch.equal(found[layer], index) for layer, index in chosen.items())
        assert all(torch.equal(mine.state()[name], value) for name, value in alone.state().items())


def test_any_number_of_ranks_gives_the_same_bits_with_a_background(
    model: MaskedLm,
    vocabulary: Vocabulary,
    plain_stream: BatchStream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trelm_train.routing.probes.CHUNK_TOKENS", 64)
    settings = {"background_weight": 1.0, "probe_at": "tail"}
    alone = router(model, vocabulary, **settings)
    chosen = alone.neurons(plain_stream, Position())
    shares = []
    for rank in range(3):
        made = router(model, vocabulary, **settings)
        ranks = Ranks(rank=rank, size=3)
        shares.append(
            tuple(
                made.count_votes(
                    made._probes(kind, plain_stream, Position()), plain_stream, ranks
                ).counts
                for kind in (TAIL, BACKGROUND)
            )
        )
    assert all(int(counts[-1]) for share in shares for counts in share), "every rank has some"
    for rank in range(3):
        rest = [share for number, share in enumerate(shares) if number != rank]
        counts = tuple(torch.stack(column).sum(0) for column in zip(*rest, strict=True))
        mine = router(model, vocabulary, **settings)
        selected = mine.neurons(plain_stream, Position(), Others(rank=rank, size=3, counts=counts))
        assert all(torch.equal(selected[layer], index) for layer, index in chosen.items())
        assert all(torch.equal(mine.state()[name], value) for name, value in alone.state().items())


def test_nothing_found_is_zero_not_a_division_by_it() -> None:
    votes_LI, _, num_examples = Tally(counts=torch.zeros(2 * 6 + 1, dtype=torch.int64)).means(
        (2, 3)
    )
    assert num_examples == 0
    assert not votes_LI.any()


@pytest.mark.parametrize("policy", ["ig", "random", "top_layers", "ffn_all"])
@pytest.mark.parametrize("budget", [0, 1, 2])
@pytest.mark.parametrize("share", [0.01, 0.4, 1.0])
def test_budgets_hold(
    policy: str,
    budget: int,
    share: float,
    model: MaskedLm,
    vocabulary: Vocabulary,
    stream: BatchStream,
) -> None:
    made = router(model, vocabulary, policy=policy, layer_budget=budget, share=share, probe_facts=4)
    chosen = made.neurons(stream, Position())
    layers = budget or 3
    wanted = layers * 64 if policy == "ffn_all" else min(layers * 64, round(share * 3 * 64))
    assert total(chosen) == wanted
    assert not any(len(chosen[layer]) for layer in range(3 - layers))
    assert all(len(index.unique()) == len(index) for index in chosen.values())


def test_bfloat16_layers_choose_much_the_same(
    model: MaskedLm, vocabulary: Vocabulary, stream: BatchStream
) -> None:
    exact, narrow = (
        router(model, vocabulary, precision=precision).neurons(stream, Position())
        for precision in ("float32", "bfloat16")
    )
    same = sum(int(torch.isin(exact[layer], narrow[layer]).sum()) for layer in exact)
    assert same >= 0.8 * total(exact)


def test_full_has_no_router_and_others_have(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    for policy, routed in (("full", False), ("top_layers", True)):
        session = start_run(
            request_for(shards_path, model_path, tmp_path / policy, f"routing.policy={policy}")
        )
        assert (session.router is not None) == routed
        assert (session.components.sparse is not None) == routed


def test_shards_without_mentions(
    model: MaskedLm, vocabulary: Vocabulary, stream: BatchStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = assemble(sentences_from_lists({"ids": [[2, 7, 3]]}), [[0]], Position(), 0)
    bare = BatchStream(
        stream.shards, Packing(max_tokens=48, batch_tokens=96, limit=64), seed=0, pad_id=0
    )
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
def test_everything_else_is_frozen_but_for_its_switch(
    switch: str, names: set[str], model: MaskedLm
) -> None:
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


def test_what_attribution_will_take(caplog: pytest.LogCaptureFixture) -> None:
    """The figures of docs/routing.md: cheap at the defaults, dear with small batches; the warning proposes enough."""
    from trelm_train.training.train import _warn_of_costly_routing

    assert attribution_share(RoutingConfig(policy="ig"), 4096) == pytest.approx(0.014, abs=0.002)
    small = attribution_share(RoutingConfig(policy="ig"), 512)
    assert 0.05 < small < 0.15
    assert attribution_share(RoutingConfig(policy="ig", context="exact"), 4096) == pytest.approx(
        0.054, abs=0.005
    )
    assert attribution_share(RoutingConfig(policy="random"), 512) == 0.0
    twice = RoutingConfig(policy="ig", probe_facts=512)
    with_background = RoutingConfig(policy="ig", background_weight=0.3)
    assert attribution_share(with_background, 4096) == attribution_share(twice, 4096)
    with caplog.at_level("WARNING", logger="trelm_train.training.train"):
        _warn_of_costly_routing(load_config(None, ["routing.policy=ig", "train.batch_tokens=512"]))
        _warn_of_costly_routing(load_config(None, ["routing.policy=ig"]))
    (line,) = caplog.messages
    proposed = int(line.partition("refresh_every=")[2].split()[0])
    assert attribution_share(RoutingConfig(policy="ig", refresh_every=proposed), 512) <= 0.05
    assert attribution_share(RoutingConfig(policy="ig", refresh_every=proposed - 2), 512) > 0.05
