from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trelm_train import world
from tests.trelm_train.conftest import request_for, step_on
from trelm_train.config import RoutingConfig, TrainConfig
from trelm_train.data.loader import Batch
from trelm_train.model.families import FAMILIES
from trelm_train.model.masked_lm import MaskedLm
from trelm_train.optim import BETAS, EPSILON
from trelm_train.routing.router import whole_parameters
from trelm_train.routing.sparse_ffn import SETTLED, LayerRows, SparseFfn
from trelm_train.training.session import start_run

CHOSEN = {0: torch.tensor([1, 2]), 1: torch.tensor([0, 5, 9])}
TOP = {1: torch.tensor([0, 5, 9])}


def made(family: str, vocab_size: int) -> MaskedLm:
    model = MaskedLm(world.make_family(family, vocab_size), torch.device("cpu"))
    whole_parameters(model, RoutingConfig())
    model.hf.eval()
    return model


def sparse_of(
    model: MaskedLm, neurons: dict[int, Tensor] | None = None, **settings: float
) -> SparseFfn:
    config = TrainConfig(**{"learning_rate": 0.01, "weight_decay": 0.1, **settings})  # type: ignore[arg-type]
    sparse = SparseFfn(model, config, rate_scale=1.0)
    sparse.select(CHOSEN if neurons is None else neurons)
    return sparse


@pytest.fixture
def sparse(tokenizer: object, model: MaskedLm) -> SparseFfn:
    whole_parameters(model, RoutingConfig())
    return sparse_of(model)


def loss_of(model: MaskedLm, batch: Batch) -> Tensor:
    hidden = model.encode(model.pack(batch)).float()
    return (hidden**2).sum() * 0.01 + hidden.sin().sum()


def dense_gradients(rows: LayerRows) -> dict[str, Tensor]:
    ffn = rows.ffn
    found = {"in_weight_JH": ffn.w_in.weight.grad, "out_weight_KH": ffn.w_out.weight.grad}
    assert found["in_weight_JH"] is not None
    assert found["out_weight_KH"] is not None
    dense = {
        "in_weight_JH": found["in_weight_JH"][rows.rows_J],
        "out_weight_KH": found["out_weight_KH"].T[rows.index_K],
    }
    if ffn.w_in.bias is not None:
        assert ffn.w_in.bias.grad is not None
        dense["in_bias_J"] = ffn.w_in.bias.grad[rows.rows_J]
    return dense


def both(
    model: MaskedLm, sparse: SparseFfn, backward: Callable[[], None]
) -> list[tuple[Tensor, Tensor]]:
    """Gradients of the copies, and the dense ones restricted to their rows, of the same backward
    passes.
    """
    with sparse.patched():
        backward()
    assert all(parameter.grad is None for parameter in model.hf.parameters()), (
        "no weight gradient of anything else"
    )
    for parameter in model.hf.parameters():
        parameter.requires_grad_()
    backward()
    pairs = []
    for rows in sparse.rows.values():
        dense = dense_gradients(rows)
        assert set(dense) == set(rows.values)
        for name, value in rows.values.items():
            assert value.grad is not None
            pairs.append((value.grad, dense[name]))
    return pairs


def relative(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_gradients_are_the_dense_ones_restricted(
    family: str, vocab_size: int, batch: Batch
) -> None:
    model = made(family, vocab_size)
    pairs = both(model, sparse_of(model), lambda: torch.autograd.backward(loss_of(model, batch)))
    assert max(relative(ours, dense) for ours, dense in pairs) <= 1e-6


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_they_are_with_dropout_over_several_backward_passes(
    family: str, vocab_size: int, batch: Batch
) -> None:
    """The same random state draws the same dropout, so the patched forward must ask for it in the
    same order.
    """
    model = made(family, vocab_size)
    model.hf.train()

    def backward() -> None:
        torch.manual_seed(5)
        for _ in range(3):
            torch.autograd.backward(loss_of(model, batch))

    pairs = both(model, sparse_of(model), backward)
    assert max(relative(ours, dense) for ours, dense in pairs) <= 1e-6


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_under_autocast_they_are_the_dense_ones_of_autocast(
    family: str, vocab_size: int, batch: Batch
) -> None:
    """bfloat16 keeps 8 bits; the copies' gradients are float32, as a dense weight's are."""
    model = made(family, vocab_size)
    hidden = {}

    def backward() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, batch)
        hidden[len(hidden)] = loss.detach()
        torch.autograd.backward(loss)

    pairs = both(model, sparse_of(model), backward)
    assert torch.equal(hidden[0], hidden[1]), "the same forward"
    assert all(ours.dtype == torch.float32 for ours, _ in pairs)
    assert max(relative(ours, dense) for ours, dense in pairs) <= 2**-7
    exact = made(family, vocab_size)
    wanted = both(exact, sparse_of(exact), lambda: torch.autograd.backward(loss_of(exact, batch)))
    assert (
        max(relative(ours, dense) for (ours, _), (_, dense) in zip(pairs, wanted, strict=True))
        > 2**-9
    )


