"""Take one training step as `benchmarks.routing` times it: forward, backward, clipping, update;
random weights, MLM loss.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.routing_data import Work, generated_work, random_bert
from trelm_train.config import RoutingConfig, TrainConfig
from trelm_train.model.masked_lm import MaskedLm, mlm_loss_sum
from trelm_train.optim import BETAS
from trelm_train.routing.router import by_layer, whole_parameters
from trelm_train.routing.sparse_ffn import SparseFfn

WARM_UP = 1


def step(  # noqa: PLR0913
    out: Path,  # noqa: ARG001 -- the harness gives it
    kind: str,
    shape: str,
    tokens: int,
    precision: str,
    dropout: float,
    steps: int,
    share: float = 1.0,
    layers: int = 0,
) -> dict[str, Any]:
    """Measure the median wall-clock and processor seconds of a step, after a warm-up.

    `kind`: full, forward, ffn (all neurons, as whole matrices), masks (the same, gradients of the
    others zeroed) or ours.
    """
    torch.set_num_threads(1)
    model = random_bert(shape, dropout)
    model.hf.train()
    work = generated_work(model, tokens)
    chosen = choose(model, share, layers or model.num_layers)
    take = KINDS[kind](model, work, precision, chosen)
    wall, cpu = [], []
    for number in range(WARM_UP + steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        take()
        if number >= WARM_UP:
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - cpu_start)
    return {
        "seconds": statistics.median(wall),
        "cpu_seconds": statistics.median(cpu),
        "tokens": work.num_tokens,
        "trained": sum(p.numel() for p in model.hf.parameters() if p.requires_grad),
    }


def choose(model: MaskedLm, share: float, layers: int) -> dict[int, torch.Tensor]:
    """Choose neurons at random, a share of those of the topmost layers."""
    first = (model.num_layers - layers) * model.inner_size
    allowed = np.arange(first, model.num_layers * model.inner_size)
    picked = np.random.default_rng(3).permutation(allowed)[: round(share * len(allowed))]
    return by_layer(np.sort(picked), model.num_layers, model.inner_size)


def loss_of(model: MaskedLm, work: Work, precision: str) -> torch.Tensor:
    """Return the mean masked-LM loss."""
    narrow: AbstractContextManager[Any] = nullcontext()
    if precision == "bfloat16":
        narrow = torch.autocast("cpu", dtype=torch.bfloat16)
    with narrow:
        return mlm_loss_sum(model, model.encode(work.packed), work.target, work.gold) / len(
            work.gold
        )


Step = Callable[[], None]
Chosen = dict[int, torch.Tensor]


def _whole(model: MaskedLm, work: Work, precision: str, after_backward: Callable[[], None]) -> Step:
    trained = [parameter for parameter in model.hf.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, betas=BETAS, fused=True)

    def take() -> None:
        torch.autograd.backward(loss_of(model, work, precision))
        after_backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return take


def full(model: MaskedLm, work: Work, precision: str, chosen: Chosen) -> Step:
    """Train everything."""
    del chosen
    whole_parameters(model, RoutingConfig(policy="full"))
    return _whole(model, work, precision, lambda: None)


def ffn(model: MaskedLm, work: Work, precision: str, chosen: Chosen) -> Step:
    """Train W_in, b_in and W_out of every layer as whole matrices."""
    del chosen
    _only_ffn(model)
    return _whole(model, work, precision, lambda: None)


def masks(model: MaskedLm, work: Work, precision: str, chosen: Chosen) -> Step:
    """Train as `ffn` does, and set the gradients of the neurons that are not chosen to zero."""
    _only_ffn(model)
    keep = {
        layer: torch.zeros(model.inner_size).index_fill(0, index_K, 1.0)
        for layer, index_K in chosen.items()
    }

    def mask() -> None:
        for layer, kept in keep.items():
            ffn = model.family.ffn(layer)
            for parameter, factor in (
                (ffn.w_in.weight, kept[:, None]),
                (ffn.w_in.bias, kept),
                (ffn.w_out.weight, kept),
            ):
                assert parameter.grad is not None
                parameter.grad.mul_(factor)

    return _whole(model, work, precision, mask)


def _only_ffn(model: MaskedLm) -> None:
    whole_parameters(model, RoutingConfig())
    for layer in range(model.num_layers):
        found = model.family.ffn(layer)
        for parameter in (found.w_in.weight, found.w_in.bias, found.w_out.weight):
            parameter.requires_grad_()


def ours(model: MaskedLm, work: Work, precision: str, chosen: Chosen) -> Step:
    """Train the chosen neurons as gathered tensors."""
    whole_parameters(model, RoutingConfig())
    sparse = SparseFfn(model, TrainConfig(learning_rate=1e-4), rate_scale=1.0)
    sparse.select(chosen)

    def take() -> None:
        with sparse.patched():
            torch.autograd.backward(loss_of(model, work, precision))
        nn.utils.clip_grad_norm_(sparse.parameters(), 1.0)
        sparse.step(1.0)
        sparse.zero_grad()

    return take


def forward(model: MaskedLm, work: Work, precision: str, chosen: Chosen) -> Step:
    """Train nothing: the floor."""
    del chosen

    def take() -> None:
        with torch.no_grad():
            loss_of(model, work, precision)

    return take


KINDS: dict[str, Callable[[MaskedLm, Work, str, Chosen], Step]] = {
    "full": full, "ffn": ffn, "masks": masks, "ours": ours, "forward": forward
}  # fmt: skip
