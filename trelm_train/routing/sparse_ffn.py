"""Train some FFN neurons alone.

Neuron i owns row i of W_in, b_in[i] and column i of W_out (if gated: two rows of W_in). The
selected rows are gathered into small tensors with their own AdamW moments and step counts; the full
matrices stay frozen and serve the forward pass, and the small tensors are written back after each
step. Weight gradients of other neurons are never computed, their weights never touched (masking
gradients would save nothing, and AdamW would still move masked weights). Below the lowest selected
layer nothing requires a gradient, so nothing is recorded there and the backward pass stops. The
cost, beside the forward pass and the gradients of the states, is two small matrix products per
layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trelm_train.config import TrainConfig
from trelm_train.model.families import Ffn
from trelm_train.model.masked_lm import MaskedLm
from trelm_train.optim import BETAS, EPSILON
from trelm_train.routing.routed_linear import routed_in, routed_out

# Legend: K selected neurons of a layer, J rows of W_in that they own (K, or 2 K if gated), H hidden
# size, I inner size.

DECAYED = ("in_weight_JH", "out_weight_KH")
BIAS = "in_bias_J"
# Steps after which both bias corrections of AdamW are 1 to the last bit: a refresh counts no
# further.
SETTLED = 2048


class LayerRows:
    """Hold the gathered neurons of one layer: trainable copies, moments, and step counts.

    Neurons stand in runs of the same step count (longest trained first), so that each run is one
    fused update.
    """

    def __init__(self, ffn: Ffn, index_K: Tensor, old: LayerRows | None = None) -> None:
        self.ffn = ffn
        old_position_K = _old_positions(index_K, old, ffn.inner_size)
        # Neurons that stay go on with their step counts; newcomers start at 0.
        steps_K = torch.zeros(len(index_K), device=index_K.device)
        if old is not None:
            stays_K = old_position_K >= 0
            steps_K[stays_K] = old.steps_K[old_position_K[stays_K]].clamp(max=SETTLED)

        # Stable: neurons of one run stay in ascending order, so the same selection gives the same
        # bits.
        order_K = torch.sort(steps_K, descending=True, stable=True).indices
        self.index_K: Tensor = index_K[order_K]
        self.steps_K: Tensor = steps_K[order_K]
        self.rows_J = ffn.rows(self.index_K)
        self.values = self._gather()
        self.moments = {
            f"{moment}/{name}": torch.zeros_like(value)
            for name, value in self.values.items()
            for moment in ("mean", "square")
        }
        if old is not None:
            self._carry(old, old_position_K[order_K])
        self.runs = _runs(self.steps_K)

    def _gather(self) -> dict[str, nn.Parameter]:
        """Copy the selected rows and columns out of the full matrices."""
        ffn, rows_J = self.ffn, self.rows_J
        copies = {"in_weight_JH": ffn.w_in.weight.detach()[rows_J]}
        if ffn.w_in.bias is not None:
            copies[BIAS] = ffn.w_in.bias.detach()[rows_J]

        columns_HK = ffn.w_out.weight.detach().index_select(1, self.index_K)
        copies["out_weight_KH"] = columns_HK.T.contiguous()
        return {name: nn.Parameter(value) for name, value in copies.items()}

    def _carry(self, old: LayerRows, old_position_K: Tensor) -> None:
        """Keep the moments of neurons that stay selected; newcomers start at zero."""
        stays_K = old_position_K >= 0
        for name, moment in self.moments.items():
            # J = rows per neuron x K; everything else has one row per neuron.
            per_neuron = self.ffn.rows_per_neuron if name.endswith(("J", "JH")) else 1
            new = moment.view(per_neuron, len(self.index_K), *moment.shape[1:])
            old_moment = old.moments[name]
            past = old_moment.view(per_neuron, len(old.index_K), *old_moment.shape[1:])
            new[:, stays_K] = past[:, old_position_K[stays_K]]

    def forward_in(self, x_H: Tensor) -> Tensor:
        """Apply W_in, in place of the linear map's own forward."""
        w_in, values = self.ffn.w_in, self.values
        return routed_in(x_H, w_in, self.rows_J, values["in_weight_JH"], values.get(BIAS))

    def forward_out(self, v_I: Tensor) -> Tensor:
        """Apply W_out, in place of the linear map's own forward."""
        return routed_out(v_I, self.ffn.w_out, self.index_K, self.values["out_weight_KH"])

    def slices(self) -> Iterator[tuple[str, float, slice]]:
        """Yield name, step count and rows of every fused update."""
        for name, value in self.values.items():
            # A gated W_in has two blocks of K rows, each in the order of the neurons.
            for offset in range(0, len(value), max(1, len(self.index_K))):
                for start, stop, steps in self.runs:
                    yield name, steps, slice(offset + start, offset + stop)

    def count_step(self) -> None:
        """Count one more step for every neuron."""
        self.steps_K += 1
        # All neurons of a layer are trained in every step, so runs never split.
        self.runs = [(start, stop, steps + 1) for start, stop, steps in self.runs]

    @torch.no_grad()
    def write_back(self) -> None:
        """Put the copies into the full matrices; nothing else in them changes."""
        w_in, w_out = self.ffn.w_in, self.ffn.w_out
        w_in.weight.index_copy_(0, self.rows_J, self.values["in_weight_JH"])
        if BIAS in self.values:
            w_in.bias.index_copy_(0, self.rows_J, self.values[BIAS])

        # Row by row: `index_copy_` goes column by column, whose elements share cache sets (1.7
        # times as slow).
        w_out.weight.scatter_(
            1,
            self.index_K.expand(len(w_out.weight), -1),
            self.values["out_weight_KH"].T.contiguous(),
        )