def test_the_forward_is_unchanged_and_the_patch_ends(
    model: MaskedLm, batch: Batch, sparse: SparseFfn
) -> None:
    before = model.encode(model.pack(batch))
    ffn = model.family.ffn(1)

    def fail() -> None:
        with sparse.patched():
            assert "forward" in ffn.w_in.__dict__
            assert torch.equal(model.encode(model.pack(batch)), before)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert not any("forward" in module.__dict__ for module in model.hf.modules())


def test_the_output_bias_can_be_trained_beside(
    model: MaskedLm, batch: Batch, sparse: SparseFfn
) -> None:
    bias = model.layers[1].output.dense.bias.requires_grad_()
    with sparse.patched():
        torch.autograd.backward(loss_of(model, batch))
    routed = bias.grad.clone()
    bias.grad = None
    torch.autograd.backward(loss_of(model, batch))
    assert torch.allclose(routed, bias.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_backward_stops_at_the_lowest_selected_layer(
    family: str, vocab_size: int, batch: Batch
) -> None:
    """Nothing below is in the graph: no node for it, and no tensor of its size is kept for the
    backward pass.
    """
    model = made(family, vocab_size)
    sparse = sparse_of(model, TOP)
    seen: dict[int, bool] = {}
    saved: list[int] = []
    first = len(model.layers[:1])

    def entering(layer: int, inputs: tuple[Tensor, ...]) -> None:
        seen[layer] = inputs[0].requires_grad
        if layer == first:
            assert not saved, "something below the lowest selected layer was kept"

    handles = [
        layer.register_forward_pre_hook(lambda _m, inputs, number=number: entering(number, inputs))
        for number, layer in enumerate(model.layers)
    ]

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with sparse.patched(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(model, batch)
    for handle in handles:
        handle.remove()
    assert seen == {layer: layer > first for layer in range(model.num_layers)}
    assert saved
    leaves = leaves_of(loss)
    assert leaves == set(map(id, sparse.parameters())), "the graph ends in the copies alone"


def leaves_of(loss: Tensor) -> set[int]:
    """Every leaf that the backward pass of a loss reaches."""
    leaves, todo, done = set(), [loss.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in done:
            continue
        done.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        todo += [following for following, _ in node.next_functions]
    return leaves


def test_w_out_keeps_the_selected_neurons_only(
    model: MaskedLm, batch: Batch, sparse: SparseFfn
) -> None:
    tokens, inner = batch.input_ids_RS.size, model.inner_size
    kept: list[torch.Size] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    sparse.select({2: torch.tensor([1, 2, 3])})
    with sparse.patched(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_of(model, batch)
    wide = [shape for shape in kept if shape.numel() == tokens * inner]
    assert len(wide) == 1, "what the activation needs, and no second tensor of that size"
    assert torch.Size([tokens, 3]) in kept


def steps_of(sparse: SparseFfn, model: MaskedLm, batch: Batch, count: int) -> None:
    for _ in range(count):
        with sparse.patched():
            torch.autograd.backward(loss_of(model, batch))
        sparse.step(1.0)
        sparse.zero_grad()


def own(rows: LayerRows, tensors: list[Tensor], neuron: int) -> list[Tensor]:
    """What belongs to one neuron in tensors like those of `rows.values`."""
    at = rows.index_K.tolist().index(neuron)
    return [
        tensor.detach().view(len(tensor) // len(rows.index_K), len(rows.index_K), -1)[:, at].clone()
        for tensor in tensors
    ]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_updates_are_adamw_each_neuron_at_its_own_step(
    family: str, vocab_size: int, batch: Batch
) -> None:
    """Two steps, a refresh, three steps: torch's AdamW for one neuron at a time, on the gradients
    that were used.
    """
    model = made(family, vocab_size)
    sparse = sparse_of(model, {1: torch.tensor([2, 5, 9])})
    wanted: dict[int, tuple[list[torch.nn.Parameter], torch.optim.AdamW]] = {}

    for step, selected in enumerate(((2, 5, 9), None, (4, 5, 9, 20), None, None)):
        if selected is not None:
            sparse.select({1: torch.tensor(selected)})
        rows = sparse.rows[1]
        with sparse.patched():
            torch.autograd.backward(loss_of(model, batch))
        gradients = sparse.gradients()
        for neuron in rows.index_K.tolist():
            if neuron not in wanted:
                values = [
                    torch.nn.Parameter(part) for part in own(rows, [*rows.values.values()], neuron)
                ]
                decays = [0.0 if name == "in_bias_J" else 0.1 for name in rows.values]
                groups = [
                    {"params": [v], "weight_decay": d} for v, d in zip(values, decays, strict=True)
                ]
                wanted[neuron] = (
                    values,
                    torch.optim.AdamW(groups, lr=0.005, betas=BETAS, eps=EPSILON),
                )
            values, adamw = wanted[neuron]
            for value, gradient in zip(values, own(rows, gradients, neuron), strict=True):
                value.grad = gradient
            adamw.step()
        sparse.step(0.5)
        sparse.zero_grad()
        for neuron in rows.index_K.tolist():
            for ours, theirs in zip(
                own(rows, [*rows.values.values()], neuron), wanted[neuron][0], strict=True
            ):
                assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6), (step, neuron)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_survivors_keep_their_moments_and_newcomers_start_at_zero(
    family: str, vocab_size: int, batch: Batch
) -> None:
    model = made(family, vocab_size)
    sparse = sparse_of(model, {0: torch.tensor([7]), 1: torch.tensor([0, 5, 9])})
    steps_of(sparse, model, batch, 2)
    old = sparse.rows[1]
    sparse.select({1: torch.tensor([4, 5, 9, 20])})
    rows = sparse.rows[1]
    assert rows.index_K.tolist() == [5, 9, 4, 20], (
        "longest trained first, so that equal step counts are one run"
    )
    assert rows.steps_K.tolist() == [2, 2, 0, 0]
    assert rows.runs == [(0, 2, 2.0), (2, 4, 0.0)]
    for name, moment in rows.moments.items():
        parts = rows.ffn.rows_per_neuron if "in_" in name else 1
        now, before = moment.view(parts, 4, -1), old.moments[name].view(parts, 3, -1)
        assert torch.equal(now[:, :2], before[:, 1:])
        assert before[:, 1:].any()
        assert not now[:, 2:].any()
    assert 0 not in sparse.rows
    sparse.select({0: torch.tensor([7]), 1: torch.tensor([5])})
    assert sparse.rows[0].steps_K.tolist() == [0], "who leaves and comes back is a newcomer"


def test_settled_step_counts_are_one_run(model: MaskedLm) -> None:
    """From SETTLED on both corrections are 1 to the last bit, so counts beyond it need not be kept
    apart.
    """
    assert 1 - BETAS[0] ** SETTLED == 1 - BETAS[1] ** SETTLED == 1.0
    sparse = sparse_of(model, {1: torch.tensor([0, 5, 9])})
    sparse.rows[1].steps_K = torch.tensor([SETTLED + 70.0, SETTLED + 3.0, 4.0])
    sparse.select({1: torch.tensor([0, 5, 9])})
    assert sparse.rows[1].runs == [(0, 2, float(SETTLED)), (2, 3, 4.0)]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_write_back_is_exact(family: str, vocab_size: int, batch: Batch) -> None:
    model = made(family, vocab_size)
    sparse = sparse_of(model)
    before = {name: value.detach().clone() for name, value in model.hf.named_parameters()}
    steps_of(sparse, model, batch, 3)
    changed = {
        name for name, value in model.hf.named_parameters() if not torch.equal(value, before[name])
    }
    assert {model.family.kind(name) for name in changed} == {"ffn"}
    for rows in sparse.rows.values():
        assert torch.equal(rows.ffn.w_in.weight[rows.rows_J], rows.values["in_weight_JH"])
        assert torch.equal(rows.ffn.w_out.weight[:, rows.index_K].T, rows.values["out_weight_KH"])
        if rows.ffn.w_in.bias is not None:
            assert torch.equal(rows.ffn.w_in.bias[rows.rows_J], rows.values["in_bias_J"])
        for linear, index, dim in (
            (rows.ffn.w_in, rows.rows_J, 0),
            (rows.ffn.w_out, rows.index_K, 1),
        ):
            name = next(key for key, value in model.hf.named_parameters() if value is linear.weight)
            rest = (
                torch.ones(linear.weight.shape[dim], dtype=torch.bool)
                .index_fill(0, index, False)
                .nonzero()[:, 0]
            )
            assert torch.equal(
                linear.weight.index_select(dim, rest), before[name].index_select(dim, rest)
            )


def test_a_step_without_gradients_changes_nothing(sparse: SparseFfn) -> None:
    before = [value.detach().clone() for value in sparse.parameters()]
    sparse.step(1.0)
    assert all(
        torch.equal(left, right) for left, right in zip(before, sparse.parameters(), strict=True)
    )
    assert not sparse.rows[1].steps_K.any()


def test_gradients_are_a_list_that_ranks_can_sum(
    model: MaskedLm, batch: Batch, sparse: SparseFfn
) -> None:
    assert [gradient.any().item() for gradient in sparse.gradients()] == [False] * len(
        sparse.parameters()
    )
    sparse.zero_grad()
    with sparse.patched():
        torch.autograd.backward(loss_of(model, batch))
    for gradient in sparse.gradients():
        gradient *= 2
    single = [value.grad.clone() / 2 for value in sparse.parameters() if value.grad is not None]
    sparse.zero_grad()
    with sparse.patched():
        torch.autograd.backward(loss_of(model, batch))
    assert all(
        torch.equal(ours, half) for ours, half in zip(sparse.gradients(), single, strict=True)
    )


def test_a_saved_state_goes_on_bit_for_bit(
    tokenizer: object, vocab_size: int, batch: Batch
) -> None:
    """Through a refresh, so that the step counts differ; and a second refresh after the restart."""
    results = []
    for restart in (False, True):
        model = made("bert", vocab_size)
        sparse = sparse_of(model)
        steps_of(sparse, model, batch, 2)
        sparse.select({0: torch.tensor([2, 3, 50]), 1: torch.tensor([4, 5, 9, 20])})
        steps_of(sparse, model, batch, 2)
        if restart:
            saved = {name: tensor.clone() for name, tensor in sparse.state().items()}
            sparse = sparse_of(model, {})
            sparse.load(saved)
        steps_of(sparse, model, batch, 2)
        sparse.select({0: torch.tensor([2, 60]), 1: torch.tensor([5, 20, 21])})
        steps_of(sparse, model, batch, 1)
        results.append({**dict(model.hf.named_parameters()), **sparse.state()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "family"), [("ig", "bert"), ("random", "roberta"), ("ig", "modernbert")]
)
def test_unselected_weights_stay_bit_identical(
    policy: str, family: str, tokenizer: object, shards_path: Path, tmp_path: Path
) -> None:
    """100 steps with weight decay, all components on: only the selected neurons differ from the
    checkpoint.
    """
    hf = world.make_family(family, len(tokenizer), tokenizer)  # type: ignore[arg-type]
    hf.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")  # type: ignore[attr-defined]
    request = request_for(
        shards_path, tmp_path / "model", tmp_path / "out", "train.steps=100", "train.weight_decay=0.1",
        "routing.refresh_every=40", "routing.share=0.1", f"routing.policy={policy}",
    )  # fmt: skip
    session = start_run(request)
    components, router = session.components, session.router
    assert components.sparse is not None
    assert router is not None
    before = {
        name: value.detach().clone() for name, value in components.model.hf.named_parameters()
    }
    allowed = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in before.items()}
    names = {id(value): name for name, value in components.model.hf.named_parameters()}
    batches = session.stream.iterate(session.position)
    for step in range(100):
        if router.due(step):
            components.sparse.select(router.neurons(session.stream, session.position))
            for rows in components.sparse.rows.values():
                allowed[names[id(rows.ffn.w_in.weight)]][rows.rows_J] = True
                allowed[names[id(rows.ffn.w_out.weight)]][:, rows.index_K] = True
                if rows.ffn.w_in.bias is not None:
                    allowed[names[id(rows.ffn.w_in.bias)]][rows.rows_J] = True
        batch, session.position = next(batches)
        step_on(session, batch, step)
    changed = 0
    for name, value in components.model.hf.named_parameters():
        differs = value != before[name]
        assert not bool((differs & ~allowed[name]).any()), f"{name} changed"
        changed += int(differs.sum())
    assert changed > 0
