"""AdamW over whole parameters, the learning-rate schedule, and states as named tensors.

Biases and LayerNorm weights do not decay. The state of every parameter is found by its name, so that it can be saved
without pickle.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trelm_train.config import TrainConfig

BETAS = (0.9, 0.98)
EPSILON = 1e-8


def rate_factor(step: int, config: TrainConfig) -> float:
    """Share of the peak rate: linear warm-up, then the schedule's way down; `step` counts from 0."""
    warmup = max(1, round(config.warmup_share * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    left = max(0.0, (config.steps - step) / max(1, config.steps - warmup))
    if config.schedule == "cosine":
        left = 0.5 * (1 - math.cos(math.pi * left))
    return config.final_rate_share + (1 - config.final_rate_share) * left


class Optimiser:
    """AdamW for parameters that are trained as a whole."""

    def __init__(self, named: dict[str, nn.Parameter], config: TrainConfig) -> None:
        self.named = named
        self.config = config
        decayed = [parameter for parameter in named.values() if parameter.ndim > 1]
        plain = [parameter for parameter in named.values() if parameter.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.adamw = (
            torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS, eps=EPSILON, fused=True)
            if named
            else None
        )

    def step(self, factor: float) -> None:
        """One update at `factor` times the base rate, then forget the gradients."""
        if self.adamw is None:
            return
        for group in self.adamw.param_groups:
            group["lr"] = self.config.learning_rate * factor
        self.adamw.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.named.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts by parameter name."""
        tensors: dict[str, Tensor] = {}
        if self.adamw is not None:
            for name, parameter in self.named.items():
                tensors |= {
                    f"{name}/{key}": value for key, value in self.adamw.state[parameter].items()
                }
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up saved moments."""
        if self.adamw is None:
            return
        for full_name, value in tensors.items():
            name, _, key = full_name.rpartition("/")
            parameter = self.named[name]
            self.adamw.state[parameter][key] = value.to(parameter.device).clone()
