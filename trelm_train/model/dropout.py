"""Drop hidden states on processors at a fraction of the usual cost, and set the probability.

The library draws one float per element. Here 64 random bits serve four elements (16 bits each, so a
probability is met to 1/65,536), and one byte per element is kept for the backward pass instead of
four. On GPUs the library's own dropout is used. Draws come from torch's generator, so a seed fixes
them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trelm_train.model.protocols import DropoutContext

# Values of 16 random bits, and how many of these 64 bits hold.
LEVELS = 65_536
PER_DRAW = 4


class _Drop(torch.autograd.Function):
    """Compute `x * keep / share`, with `keep` drawn for each element."""

    @staticmethod
    def forward(ctx: DropoutContext, x: Tensor, probability: float) -> Tensor:
        """Drop a share of the elements as near to `probability` as 16 bits allow.

        The other elements grow in proportion.
        """
        # The scale is that of the rounded probability, so that the mean stays exact.
        dropped = round(probability * LEVELS)
        bits = torch.empty(-(-x.numel() // PER_DRAW), dtype=torch.int64).random_(-(2**63), None)

        # Seen as 16-bit numbers the bits are evenly spread from -LEVELS / 2 up.
        draws = bits.view(torch.int16)[: x.numel()].view(x.shape)
        # In place, as numbers: a comparison that makes booleans takes three times as long.
        keep_bytes = draws.ge_(dropped - LEVELS // 2).to(torch.uint8)
        ctx.save_for_backward(keep_bytes)
        ctx.scale = LEVELS / (LEVELS - dropped)
        return torch.mul(x, keep_bytes).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: DropoutContext, *grads: Tensor) -> tuple[Tensor, None]:
        """Drop the same elements of the gradient."""
        return torch.mul(grads[0], ctx.saved_tensors[0]).mul_(ctx.scale), None


def drop(x: Tensor, probability: float) -> Tensor:
    """Apply dropout as in training mode."""
    if probability <= 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)

    dropped: Tensor = _Drop.apply(x, probability)  # type: ignore[no-untyped-call]
    return dropped


class QuickDropout(nn.Dropout):
    """Replace the library's module by one with the draw above."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop in training mode only."""
        return drop(x, self.p) if self.training else x


def set_dropout(hf: nn.Module, probability: float = -1.0) -> None:
    """Give a model the quick dropout, all of it with one probability; -1 keeps the model's own.

    Its configuration is left alone, so an exported model states what it stated before.
    """
    for module in list(hf.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                # Replaced in place: names and weights of the model stay as they are.
                setattr(module, name, QuickDropout(child.p if probability < 0 else probability))

        # Attention functions read this number instead of a module.
        if probability >= 0 and isinstance(getattr(module, "attention_dropout", None), float):
            vars(module)["attention_dropout"] = probability


def attention_dropout(hf: nn.Module) -> float:
    """Return the dropout probability of a model's attention weights, the same in all layers."""
    for module in hf.modules():
        # ModernBERT has a number, BERT and RoBERTa have a module in their self-attention.
        probability = getattr(module, "attention_dropout", None)
        if isinstance(probability, float):
            return probability

        inner = getattr(module, "dropout", None)
        if type(module).__name__.endswith("SelfAttention") and isinstance(inner, nn.Dropout):
            return float(inner.p)
    return 0.0
