from pathlib import Path

import pytest
import torch

from tests.trelm_train.conftest import request_for
from trelm_train.config import RoutingConfig, TrainConfig
from trelm_train.loader import Batch
from trelm_train.model import MaskedLm
from trelm_train.optim import BETAS, EPSILON
from trelm_train.routing import whole_parameters
from trelm_train.session import start_run
from trelm_train.sparse_ffn import SparseFfn
from trelm_train.step import train_step

CHOSEN = {1: torch.tensor([0, 5, 9]), 2: torch.tensor([3, 60])}


@pytest.fixture
def sparse(model: MaskedLm) -> SparseFfn:
    whole_parameters(model, RoutingConfig())
    made = SparseFfn(model, TrainConfig(learning_rate=0.01, weight_decay=0.1), rate_scale=1.0)
    made.select(CHOSEN)
    return made


def loss_of(model: MaskedLm, batch: Batch) -> torch.Tensor:
    return (model.encode(model.pack(batch)) ** 2).sum() * 0.01 + model.encode(model.pack(batch)).sin().sum()


def test_the_forward_is_unchanged_and_the_patch_ends(model: MaskedLm, batch: Batch, sparse: SparseFfn) -> None:
    before = model.encode(model.pack(batch))
    with sparse.patched():
        assert "feed_forward_chunk" in model.layers[1].__dict__
        assert torch.allclose(model.encode(model.pack(batch)), before, atol=1e-6)
    assert not any("feed_forward_chunk" in layer.__dict__ for layer in model.layers)


def test_gradients_are_the_dense_ones_restricted(model: MaskedLm, batch: Batch, sparse: SparseFfn) -> None:
    with sparse.patched():
        torch.autograd.backward(loss_of(model, batch))
    for parameter in model.hf.parameters():
        assert parameter.grad is None
        parameter.requires_grad_()
    torch.autograd.backward(loss_of(model, batch))
    for layer, index in CHOSEN.items():
        values = sparse.rows[layer].values
        wide, narrow = model.layers[layer].intermediate.dense, model.layers[layer].output.dense
        for name, dense in (
            ("in_weight_KH", wide.weight.grad[index]),
            ("in_bias_K", wide.bias.grad[index]),
            ("out_weight_KH", narrow.weight.grad.T[index]),
        ):
            gradient = values[name].grad
            assert gradient is not None
            assert float((gradient - dense).abs().max() / dense.abs().max()) <= 1e-6


def test_the_output_bias_can_be_trained_beside(model: MaskedLm, batch: Batch, sparse: SparseFfn) -> None:
    bias = model.layers[2].output.dense.bias.requires_grad_()
    with sparse.patched():
        torch.autograd.backward(loss_of(model, batch))
    routed = bias.grad.clone()
    bias.grad = None
    torch.autograd.backward(loss_of(model, batch))
    assert torch.allclose(routed, bias.grad, rtol=1e-5, atol=1e-6)


def test_the_backward_stops_below_the_lowest_selected_layer(model: MaskedLm, batch: Batch, sparse: SparseFfn) -> None:
    sparse.select({2: torch.tensor([1, 2])})
    seen: dict[int, bool] = {}
    handles = [
        layer.register_forward_hook(lambda _m, _i, out, number=number: seen.__setitem__(number, out.requires_grad))
        for number, layer in enumerate(model.layers)
    ]
    with sparse.patched():
        model.encode(model.pack(batch))
    for handle in handles:
        handle.remove()
    assert seen == {0: False, 1: False, 2: True}


def test_one_update_is_adamw(model: MaskedLm, batch: Batch, sparse: SparseFfn) -> None:
    with sparse.patched():
        torch.autograd.backward(loss_of(model, batch))
    value = sparse.rows[1].values["in_weight_KH"]
    oracle = torch.nn.Parameter(value.detach().clone())
    adamw = torch.optim.AdamW([oracle], lr=0.005, betas=BETAS, eps=EPSILON, weight_decay=0.1)
    for _ in range(3):
        assert value.grad is not None
        oracle.grad = value.grad.clone()
        adamw.step()
        sparse.step(0.5)
    assert torch.allclose(value, oracle, atol=1e-6)
    assert torch.equal(model.layers[1].intermediate.dense.weight[CHOSEN[1]], value)


def test_survivors_keep_their_moments_and_newcomers_start_at_zero(
    model: MaskedLm, batch: Batch, sparse: SparseFfn
) -> None:
    with sparse.patched():
        torch.autograd.backward(loss_of(model, batch))
    sparse.step(1.0)
    sparse.step(1.0)
    old = sparse.rows[1].moments["mean/in_weight_KH"].clone()
    sparse.select({1: torch.tensor([4, 5, 9, 20])})
    rows = sparse.rows[1]
    assert rows.steps_K.tolist() == [0, 2, 2, 0]
    assert torch.equal(rows.moments["mean/in_weight_KH"][1:3], old[1:])
    assert not rows.moments["mean/in_weight_KH"][[0, 3]].any()
    assert 2 not in sparse.rows
    assert torch.equal(rows.values["in_weight_KH"], model.layers[1].intermediate.dense.weight[rows.index_K])


def test_a_step_without_gradients_changes_nothing(sparse: SparseFfn) -> None:
    before = [value.detach().clone() for value in sparse.parameters()]
    sparse.step(1.0)
    assert all(torch.equal(left, right) for left, right in zip(before, sparse.parameters(), strict=True))
    assert not sparse.rows[1].steps_K.any()


@pytest.mark.parametrize("policy", ["ig", "random"])
def test_unselected_weights_stay_bit_identical(
    policy: str, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    """100 steps with weight decay, all components on: only the selected neurons differ from the checkpoint."""
    request = request_for(
        shards_path, model_path, tmp_path / "out", "train.steps=100", "train.weight_decay=0.1",
        "routing.refresh_every=40", "routing.share=0.1", f"routing.policy={policy}",
    )  # fmt: skip
    session = start_run(request)
    parts, router = session.parts, session.router
    assert parts.sparse is not None
    assert router is not None
    before = {name: value.detach().clone() for name, value in parts.model.hf.named_parameters()}
    touched: dict[int, set[int]] = {}
    batches = session.stream.iterate(session.position)
    for step in range(100):
        if router.due(step):
            parts.sparse.select(router.neurons(session.stream, session.position))
            for layer, rows in parts.sparse.rows.items():
                touched.setdefault(layer, set()).update(rows.index_K.tolist())
        batch, session.position = next(batches)
        train_step(parts, batch, step)
    changed = 0
    for name, value in parts.model.hf.named_parameters():
        same = value == before[name]
        for layer, neurons in touched.items():
            index = sorted(neurons)
            if f"layer.{layer}.intermediate.dense" in name:
                changed += int((~same[index]).sum())
                same[index] = True
            elif f"layer.{layer}.output.dense.weight" in name:
                changed += int((~same[:, index]).sum())
                same[:, index] = True
        assert bool(same.all()), f"{name} changed"
    assert changed > 0
