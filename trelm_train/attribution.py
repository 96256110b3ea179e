"""Knowledge attribution: how much each FFN neuron adds to the probability of a masked entity (Knowledge Neurons, Dai 2022).

`Attr_i = v_i * integral over a in [0, 1] of dP(a v) / dv_i`, one layer at a time, v the post-activation neurons at
the masked positions, P the probability of the gold tokens (their product). The prefix up to a layer is computed once;
the layer's FFN is computed anew for the target rows only. P, not log P; no dropout, no injection, float32. The
default is one midpoint evaluation (a = 0.5), which costs about (L + 1) / 2 partial passes for L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trelm_train.arrays import I64
from trelm_train.model import MaskedLm, Packed

# Legend: R packed rows, S tokens per row, H hidden size, I inner size, T target tokens, E examples, L layers.


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """What is asked: flat positions, the example each belongs to (one per sentence), and the gold ids."""

    position_T: I64
    example_T: I64
    gold_T: I64
    num_examples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Quadrature:
    """Points in [0, 1] and their weights."""

    points: tuple[float, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    attended_TH: Tensor
    neurons_TI: Tensor
    output_RSH: Tensor


def quadrature(rule: str, points: int) -> Quadrature:
    """The points of a rule: midpoint, gauss_legendre or left (the last as in published code)."""
    if rule == "gauss_legendre":
        nodes, weights = np.polynomial.legendre.leggauss(points)
        return Quadrature(points=tuple((nodes + 1) / 2), weights=tuple(weights / 2))
    shift = 0.5 if rule == "midpoint" else 0.0
    return Quadrature(
        points=tuple((number + shift) / points for number in range(points)), weights=(1 / points,) * points
    )


def attribute(model: MaskedLm, packed: Packed, targets: Targets, rule: Quadrature, first_layer: int = 0) -> Tensor:
    """Attribution of every neuron from `first_layer` up, summed over an example's tokens, as E x L x I (zeros below)."""
    attribution_ELI = torch.zeros(targets.num_examples, model.num_layers, model.inner_size)
    if not len(targets.position_T):
        return attribution_ELI
    example_T = torch.from_numpy(targets.example_T)
    with model.evaluating(), torch.autocast(model.device.type, enabled=False):
        cache = _prefix(model, packed, targets)
        for layer in range(first_layer, model.num_layers):
            neurons_TI = cache[layer].neurons_TI
            total_TI = torch.zeros_like(neurons_TI)
            for point, weight in zip(rule.points, rule.weights, strict=True):
                scaled_TI = (neurons_TI * point).requires_grad_()
                with torch.enable_grad():
                    probability_E = probabilities(model, packed, targets, cache, (layer, scaled_TI))
                    gradient_TI = torch.autograd.grad(probability_E.sum(), scaled_TI)[0]
                total_TI += weight * gradient_TI
            attribution_ELI[:, layer].index_add_(0, example_T, (total_TI * neurons_TI).cpu())
    return attribution_ELI


@torch.no_grad()
def _prefix(model: MaskedLm, packed: Packed, targets: Targets) -> list[_Layer]:
    at = torch.from_numpy(targets.position_T).to(model.device)
    hidden_RSH = model.embed(packed)
    cache = []
    for layer in range(model.num_layers):
        attended_RSH = model.attend(layer, hidden_RSH, packed.mask_R1SS)
        hidden_RSH = model.from_neurons(layer, model.neurons(layer, attended_RSH), attended_RSH)
        attended_TH = attended_RSH.reshape(-1, model.hidden_size)[at]
        cache.append(
            _Layer(attended_TH=attended_TH, neurons_TI=model.neurons(layer, attended_TH), output_RSH=hidden_RSH)
        )
    return cache


def probabilities(
    model: MaskedLm, packed: Packed, targets: Targets, cache: list[_Layer], replaced: tuple[int, Tensor]
) -> Tensor:
    """P of each example's gold tokens when the neurons of one layer are replaced at the target rows, as E."""
    layer, neurons_TI = replaced
    at = torch.from_numpy(targets.position_T).to(model.device)
    here = cache[layer]
    states_TH = model.from_neurons(layer, neurons_TI, here.attended_TH)
    hidden_RSH = here.output_RSH
    for above in range(layer + 1, model.num_layers):
        flat = hidden_RSH.reshape(-1, model.hidden_size)
        if above == layer + 1:
            flat = flat.index_copy(0, at, states_TH)
        attended_RSH = model.attend(above, flat.view_as(hidden_RSH), packed.mask_R1SS)
        if above == model.num_layers - 1:  # only the target rows are read
            attended_TH = attended_RSH.reshape(-1, model.hidden_size)[at]
            states_TH = model.from_neurons(above, model.neurons(above, attended_TH), attended_TH)
        else:
            hidden_RSH = model.from_neurons(above, model.neurons(above, attended_RSH), attended_RSH)
    gold_T1 = torch.from_numpy(targets.gold_T).to(model.device)[:, None]
    log_p_T = F.log_softmax(model.logits(states_TH).float(), -1).gather(1, gold_T1)[:, 0]
    example_T = torch.from_numpy(targets.example_T).to(model.device)
    return log_p_T.new_zeros(targets.num_examples).index_add(0, example_T, log_p_T).exp()


def cached(model: MaskedLm, packed: Packed, targets: Targets) -> list[_Layer]:
    """The prefix of every layer, for `probabilities`."""
    with model.evaluating():
        return _prefix(model, packed, targets)
