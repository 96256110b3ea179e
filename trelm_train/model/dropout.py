"""Dropout on processors at a fraction of the usual cost, and how it is set.

The library draws one float per element; here 64 random bits serve four elements (16 each, so a probability is met to
1/65,536), and one byte per element is kept for the backward pass instead of four. On GPUs the library's own is used. Draws
come from torch's generator, so a seed fixes them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 65_536
PER_DRAW = 4


class _Drop(torch.autograd.Function):
    """`x * keep / share`, `keep` drawn for each element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float) -> Tensor:  # noqa: ANN401
        """A share of the elements as near to `probability` as 16 bits allow is dropped; the rest grow in proportion."""
        dropped = round(probability * LEVELS)
        bits = torch.empty(-(-x.numel() // PER_DRAW), dtype=torch.int64).random_(-(2**63), None)
        keep = bits.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - LEVELS // 2
        kept = keep.view(torch.uint8)
        ctx.save_for_backward(kept)
        ctx.scale = LEVELS / (LEVELS - dropped)
        return torch.mul(x, kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        """The same elements of the gradient."""
        return torch.mul(grads[0], ctx.saved_tensors[0]).mul_(ctx.scale), None


def drop(x: Tensor, probability: float) -> Tensor:
    """Dropout of training mode."""
    if probability <= 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    out: Tensor = _Drop.apply(x, probability)  # type: ignore[no-untyped-call]
    return out


class QuickDropout(nn.Dropout):
    """The library's module with the draw above."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop in training mode only."""
        return drop(x, self.p) if self.training else x


def set_dropout(hf: nn.Module, probability: float = -1.0) -> None:
    """Give a model the quick dropout, and all of it one probability; -1 keeps the model's own.

    Its configuration is left alone, so an exported model says what it said before.
    """
    for module in list(hf.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, QuickDropout(child.p if probability < 0 else probability))
        if probability >= 0 and isinstance(getattr(module, "attention_dropout", None), float):
            vars(module)["attention_dropout"] = probability  # what attention functions read


def attention_dropout(hf: nn.Module) -> float:
    """The probability that a model's attention weights are dropped with; the same in all layers."""
    for module in hf.modules():
        own = getattr(module, "attention_dropout", None)
        if isinstance(own, float):
            return own
        inner = getattr(module, "dropout", None)
        if type(module).__name__.endswith("SelfAttention") and isinstance(inner, nn.Dropout):
            return float(inner.p)
    return 0.0
