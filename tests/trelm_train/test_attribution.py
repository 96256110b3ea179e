import numpy as np
import pytest
import torch
from torch import Tensor

from trelm_train.attribution import Targets, attribute, cached, probabilities, quadrature
from trelm_train.loader import Batch
from trelm_train.masking import Vocabulary
from trelm_train.model import MaskedLm, Packed
from trelm_train.routing import Probe, make_probe


@pytest.fixture
def probe(batch: Batch, vocabulary: Vocabulary) -> Probe:
    found = make_probe(batch, vocabulary, seed=1, limit=6)
    assert found is not None
    return found


def setting(model: MaskedLm, batch: Batch, probe: Probe) -> tuple[Packed, Targets]:
    return model.pack(batch, probe.input_ids_RS), probe.targets


@pytest.mark.parametrize("rule", ["midpoint", "gauss_legendre"])
def test_attributions_sum_to_the_gain_in_probability(rule: str, model: MaskedLm, batch: Batch, probe: Probe) -> None:
    """Completeness: |sum Attr - (P(v) - P(0))| <= .02 max(|P(v) - P(0)|, .01), per example and layer."""
    packed, targets = setting(model, batch, probe)
    attribution = attribute(model, packed, targets, quadrature(rule, 24))
    with model.evaluating(), torch.no_grad():
        cache = cached(model, packed, targets)
        for layer in range(model.num_layers):
            neurons = cache[layer].neurons_TI
            gain = probabilities(model, packed, targets, cache, (layer, neurons))
            gain = gain - probabilities(model, packed, targets, cache, (layer, torch.zeros_like(neurons)))
            missing = (attribution[:, layer].sum(-1) - gain).abs()
            assert (missing <= 0.02 * gain.abs().clamp(min=0.01)).all()


def test_the_cached_probability_is_the_models(model: MaskedLm, batch: Batch, probe: Probe) -> None:
    packed, targets = setting(model, batch, probe)
    with model.evaluating(), torch.no_grad():
        hidden = model.encode(packed).reshape(-1, model.hidden_size)[torch.from_numpy(targets.position_T)]
        log_p = torch.log_softmax(model.logits(hidden), -1).gather(1, torch.from_numpy(targets.gold_T)[:, None])[:, 0]
        product = torch.zeros(targets.num_examples).index_add(0, torch.from_numpy(targets.example_T), log_p).exp()
        cache = cached(model, packed, targets)
        for layer in range(model.num_layers):
            again = probabilities(model, packed, targets, cache, (layer, cache[layer].neurons_TI))
            assert torch.allclose(again, product, atol=1e-6)


def test_captum_agrees(model: MaskedLm, batch: Batch, probe: Probe) -> None:
    """Captum's integrated gradients of P(v_l := v) from the zero vector, one layer and one example at a time."""
    from captum.attr import IntegratedGradients

    packed, targets = setting(model, batch, probe)
    ours = attribute(model, packed, targets, quadrature("gauss_legendre", 8))
    for example in range(2):
        rows = np.flatnonzero(targets.example_T == example)
        one = Targets(
            position_T=targets.position_T[rows],
            example_T=np.zeros(len(rows), np.int64),
            gold_T=targets.gold_T[rows],
            num_examples=1,
        )
        with model.evaluating():
            cache = cached(model, packed, one)
            for layer in range(model.num_layers):
                neurons = cache[layer].neurons_TI

                def f(many: Tensor, layer: int = layer, one: Targets = one, cache: object = cache) -> Tensor:
                    shape = (len(one.position_T), -1)
                    return torch.cat([probabilities(model, packed, one, cache, (layer, v.view(shape))) for v in many])  # type: ignore[arg-type]

                oracle = IntegratedGradients(f).attribute(neurons.reshape(1, -1), n_steps=8, method="gausslegendre")
                wanted = oracle.view(len(rows), -1).sum(0).float()
                assert torch.allclose(ours[example, layer], wanted, atol=1e-5 * float(wanted.abs().max()) + 1e-8)


def test_one_midpoint_picks_nearly_the_same_neurons(model: MaskedLm, batch: Batch, probe: Probe) -> None:
    packed, targets = setting(model, batch, probe)
    exact = attribute(model, packed, targets, quadrature("gauss_legendre", 16)).sum(0).flatten()
    quick = attribute(model, packed, targets, quadrature("midpoint", 1)).sum(0).flatten()
    count = len(exact) // 10
    overlap = set(exact.topk(count).indices.tolist()) & set(quick.topk(count).indices.tolist())
    assert len(overlap) / count >= 0.7


def test_layers_below_the_first_stay_zero(model: MaskedLm, batch: Batch, probe: Probe) -> None:
    packed, targets = setting(model, batch, probe)
    top = attribute(model, packed, targets, quadrature("midpoint", 1), first_layer=2)
    assert not top[:, :2].any()
    every = attribute(model, packed, targets, quadrature("midpoint", 1))
    assert torch.allclose(top[:, 2], every[:, 2])


def test_nothing_is_left_behind(model: MaskedLm, batch: Batch, probe: Probe) -> None:
    model.hf.train()
    packed, targets = setting(model, batch, probe)
    attribute(model, packed, targets, quadrature("midpoint", 1))
    assert model.hf.training
    assert all(parameter.grad is None for parameter in model.hf.parameters())
    none = Targets(
        position_T=np.zeros(0, np.int64), example_T=np.zeros(0, np.int64), gold_T=np.zeros(0, np.int64), num_examples=0
    )
    assert attribute(model, packed, none, quadrature("midpoint", 1)).shape == (0, 3, 64)


@pytest.mark.parametrize(
    ("rule", "points"), [("midpoint", (0.25, 0.75)), ("left", (0.0, 0.5)), ("gauss_legendre", (0.2113249, 0.7886751))]
)
def test_quadrature(rule: str, points: tuple[float, float]) -> None:
    found = quadrature(rule, 2)
    assert found.points == pytest.approx(points)
    assert sum(found.weights) == pytest.approx(1.0)
