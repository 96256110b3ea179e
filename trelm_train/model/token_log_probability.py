"""Compute log P of the gold token at some positions, with one pass over the vocabulary each way.

The library's cross-entropy passes over M x V three times backward (a zeroed gradient, the gold
entries, log-softmax). Here the forward pass keeps the probabilities, and the backward pass scales
them where they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trelm_train.model.protocols import AutogradContext

# Below this probability float32 has few digits left, or none.
VANISHED = 1e-30
# Legend: M positions, V vocabulary.


class GoldLogProbability(torch.autograd.Function):
    """Compute `log softmax(logits)[gold]`, as M."""

    @staticmethod
    def forward(ctx: AutogradContext, logits_MV: Tensor, gold_M: Tensor) -> Tensor:
        """Compute the logarithm, also where the probability of the gold token has vanished."""
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


def gold_log_probabilities(logits_MV: Tensor, gold_M: Tensor) -> Tensor:
    """Return log P of the gold tokens, as M, from float32 logits.

    A second backward pass through it is refused by torch.
    """
    log_p_M: Tensor = GoldLogProbability.apply(logits_MV, gold_M)  # type: ignore[no-untyped-call]
    return log_p_M
