import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trelm_train.model.token_log_probability import gold_log_probabilities


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
