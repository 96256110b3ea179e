"""Apply the two linear maps of an FFN, with weight gradients for the selected neurons only.

Forward they are the full maps, in the number format of autocast where it is on. Backward gives the
gradient of the input (if needed) and that of the gathered copies, which float32 accumulates over
several backward passes. W_out keeps the selected neurons for its backward pass, not all of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trelm_train.model.precision import working_dtype
from trelm_train.model.protocols import RoutedContext

# Legend: T tokens, K selected neurons, J rows of W_in that they own, H hidden size, I inner size.


class RoutedIn(torch.autograd.Function):
    """Compute `x W_in^T + b_in`, with weight gradients for the gathered rows only."""

    @staticmethod
    def forward(
        ctx: RoutedContext,
        x_H: Tensor,
        full: tuple[Tensor, Tensor | None],
        rows_J: Tensor,
        weight_JH: Tensor,  # noqa: ARG004 -- autograd wants them as inputs: they get the gradient
        bias_J: Tensor | None,
    ) -> Tensor:
        """Apply the full linear map; the copies equal the full weights at `rows_J`."""
        dtype = working_dtype(x_H)
        cast_H, weight, bias = (
            x_H.to(dtype),
            full[0].to(dtype),
            None if full[1] is None else full[1].to(dtype),
        )

        # In the lowest trained layer the input needs no gradient, and then no weight is kept.
        ctx.save_for_backward(cast_H, weight if ctx.needs_input_grad[0] else None, rows_J)
        ctx.dtype, ctx.has_bias = x_H.dtype, bias_J is not None
        return F.linear(cast_H, weight, bias)

    @staticmethod
    def backward(
        ctx: RoutedContext,
        *grads: Tensor,
    ) -> tuple[Tensor | None, None, None, Tensor, Tensor | None]:
        """Return the gradient of the input (if needed) and of the gathered rows."""
        cast_H, weight_IH, rows_J = ctx.saved_tensors
        grad_I = grads[0]
        grad_x = (grad_I @ weight_IH).to(ctx.dtype) if ctx.needs_input_grad[0] else None

        # Choose the columns before the product: the product then costs J / I of a full one.
        selected_TJ = grad_I.flatten(0, -2).index_select(1, rows_J)
        grad_bias = selected_TJ.float().sum(0) if ctx.has_bias else None
        return grad_x, None, None, (selected_TJ.T @ cast_H.flatten(0, -2)).float(), grad_bias


class RoutedOut(torch.autograd.Function):
    """Compute `v W_out^T + b_out`, with weight gradients for the gathered columns only."""

    @staticmethod
    def forward(
        ctx: RoutedContext,
        v_I: Tensor,
        weight_HI: Tensor,
        bias_H: Tensor | None,
        index_K: Tensor,
        columns_KH: Tensor,  # noqa: ARG004
    ) -> Tensor:
        """Apply the full linear map; `columns_KH` equals the full transposed one at `index_K`."""
        dtype = working_dtype(v_I)
        cast_I, weight, bias = (
            v_I.to(dtype),
            weight_HI.to(dtype),
            None if bias_H is None else bias_H.to(dtype),
        )

        # The gathered neurons are T x K instead of T x I: most of the memory of an FFN.
        ctx.save_for_backward(cast_I.flatten(0, -2).index_select(1, index_K), weight)
        ctx.dtype = v_I.dtype
        return F.linear(cast_I, weight, bias)

    @staticmethod
    def backward(
        ctx: RoutedContext,
        *grads: Tensor,
    ) -> tuple[Tensor | None, None, Tensor | None, None, Tensor]:
        """Return the gradient of neurons, bias (if it is trained) and gathered columns."""
        selected_TK, weight_HI = ctx.saved_tensors
        grad_H = grads[0]
        flat_TH = grad_H.flatten(0, -2)

        grad_v = (grad_H @ weight_HI).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        # Position 2 of the inputs is the bias.
        grad_bias = flat_TH.float().sum(0) if ctx.needs_input_grad[2] else None
        # float32: several backward passes add up in these gradients.
        return grad_v, None, grad_bias, None, (selected_TK.T @ flat_TH).float()


def routed_in(
    x_H: Tensor,
    w_in: nn.Linear,
    rows_J: Tensor,
    weight_JH: nn.Parameter,
    bias_J: nn.Parameter | None,
) -> Tensor:
    """Apply W_in and train its rows `rows_J` through their copies (bias: None if it has none)."""
    # Detached: the full weights get no gradient, the gathered copies do.
    full = (w_in.weight.detach(), None if w_in.bias is None else w_in.bias.detach())
    inner_I: Tensor = RoutedIn.apply(x_H, full, rows_J, weight_JH, bias_J)  # type: ignore[no-untyped-call]
    return inner_I


def routed_out(v_I: Tensor, w_out: nn.Linear, index_K: Tensor, columns_KH: nn.Parameter) -> Tensor:
    """Apply W_out and train its columns `index_K` through their copies.

    Its bias is trained too where it requires a gradient.
    """
    weight_HI = w_out.weight.detach()
    hidden_H: Tensor = RoutedOut.apply(v_I, weight_HI, w_out.bias, index_K, columns_KH)  # type: ignore[no-untyped-call]
    return hidden_H
