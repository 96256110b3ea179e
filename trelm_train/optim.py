"""Train whole parameters by AdamW, with a learning-rate schedule and states as named tensors.

Biases and LayerNorm weights do not decay. The state of every parameter is found by its name, so
that it can be saved without pickle.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from trelm_train.config import TrainConfig

# As in RoBERTa (Liu et al. 2019): a shorter memory of squared gradients than the usual .999.
BETAS = (0.9, 0.98)
EPSILON = 1e-8


def rate_factor(step: int, config: TrainConfig) -> float:
    """Return the share of the peak rate at a step, counted from 0.

    It rises linearly in the warm-up, then goes down as the schedule says.
    """
    warmup = max(1, round(config.warmup_share * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0

    # From 1 after the warm-up to 0 at the end.
    left = max(0.0, (config.steps - step) / max(1, config.steps - warmup))
    if config.schedule == "cosine":
        left = 0.5 * (1 - math.cos(math.pi * left))
    return config.final_rate_share + (1 - config.final_rate_share) * left


class Optimiser:
    """Update parameters that are trained as a whole, by AdamW."""

    def __init__(
        self,
        named: dict[str, nn.Parameter],
        config: TrainConfig,
        scale_of: Callable[[str], float] = lambda _name: 1.0,
    ) -> None:
        """Group the parameters; `scale_of` gives the factor on the rate of a parameter's name."""
        self.named = named
        self.config = config

        # Biases and LayerNorm weights are vectors, everything else is a matrix.
        members: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in named.items():
            members.setdefault((scale_of(name), parameter.ndim > 1), []).append(parameter)
        groups = [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if is_decayed else 0.0,
                "scale": scale,
            }
            for (scale, is_decayed), parameters in members.items()
        ]

        # torch refuses an optimiser without parameters.
        self.adamw: torch.optim.AdamW | None = None
        if named:
            self.adamw = torch.optim.AdamW(
                groups, lr=config.learning_rate, betas=BETAS, eps=EPSILON, fused=True
            )

    def step(self, factor: float) -> None:
        """Update once at `factor` times the base rate."""
        if self.adamw is None:
            return
        for group in self.adamw.param_groups:
            # The schedule is computed from the step alone, so a resumed run needs no state of it.
            group["lr"] = self.config.learning_rate * factor * group["scale"]
        self.adamw.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.named.values():
            # None instead of zeros: a parameter without a gradient is skipped by AdamW.
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return moments and step counts, named "parameter/moment"."""
        tensors: dict[str, Tensor] = {}
        if self.adamw is None:
            return tensors

        for name, parameter in self.named.items():
            state = self.adamw.state[parameter]
            tensors |= {f"{name}/{key}": value for key, value in state.items()}
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on with saved moments."""
        if self.adamw is None:
            return

        # A copy, because AdamW changes its moments in place.
        for full_name, value in tensors.items():
            name, _, key = full_name.rpartition("/")
            parameter = self.named[name]
            self.adamw.state[parameter][key] = value.to(parameter.device).clone()