def _old_positions(index_K: Tensor, old: LayerRows | None, inner: int) -> Tensor:
    """Return the position of each neuron in the old selection; -1 for newcomers."""
    position_I = torch.full((inner,), -1, dtype=torch.int64, device=index_K.device)
    if old is not None:
        position_I[old.index_K] = torch.arange(len(old.index_K), device=index_K.device)
    return position_I[index_K]


def _runs(steps_K: Tensor) -> list[tuple[int, int, float]]:
    """Return start, end and step count of each run of neurons with the same step count."""
    values, lengths = torch.unique_consecutive(steps_K, return_counts=True)
    stops = lengths.cumsum(0).tolist()
    return list(zip([0, *stops[:-1]], stops, values.tolist(), strict=True))


class SparseFfn:
    """Hold the selected neurons of every layer, and their optimiser."""

    def __init__(self, model: MaskedLm, config: TrainConfig, *, rate_scale: float) -> None:
        self.model, self.config, self.rate_scale = model, config, rate_scale
        self.rows: dict[int, LayerRows] = {}

    def select(self, neurons: dict[int, Tensor]) -> None:
        """Train these neurons from the next step on.

        `neurons` has sorted indices by layer; layers without any are left out.
        """
        old = self.rows
        self.rows = {
            # The copies are gathered again from the full matrices, which hold the latest values.
            layer: LayerRows(
                self.model.family.ffn(layer), index_K.to(self.model.device), old.get(layer)
            )
            for layer, index_K in sorted(neurons.items())
            if len(index_K)
        }

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Have the FFN blocks train their selected neurons inside a `with` block."""
        try:
            for rows in self.rows.values():
                _set_forward(rows.ffn.w_in, rows.forward_in)
                _set_forward(rows.ffn.w_out, rows.forward_out)
            yield
        finally:
            for rows in self.rows.values():
                # The attribute hides the method of the class; without it the module is as it was.
                rows.ffn.w_in.__dict__.pop("forward", None)
                rows.ffn.w_out.__dict__.pop("forward", None)

    @property
    def num_trainable(self) -> int:
        """Return the number of weights that are trained."""
        return sum(value.numel() for value in self.parameters())

    def parameters(self) -> list[nn.Parameter]:
        """Return the gathered tensors of all layers, always in the same order: what is clipped."""
        return [value for rows in self.rows.values() for value in rows.values.values()]

    def gradients(self) -> list[Tensor]:
        """Return one gradient per parameter, zeros where no backward pass has reached it.

        Ranks sum them in place. Call it on every rank, before `step`; a rank whose sentences had no
        target joins with zeros.
        """
        for value in self.parameters():
            if value.grad is None:
                value.grad = torch.zeros_like(value)
        # The condition is for the type checker: none is left without a gradient.
        return [value.grad for value in self.parameters() if value.grad is not None]

    def step(self, factor: float) -> None:
        """Update every selected neuron by AdamW, then write it back into the full matrices.

        Layers without gradients are left alone. `factor` scales the learning rate.
        """
        trained = [
            rows
            for rows in self.rows.values()
            if any(value.grad is not None for value in rows.values.values())
        ]
        # Weights decay, biases do not, so they are updated by two calls.
        self._update(trained, DECAYED, self.config.weight_decay, factor)
        self._update(trained, (BIAS,), 0.0, factor)
        for rows in trained:
            rows.count_step()
            rows.write_back()

    @torch.no_grad()
    def _update(
        self, trained: list[LayerRows], names: tuple[str, ...], weight_decay: float, factor: float
    ) -> None:
        """Apply fused AdamW; each run of neurons has its own bias correction."""
        # Values, gradients, both moments and step counts of all runs, for one call.
        columns: list[list[Tensor]] = [[], [], [], [], []]
        for rows in trained:
            for name, steps, run in rows.slices():
                value = rows.values[name]
                if name not in names or value.grad is None:
                    continue

                mean, square = rows.moments[f"mean/{name}"], rows.moments[f"square/{name}"]
                count = torch.tensor(steps, device=value.device)
                tensors = (value[run], value.grad[run], mean[run], square[run], count)
                for column, tensor in zip(columns, tensors, strict=True):
                    column.append(tensor)

        if columns[0]:
            rate = self.config.learning_rate * self.rate_scale * factor
            _fused_adamw(columns, rate, weight_decay)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for value in self.parameters():
            value.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return selected neurons, moments and step counts by layer.

        The values of the neurons are in the model's weights.
        """
        tensors: dict[str, Tensor] = {}
        for layer, rows in self.rows.items():
            tensors |= {f"{layer}/index": rows.index_K, f"{layer}/steps": rows.steps_K}
            tensors |= {f"{layer}/{name}": moment for name, moment in rows.moments.items()}
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on with a saved state; the model's weights must be loaded before."""
        self.rows = {}
        neurons = {
            int(name.partition("/")[0]): index_K
            for name, index_K in tensors.items()
            if name.endswith("/index")
        }
        self.select(neurons)

        for layer, rows in self.rows.items():
            rows.steps_K.copy_(tensors[f"{layer}/steps"])
            rows.runs = _runs(rows.steps_K)
            for name, moment in rows.moments.items():
                moment.copy_(tensors[f"{layer}/{name}"])


def _fused_adamw(columns: list[list[Tensor]], rate: float, weight_decay: float) -> None:
    """Update all tensors of the columns in one call of the library."""
    from torch.optim.adamw import adamw

    values, grads, means, squares, steps = columns
    adamw(
        values, grads, means, squares, [], steps,
        fused=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1], lr=rate,
        weight_decay=weight_decay, eps=EPSILON, maximize=False,
    )  # fmt: skip


def _set_forward(linear: Any, forward: Callable[[Tensor], Tensor]) -> None:  # noqa: ANN401
    # An attribute of the module and not a wrapper: names of the parameters stay as they are.
    linear.__dict__["forward"] = forward
