"""Training some FFN neurons alone: neuron i owns row i of W_in, b_in[i] and column i of W_out.

The selected rows are gathered into small tensors with their own AdamW moments and step counts; the full matrices stay
frozen and serve the forward pass, and the small tensors are written back after each step. Weight gradients of other
neurons are never computed, their weights never touched (masking gradients would save nothing, and AdamW would still
move masked weights). Below the lowest selected layer nothing requires a gradient, so the backward pass stops there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trelm_train.config import TrainConfig
from trelm_train.model import MaskedLm
from trelm_train.optim import BETAS, EPSILON

# Legend: K selected neurons of a layer, H hidden size, I inner size.

PARTS = ("in_weight_KH", "in_bias_K", "out_weight_KH")


class RoutedIn(torch.autograd.Function):
    """`x W_in^T + b_in`; weight gradients for the gathered rows only."""

    @staticmethod
    def forward(  # noqa: PLR0913
        ctx: Any,  # noqa: ANN401
        x_H: Tensor,
        full: tuple[Tensor, Tensor],
        index_K: Tensor,
        rows_KH: Tensor,  # noqa: ARG004 -- autograd wants them as inputs: they get the gradient
        bias_K: Tensor,  # noqa: ARG004
    ) -> Tensor:
        """The full linear map; `rows_KH` and `bias_K` equal the full ones at `index_K`."""
        ctx.save_for_backward(x_H, full[0], index_K)
        return F.linear(x_H, full[0], full[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor]:  # noqa: ANN401
        """Gradient of the input (if asked) and of the gathered rows."""
        x_H, weight_IH, index_K = ctx.saved_tensors
        grad_I = grads[0]
        grad_x = grad_I @ weight_IH if ctx.needs_input_grad[0] else None
        selected_TK = grad_I.reshape(-1, grad_I.shape[-1]).index_select(1, index_K)
        return grad_x, None, None, selected_TK.T @ x_H.reshape(-1, x_H.shape[-1]), selected_TK.sum(0)


class RoutedOut(torch.autograd.Function):
    """`v W_out^T + b_out`; weight gradients for the gathered columns only."""

    @staticmethod
    def forward(  # noqa: PLR0913
        ctx: Any,  # noqa: ANN401
        v_I: Tensor,
        weight_HI: Tensor,
        bias_H: Tensor,
        index_K: Tensor,
        columns_KH: Tensor,  # noqa: ARG004
    ) -> Tensor:
        """The full linear map; `columns_KH` equals the full transposed one at `index_K`."""
        ctx.save_for_backward(v_I, weight_HI, index_K)
        return F.linear(v_I, weight_HI, bias_H)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None, None, Tensor]:  # noqa: ANN401
        """Gradient of the neurons, of the bias (if it is trained) and of the gathered columns."""
        v_I, weight_HI, index_K = ctx.saved_tensors
        grad_H = grads[0]
        flat_TH = grad_H.reshape(-1, grad_H.shape[-1])
        grad_v = grad_H @ weight_HI if ctx.needs_input_grad[0] else None
        grad_bias = flat_TH.sum(0) if ctx.needs_input_grad[2] else None
        selected_TK = v_I.reshape(-1, v_I.shape[-1]).index_select(1, index_K)
        return grad_v, None, grad_bias, None, selected_TK.T @ flat_TH


class LayerRows:
    """The gathered neurons of one layer: trainable copies, moments, and a step count per neuron."""

    def __init__(self, layer: Any, index_K: Tensor) -> None:  # noqa: ANN401
        self.layer = layer
        self.index_K = index_K
        wide = layer.intermediate.dense
        full = {"in_weight_KH": wide.weight, "in_bias_K": wide.bias, "out_weight_KH": layer.output.dense.weight.T}
        self.values = {name: nn.Parameter(full[name].detach()[index_K].contiguous()) for name in PARTS}
        self.moments = {
            f"{moment}/{name}": torch.zeros_like(value)
            for name, value in self.values.items()
            for moment in ("mean", "square")
        }
        self.steps_K = torch.zeros(len(index_K), dtype=torch.float32, device=index_K.device)

    def carry(self, old: LayerRows) -> None:
        """Neurons that stay selected keep their moments and step counts; newcomers start at zero."""
        stays_K = torch.isin(self.index_K, old.index_K)
        place = torch.searchsorted(old.index_K, self.index_K[stays_K])
        for name, moment in self.moments.items():
            moment[stays_K] = old.moments[name][place]
        self.steps_K[stays_K] = old.steps_K[place]

    def feed_forward(self, attended_H: Tensor) -> Tensor:
        """The layer's FFN block (one tensor in, one out, as the library's chunking demands)."""
        layer, values = self.layer, self.values
        wide, narrow = layer.intermediate.dense, layer.output.dense
        full = (wide.weight.detach(), wide.bias.detach())
        inner_I = _apply(RoutedIn, attended_H, full, self.index_K, values["in_weight_KH"], values["in_bias_K"])
        inner_I = layer.intermediate.intermediate_act_fn(inner_I)
        out_H = _apply(RoutedOut, inner_I, narrow.weight.detach(), narrow.bias, self.index_K, values["out_weight_KH"])
        hidden_H: Tensor = layer.output.LayerNorm(layer.output.dropout(out_H) + attended_H)
        return hidden_H

    @torch.no_grad()
    def step(self, rate: float, weight_decay: float) -> None:
        """AdamW on the copies (each neuron with its own bias correction), then back into the full matrices."""
        if all(value.grad is None for value in self.values.values()):
            return
        self.steps_K += 1
        mean_fix_K, square_fix_K = 1 - BETAS[0] ** self.steps_K, 1 - BETAS[1] ** self.steps_K
        for name, value in self.values.items():
            if value.grad is None:
                continue
            mean, square = self.moments[f"mean/{name}"], self.moments[f"square/{name}"]
            mean.lerp_(value.grad, 1 - BETAS[0])
            square.mul_(BETAS[1]).addcmul_(value.grad, value.grad, value=1 - BETAS[1])
            shape = (-1,) + (1,) * (value.ndim - 1)
            if value.ndim > 1:
                value.mul_(1 - rate * weight_decay)
            size = (square / square_fix_K.view(shape)).sqrt_().add_(EPSILON)
            value.sub_(rate * mean / mean_fix_K.view(shape) / size)
        self.write_back()

    @torch.no_grad()
    def write_back(self) -> None:
        """Put the copies into the full matrices; nothing else in them changes."""
        wide, narrow = self.layer.intermediate.dense, self.layer.output.dense
        wide.weight.index_copy_(0, self.index_K, self.values["in_weight_KH"])
        wide.bias.index_copy_(0, self.index_K, self.values["in_bias_K"])
        narrow.weight.index_copy_(1, self.index_K, self.values["out_weight_KH"].T.contiguous())


class SparseFfn:
    """The selected neurons of every layer and their optimiser."""

    def __init__(self, model: MaskedLm, config: TrainConfig, *, rate_scale: float) -> None:
        self.model, self.config, self.rate_scale = model, config, rate_scale
        self.rows: dict[int, LayerRows] = {}

    def select(self, neurons: dict[int, Tensor]) -> None:
        """Train these neurons (sorted indices by layer; layers without any are left out) from now on."""
        old = self.rows
        self.rows = {}
        for layer, index_K in sorted(neurons.items()):
            if len(index_K):
                self.rows[layer] = LayerRows(self.model.layers[layer], index_K.to(self.model.device))
                if layer in old:
                    self.rows[layer].carry(old[layer])

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Inside, the FFN blocks of the selected layers train their selected neurons."""
        try:
            for rows in self.rows.values():
                _set_chunk(rows.layer, rows.feed_forward)
            yield
        finally:
            for rows in self.rows.values():
                rows.layer.__dict__.pop("feed_forward_chunk", None)

    @property
    def num_trainable(self) -> int:
        """Weights that are trained."""
        return sum(value.numel() for value in self.parameters())

    def parameters(self) -> list[nn.Parameter]:
        """The gathered tensors of all layers."""
        return [value for rows in self.rows.values() for value in rows.values.values()]

    def step(self, factor: float) -> None:
        """One update of every selected neuron."""
        rate = self.config.learning_rate * self.rate_scale * factor
        for rows in self.rows.values():
            rows.step(rate, self.config.weight_decay)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for value in self.parameters():
            value.grad = None

    def state(self) -> dict[str, Tensor]:
        """Selected neurons, moments and step counts by layer; their values are in the model's weights."""
        tensors: dict[str, Tensor] = {}
        for layer, rows in self.rows.items():
            tensors |= {f"{layer}/index": rows.index_K, f"{layer}/steps": rows.steps_K}
            tensors |= {f"{layer}/{name}": moment for name, moment in rows.moments.items()}
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up a saved state; the model's weights must be loaded before."""
        self.select({int(name.partition("/")[0]): value for name, value in tensors.items() if name.endswith("/index")})
        for layer, rows in self.rows.items():
            rows.steps_K.copy_(tensors[f"{layer}/steps"])
            for name, moment in rows.moments.items():
                moment.copy_(tensors[f"{layer}/{name}"])


def _set_chunk(layer: Any, chunk: Callable[[Tensor], Tensor]) -> None:  # noqa: ANN401
    def feed_forward_chunk(attention_output: Tensor) -> Tensor:
        return chunk(attention_output)

    layer.__dict__["feed_forward_chunk"] = feed_forward_chunk


def _apply(function: Any, *args: object) -> Tensor:  # noqa: ANN401
    out: Tensor = function.apply(*args)
    return out
