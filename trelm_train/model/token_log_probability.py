"""Compute log P of the gold token at some positions, with one pass over the vocabulary each way.

The library's cross-entropy passes over M x V three times backward (a zeroed gradient, the gold
entries, log-softmax). Here the forward pass keeps the probabilities, and the backward pass scales
them where they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trelm_train.model.protocols import AutogradContext

# Below this probability float32 has few digits left, or none.
VANISHED = 1e-30
# Of logits that are in float32 at a time; they fit into the processor's cache.
ROWS = 16
# Legend: M positions, H hidden size, V vocabulary.


class GoldLogProbability(torch.autograd.Function):
    """Compute `log softmax(logits)[gold]`, as M."""

    @staticmethod
    def forward(ctx: AutogradContext, logits_MV: Tensor, gold_M: Tensor) -> Tensor:
        """Compute the logarithm, also where the probability of the gold token has vanished."""
        p_MV, log_p_M = _probabilities(logits_MV, gold_M)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(p_MV, gold_M)
        return log_p_M

    @staticmethod
    def backward(ctx: AutogradContext, *grads: Tensor) -> tuple[Tensor, None]:
        """Return `grad (1[gold] - p)`, which overwrites the probabilities: a graph serves once."""
        p_MV, gold_M = ctx.saved_tensors
        grad_M1 = grads[0][:, None]
        p_MV.mul_(-grad_M1)
        return p_MV.scatter_add_(1, gold_M[:, None], grad_M1), None


def _probabilities(logits_MV: Tensor, gold_M: Tensor) -> tuple[Tensor, Tensor]:
    """Return all probabilities, and the logarithms of those of the gold tokens."""
    p_MV = torch.softmax(logits_MV, -1)
    p_M = p_MV.gather(1, gold_M[:, None])[:, 0]
    log_p_M = p_M.log()

    # Where it has vanished, the likeliest token gives the normaliser: log p + normaliser is its
    # logit, and its probability has all digits.
    gone_M = p_M < VANISHED
    if bool(gone_M.any()):
        logits, gold, p = logits_MV[gone_M], gold_M[gone_M], p_MV[gone_M]
        largest, likeliest = p.max(-1, keepdim=True)
        normaliser = logits.gather(1, likeliest) - largest.log()
        log_p_M[gone_M] = (logits.gather(1, gold[:, None]) - normaliser)[:, 0]
    return p_MV, log_p_M


class HeadLogProbability(torch.autograd.Function):
    """Compute `log softmax(states W^T + b)[gold]` with products in bfloat16, as M.

    The logits exist in bfloat16 only, a few rows at a time in float32. Their gradient takes their
    place at once, up to what each position weighs in the loss; the backward pass weighs the small
    factors of its two products by that.
    """

    @staticmethod
    def forward(
        ctx: AutogradContext, states_MH: Tensor, weight_VH: Tensor, bias_V: Tensor, gold_M: Tensor
    ) -> Tensor:
        """Compute the logarithm; keep `softmax(logits) - 1[gold]` for the backward pass."""
        states, weight = states_MH.to(torch.bfloat16), weight_VH.to(torch.bfloat16)
        change_MV = F.linear(states, weight, bias_V.to(torch.bfloat16))
        log_p_M = torch.empty(len(gold_M), device=gold_M.device)
        # On a GPU all at once, since each part waits for it.
        step = ROWS if states.device.type == "cpu" else len(gold_M)
        for start in range(0, len(gold_M), step):
            rows = slice(start, start + step)
            log_p_M[rows], change_MV[rows] = _change(change_MV[rows].float(), gold_M[rows])

        if any(ctx.needs_input_grad):
            ctx.save_for_backward(change_MV, states, weight)
        return log_p_M

    @staticmethod
    def backward(ctx: AutogradContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of states, weights and bias, in float32."""
        change_MV, states_MH, weight_VH = ctx.saved_tensors
        factor_M1 = -grads[0][:, None]
        grad_states = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_states = (change_MV @ weight_VH).float() * factor_M1
        if ctx.needs_input_grad[1]:
            grad_weight = (change_MV.T @ (states_MH * factor_M1).to(change_MV.dtype)).float()
        if ctx.needs_input_grad[2]:
            grad_bias = (factor_M1.T.to(change_MV.dtype) @ change_MV)[0].float()
        return grad_states, grad_weight, grad_bias, None


def _change(logits_MV: Tensor, gold_M: Tensor) -> tuple[Tensor, Tensor]:
    """Return log P of the gold tokens, and `softmax(logits) - 1[gold]`."""
    p_MV, log_p_M = _probabilities(logits_MV, gold_M)
    # Before it is rounded: near 1 the difference would lose its digits.
    p_MV.scatter_add_(1, gold_M[:, None], -p_MV.new_ones(len(gold_M), 1))
    return log_p_M, p_MV


def head_log_probabilities(
    states_MH: Tensor, weight_VH: Tensor, bias_V: Tensor, gold_M: Tensor
) -> Tensor:
    """Return log P of the gold tokens by the last linear map of the head, as M, in bfloat16."""
    log_p_M: Tensor = HeadLogProbability.apply(states_MH, weight_VH, bias_V, gold_M)  # type: ignore[no-untyped-call]
    return log_p_M


def gold_log_probabilities(logits_MV: Tensor, gold_M: Tensor) -> Tensor:
    """Return log P of the gold tokens, as M, from float32 logits.

    A second backward pass through it is refused by torch.
    """
    log_p_M: Tensor = GoldLogProbability.apply(logits_MV, gold_M)  # type: ignore[no-untyped-call]
    return log_p_M
