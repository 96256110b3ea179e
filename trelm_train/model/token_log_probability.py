"""log P of the gold token at each asked position, with one pass over the vocabulary each way.

The library's cross-entropy passes over M x V three times backward (a zeroed gradient, the gold entries, log-softmax). Here
the forward pass keeps the probabilities, and the backward pass scales them where they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

VANISHED = 1e-30  # below it float32 has few digits left, or none
# Legend: M asked positions, V vocabulary.


class GoldLogProbability(torch.autograd.Function):
    """`log softmax(logits)[gold]`, as M."""

    @staticmethod
    def forward(ctx: Any, logits_MV: Tensor, gold_M: Tensor) -> Tensor:  # noqa: ANN401
        """Where the gold token's probability has vanished, its logarithm comes from the likeliest token's."""
        p_MV = torch.softmax(logits_MV, -1)
        p_M = p_MV.gather(1, gold_M[:, None])[:, 0]
        log_p_M = p_M.log()
        gone_M = p_M < VANISHED
        if bool(gone_M.any()):
            logits, gold, p = logits_MV[gone_M], gold_M[gone_M], p_MV[gone_M]
            largest, at = p.max(-1, keepdim=True)
            normaliser = logits.gather(1, at) - largest.log()
            log_p_M[gone_M] = (logits.gather(1, gold[:, None]) - normaliser)[:, 0]
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(p_MV, gold_M)
        return log_p_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        """`grad (1[gold] - p)`; the probabilities are overwritten, so a graph serves once."""
        p_MV, gold_M = ctx.saved_tensors
        grad_M1 = grads[0][:, None]
        p_MV.mul_(-grad_M1)
        return p_MV.scatter_add_(1, gold_M[:, None], grad_M1), None


def gold_log_probabilities(logits_MV: Tensor, gold_M: Tensor) -> Tensor:
    """log P of the gold tokens, as M; float32 logits. A second backward pass through it is refused by torch."""
    out_M: Tensor = GoldLogProbability.apply(logits_MV, gold_M)  # type: ignore[no-untyped-call]
    return out_M
