"""Attribute knowledge: how much each FFN neuron adds to the probability of a masked entity.

The method is that of Knowledge Neurons (Dai et al. 2022):
`Attr_i = v_i * integral over a in [0, 1] of dP(a v) / dv_i`, one layer at a time, v the neurons
(after the activation, or the gated product) at the masked positions, P the probability of the gold
tokens (their product). P, not log P; no dropout, no injection.

One walk up the layers serves all of them. What lies above layer l is computed again with the
neurons of layer l scaled:

- context "exact": for all tokens of the sentences, as each other token sees the changed target
  tokens. Queries, keys and values of layer l + 1 are computed for the target rows only and put into
  those of the walk; the last layer is computed for the target rows alone. This takes about
  L (L - 1) / 2 passes through one layer, backward without weight gradients.
- context "fixed": for the target rows alone; keys and values of the other tokens stay those of the
  walk. It costs about the walk, and the vocabulary once per layer. It is exact in the top two
  layers; docs/routing.md says what it changes below.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from schemas.array_types import I64
from schemas.errors import TrelmError
from trelm_train.model.families import Packed, Rotation
from trelm_train.model.masked_lm import MaskedLm
from trelm_train.model.token_log_probability import gold_log_probabilities

# Legend: R packed rows, S tokens per row, N = R S tokens, H hidden size, I inner size, T target
# tokens, Q slots for target tokens in each row, E examples, L layers.

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """Hold the masked positions of some examples (one per sentence) and the ids to predict there.

    Positions are flat; `example_T` is the number of the example that each belongs to.
    """

    position_T: I64
    example_T: I64
    gold_T: I64
    num_examples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimator:
    """Say how to estimate the integral: points in [0, 1], their weights, precision and context."""

    points: tuple[float, ...]
    weights: tuple[float, ...]
    # Number format of the layers, float32 or bfloat16; P and the products with it are float32.
    precision: str = "float32"
    # Whether other tokens follow a change: exact or fixed.
    context: str = "exact"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Hold the forward pass cut open at the neurons of one layer.

    It is what a changed copy of the neurons needs to go on to the top.
    """

    layer: int
    attended_TH: Tensor
    neurons_TI: Tensor
    # Of all tokens; None in the last layer.
    output_NH: Tensor | None = None
    # Of the next layer; None if that is the last, where only target rows ask.
    queries_NH: Tensor | None = None
    # Of the next layer.
    keys_values: tuple[Tensor, Tensor] | None = None


def make_estimator(
    rule: str, points: int, *, precision: str = "float32", context: str = "exact"
) -> Estimator:
    """Make an estimator by a rule: midpoint, gauss_legendre or left (that of published code)."""
    if rule == "gauss_legendre":
        # numpy's nodes are for [-1, 1].
        nodes, node_weights = np.polynomial.legendre.leggauss(points)
        positions, weights = tuple((nodes + 1) / 2), tuple(node_weights / 2)
    else:
        shift = 0.5 if rule == "midpoint" else 0.0
        positions = tuple((number + shift) / points for number in range(points))
        weights = (1 / points,) * points

    return Estimator(points=positions, weights=weights, precision=precision, context=context)


def attribute(
    model: MaskedLm, packed: Packed, targets: Targets, estimator: Estimator, first_layer: int = 0
) -> Tensor:
    """Compute the attribution of every neuron from `first_layer` up, as E x L x I (zeros below).

    It is summed over the tokens of an example.

    Raises:
        TrelmError: some attribution is NaN or infinite.
    """
    attribution_ELI = torch.zeros(targets.num_examples, model.num_layers, model.inner_size)
    if not len(targets.position_T):
        return attribution_ELI

    example_T = torch.from_numpy(targets.example_T)
    with evaluating(model, estimator.precision):
        walk = Walk(model, packed, targets, context=estimator.context)
        for cut in walk.cuts(first_layer):
            # The integral of the gradient along the way from 0 to the neurons as they are.
            total_TI = torch.zeros_like(cut.neurons_TI)
            for point, weight in zip(estimator.points, estimator.weights, strict=True):
                scaled_TI = (cut.neurons_TI * point).requires_grad_()
                with torch.enable_grad():
                    probability_E = walk.probabilities(cut, scaled_TI)
                    total_TI += weight * torch.autograd.grad(probability_E.sum(), scaled_TI)[0]

            attribution_TI = (total_TI * cut.neurons_TI).cpu()
            # Comparisons with NaN are false: neurons would be chosen at random, without any error.
            if not bool(attribution_TI.isfinite().all()):
                raise TrelmError(
                    f"{model.name}: attribution in layer {cut.layer} is NaN or infinite; the "
                    "weights are broken: start again from an earlier checkpoint, with a lower "
                    "train.learning_rate"
                )
            attribution_ELI[:, cut.layer].index_add_(0, example_T, attribution_TI)

    return attribution_ELI


