"""Skip steps whose loss or gradient norm is not finite, or far above the values of earlier steps.

The rule is that of OLMo's skip-step optimiser: mean and standard deviation over the last 128 steps
that were not skipped; a step more than `sigma` deviations above the mean of any of its values is
skipped, and so is its update of the memory bank. Each value is judged by earlier values of the same
kind: where few steps have facts, the contrastive loss and the larger gradient of those that do
would always look like a spike beside those that do not. Nothing is skipped before there are enough
values to judge by.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

WINDOW = 128
ENOUGH = WINDOW // 2
# Smallest deviation, as a share of the mean: on a plateau the deviation shrinks until noise would
# count as a spike.
SMALLEST_SHARE = 0.01


class SpikeGuard:
    """Judge each step by those before it."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma
        self.earlier: dict[str, deque[float]] = {}

    def judge(self, values: dict[str, float]) -> str:
        """Return the reason to skip a step with these values, or an empty text."""
        if not all(math.isfinite(value) for value in values.values()):
            return "not finite"

        for name, value in values.items():
            earlier = self.earlier.get(name, ())
            # A sigma of 0 skips only what is not finite.
            if self.sigma and len(earlier) >= ENOUGH and value > self.limit(earlier):
                return f"{name} {value:.4g} is above {self.limit(earlier):.4g}"
        return ""

    def limit(self, earlier: Sequence[float]) -> float:
        """Return the mean of earlier values and `sigma` standard deviations above it."""
        mean = math.fsum(earlier) / len(earlier)
        variance = math.fsum((value - mean) ** 2 for value in earlier) / len(earlier)
        deviation = math.sqrt(variance)
        return mean + self.sigma * max(deviation, SMALLEST_SHARE * abs(mean))

    def accept(self, values: dict[str, float]) -> None:
        """Let the values of a step that was not skipped count for those that follow."""
        for name, value in values.items():
            # Values of skipped steps would widen the limit until spikes pass.
            self.earlier.setdefault(name, deque(maxlen=WINDOW)).append(value)

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {name: list(values) for name, values in self.earlier.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on with a saved state."""
        self.earlier = {name: deque(values, maxlen=WINDOW) for name, values in state.items()}


def step_values(
    masked_lm: float, norm: float, *, asked: float | None, contrast: float | None
) -> dict[str, float]:
    """Return the values of a step by kind; None where it has no such facts.

    Steps with facts are a kind of their own.
    """
    losses = {
        "masked-LM loss": masked_lm,
        "loss of asked facts": asked,
        "contrastive loss": contrast,
    }
    values = {name: value for name, value in losses.items() if value is not None}
    has_facts = asked is not None or contrast is not None
    return {**values, "gradient norm with facts" if has_facts else "gradient norm": norm}
