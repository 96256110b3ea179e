import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trelm_train.model.token_log_probability import (
    ROWS,
    gold_log_probabilities,
    head_log_probabilities,
)


@given(
    st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**31), st.sampled_from([0.1, 3.0, 60.0])
)
@settings(max_examples=40)
def test_it_is_cross_entropy(asked: int, vocabulary: int, seed: int, scale: float) -> None:
    """Also where the gold token's probability is 0 in float32 (scale 60)."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(asked, vocabulary, generator=rng) * scale
    gold = torch.randint(vocabulary, (asked,), generator=rng)
    weights = torch.rand(asked, generator=rng)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = gold_log_probabilities(ours, gold)
    wanted = -torch.nn.functional.cross_entropy(theirs, gold, reduction="none")
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)
    torch.autograd.backward((found * weights).sum())
    torch.autograd.backward((wanted * weights).sum())
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_a_graph_serves_once() -> None:
    """The probabilities are overwritten backward: a second pass is an error, not a wrong number."""
    logits = torch.randn(2, 5, requires_grad=True)
    found = gold_log_probabilities(logits, torch.tensor([1, 2])).sum()
    torch.autograd.backward(found, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(found)


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_the_head_in_bfloat16_is_that_of_autocast(scale: float) -> None:
    """Values and gradients of product and cross-entropy, over several parts of the rows.

    At scale 60 the gold token's probability vanishes in some rows, and is near 1 in others.
    """
    rng = torch.Generator().manual_seed(1)
    states = torch.randn(ROWS * 2 + 3, 16, generator=rng)
    weight = torch.randn(50, 16, generator=rng) * scale / 4
    bias = torch.randn(50, generator=rng)
    gold = torch.randint(50, (len(states),), generator=rng)
    gold[:5] = (states @ weight.T + bias)[:5].argmax(-1)
    share = torch.rand(len(states), generator=rng)

    leaves = [
        [value.clone().requires_grad_() for value in (states, weight, bias)] for _ in range(2)
    ]
    found = head_log_probabilities(*leaves[0], gold)
    with torch.autocast("cpu", torch.bfloat16):
        logits = torch.nn.functional.linear(*leaves[1])
    wanted = gold_log_probabilities(logits.float(), gold)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)

    for log_p in (found, wanted):
        torch.autograd.backward((log_p * share).sum())
    for ours, theirs in zip(*leaves, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).norm() < 0.01 * theirs.grad.norm()


def test_a_frozen_head_gets_no_gradient() -> None:
    """Where weights are frozen, as in routing, the states alone get one."""
    states, weight, bias = torch.randn(3, 4, requires_grad=True), torch.randn(7, 4), torch.zeros(7)
    torch.autograd.backward(head_log_probabilities(states, weight, bias, torch.arange(3)).sum())
    assert states.grad is not None
    assert weight.grad is None
    assert bias.grad is None