class Walk:
    """Take one batch of probes up the layers; use it inside `evaluating`."""

    def __init__(
        self, model: MaskedLm, packed: Packed, targets: Targets, *, context: str = "exact"
    ) -> None:
        self.model, self.family, self.packed, self.context = model, model.family, packed, context
        # Keys and values by layer, where the context is fixed.
        self.fixed_keys_values: dict[int, tuple[Tensor, Tensor]] = {}
        self.top = model.num_layers - 1
        self.num_examples = targets.num_examples
        self.position_T, self.gold_T, self.example_T = (
            torch.from_numpy(array).to(model.device)
            for array in (targets.position_T, targets.gold_T, targets.example_T)
        )

        # Target tokens of a row get slots 0, 1, … of that row; every row has as many slots as the
        # row with the most targets, so that they form one rectangle.
        rows, width = packed.input_ids_RS.shape
        row_T = self.position_T // width
        count_R = torch.bincount(row_T, minlength=rows)
        self.num_slots = int(count_R.max())
        order_T = torch.argsort(row_T, stable=True)
        before_R = count_R.cumsum(0) - count_R
        number_T = torch.arange(len(row_T), device=model.device) - before_R[row_T[order_T]]
        slot_T = torch.empty_like(row_T)
        slot_T[order_T] = number_T
        self.slot_T = row_T * self.num_slots + slot_T

    def cuts(self, first_layer: int = 0) -> Iterator[Cut]:
        """Yield every layer from `first_layer` up, cut open.

        In an exact context a cut comes as soon as the walk has what it needs.
        """
        if self.context == "exact":
            yield from self._walk(first_layer)
            return

        # A fixed context needs keys and values of all layers above: walk to the top first, and keep
        # of each cut only what is small.
        small_cuts = []
        for cut in self._walk(first_layer):
            if cut.keys_values is not None:
                self.fixed_keys_values[cut.layer + 1] = cut.keys_values
            small_cuts.append(
                Cut(layer=cut.layer, attended_TH=cut.attended_TH, neurons_TI=cut.neurons_TI)
            )
        yield from small_cuts

    @torch.no_grad()
    def _walk(self, first_layer: int) -> Iterator[Cut]:
        """Compute the forward pass layer by layer, and cut it open at each."""
        family, position_T = self.family, self.position_T
        hidden_NH = self.model.embed(self.packed).flatten(0, 1)

        # A cut needs queries, keys and values of the layer above it, so it is complete only there.
        below: tuple[Tensor, Tensor] | None = None
        for layer in range(self.top + 1):
            rotation = self._rotation(layer)
            keys_values = family.keys_values(layer, hidden_NH, rotation)
            queries_NH = family.queries(layer, hidden_NH, rotation) if layer < self.top else None
            if below is not None:
                yield Cut(
                    layer=layer - 1,
                    attended_TH=below[0],
                    neurons_TI=below[1],
                    output_NH=hidden_NH,
                    queries_NH=queries_NH,
                    keys_values=keys_values,
                )

            # The last layer is computed for the target rows alone.
            if queries_NH is None:
                states_TH = hidden_NH[position_T]
                queries_TH = self._queries_of_targets(states_TH)
                attended_TH = self._attend_targets(layer, queries_TH, keys_values, states_TH)
                yield Cut(
                    layer=layer,
                    attended_TH=attended_TH,
                    neurons_TI=family.neurons(layer, attended_TH).float(),
                )
                return

            attended_NH = self._attend(layer, queries_NH, keys_values, hidden_NH)
            neurons_NI = family.neurons(layer, attended_NH)
            if layer >= first_layer:
                below = (attended_NH[position_T], neurons_NI[position_T].float())
            hidden_NH = family.from_neurons(layer, neurons_NI, attended_NH)

    def probabilities(self, cut: Cut, neurons_TI: Tensor) -> Tensor:
        """Compute P of each example's gold tokens for these neurons at the cut, as E."""
        states_TH = self.family.from_neurons(cut.layer, neurons_TI, cut.attended_TH)
        if self.context == "fixed":
            for above in range(cut.layer + 1, self.top + 1):
                fixed = self.fixed_keys_values[above]
                queries_TH, keys_values = self._entering(above, states_TH, fixed)
                states_TH = self._target_layer(above, queries_TH, keys_values, states_TH)
        elif cut.layer < self.top:
            states_TH = self._to_the_top(cut, states_TH)

        # The product over an example's tokens, as a sum of logarithms.
        with torch.autocast(states_TH.device.type, enabled=False):
            logits_TV = self.model.logits(self.family.finish(states_TH.float()))
            log_p_T = gold_log_probabilities(logits_TV, self.gold_T)
            return log_p_T.new_zeros(self.num_examples).index_add(0, self.example_T, log_p_T).exp()

    def _to_the_top(self, cut: Cut, states_TH: Tensor) -> Tensor:
        """Compute the last layer's output from changed target rows that leave the cut, as T x H."""
        family, position_T, above = self.family, self.position_T, cut.layer + 1
        assert cut.keys_values is not None
        assert cut.output_NH is not None
        queries_TH, keys_values = self._entering(above, states_TH, cut.keys_values)

        # Layers between the cut and the last one are computed for all tokens; in the first of them
        # only the target rows have changed.
        if cut.queries_NH is not None:
            queries_NH = cut.queries_NH.index_copy(0, position_T, queries_TH)
            hidden_NH = cut.output_NH.index_copy(0, position_T, states_TH)
            hidden_NH = self._layer(above, queries_NH, keys_values, hidden_NH)
            for layer in range(above + 1, self.top):
                rotation = self._rotation(layer)
                queries_NH = family.queries(layer, hidden_NH, rotation)
                keys_values = family.keys_values(layer, hidden_NH, rotation)
                hidden_NH = self._layer(layer, queries_NH, keys_values, hidden_NH)

            states_TH = hidden_NH[position_T]
            keys_values = family.keys_values(self.top, hidden_NH, self._rotation(self.top))
            queries_TH = self._queries_of_targets(states_TH)

        return self._target_layer(self.top, queries_TH, keys_values, states_TH)

    def _entering(
        self, layer: int, states_TH: Tensor, keys_values: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Compute the queries of changed target rows that enter a layer, and put in their keys.

        The second result is the keys and values of all tokens, with those of the target rows new.
        """
        rotation = self._rotation_of_targets(layer)
        changed = self.family.keys_values(layer, states_TH, rotation)
        keys, values = (
            old.index_copy(0, self.position_T, new)
            for old, new in zip(keys_values, changed, strict=True)
        )
        return self.family.queries(layer, states_TH, rotation), (keys, values)

    def _rotation(self, layer: int) -> Rotation:
        return self.family.rotation(layer, self.packed)

    def _rotation_of_targets(self, layer: int) -> Rotation:
        rotation = self._rotation(layer)
        if rotation is None:
            return None
        return rotation[0][self.position_T], rotation[1][self.position_T]

    def _queries_of_targets(self, states_TH: Tensor) -> Tensor:
        return self.family.queries(self.top, states_TH, self._rotation_of_targets(self.top))

    def _attend(
        self, layer: int, queries_NH: Tensor, keys_values: tuple[Tensor, Tensor], hidden_NH: Tensor
    ) -> Tensor:
        mixed_NH = self.family.mix(queries_NH, keys_values, self.family.mask(layer, self.packed))
        return self.family.join(layer, mixed_NH, hidden_NH)

    def _layer(
        self, layer: int, queries_NH: Tensor, keys_values: tuple[Tensor, Tensor], hidden_NH: Tensor
    ) -> Tensor:
        attended_NH = self._attend(layer, queries_NH, keys_values, hidden_NH)
        return self.family.from_neurons(layer, self.family.neurons(layer, attended_NH), attended_NH)

    def _target_layer(
        self, layer: int, queries_TH: Tensor, keys_values: tuple[Tensor, Tensor], states_TH: Tensor
    ) -> Tensor:
        attended_TH = self._attend_targets(layer, queries_TH, keys_values, states_TH)
        return self.family.from_neurons(layer, self.family.neurons(layer, attended_TH), attended_TH)

    def _attend_targets(
        self, layer: int, queries_TH: Tensor, keys_values: tuple[Tensor, Tensor], states_TH: Tensor
    ) -> Tensor:
        """Compute an attention block for the target rows alone, which ask from their slots."""
        rows, width = self.packed.input_ids_RS.shape
        row_T, column_T = self.position_T // width, self.position_T % width

        # An empty slot sees everything: softmax over nothing would give NaN.
        mask_QS = self.position_T.new_ones((rows * self.num_slots, width), dtype=torch.bool)
        mask_QS[self.slot_T] = self.family.mask(layer, self.packed)[row_T, 0, column_T]

        queries_QH = queries_TH.new_zeros(rows * self.num_slots, queries_TH.shape[-1])
        queries_QH = queries_QH.index_copy(0, self.slot_T, queries_TH)
        mixed_QH = self.family.mix(
            queries_QH, keys_values, mask_QS.view(rows, 1, self.num_slots, width)
        )
        return self.family.join(layer, mixed_QH[self.slot_T], states_TH)


@contextmanager
def evaluating(model: MaskedLm, precision: str) -> Iterator[None]:
    """Switch off dropout and weight gradients in a `with` block, and set its number format."""
    trained = [parameter for parameter in model.hf.parameters() if parameter.requires_grad]
    kind, dtype = model.device.type, PRECISIONS[precision]

    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with model.evaluating(), torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32):
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
