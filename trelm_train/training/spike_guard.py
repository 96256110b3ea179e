"""Steps that are not taken: a loss or gradient norm that is not finite, or far above those before it.

After OLMo's skip-step optimiser: mean and standard deviation over the last 128 steps that were taken; a step more than
`sigma` deviations above the mean of any of its values is skipped, and so is its update of the memory bank. Each value is
judged by its own kind: where few steps have facts, the contrastive loss and the larger gradient of those that do would
always look like a spike beside those that do not. Nothing is skipped before there is enough to judge by.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

WINDOW = 128
ENOUGH = WINDOW // 2
SMALLEST_SHARE = (
    0.01  # of the mean: on a plateau the deviation shrinks until noise would count as a spike
)


class SpikeGuard:
    """Judges each step by those before it."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma
        self.before: dict[str, deque[float]] = {}

    def judge(self, values: dict[str, float]) -> str:
        """Why a step with these values must be skipped; empty if it may be taken."""
        if not all(math.isfinite(value) for value in values.values()):
            return "not finite"
        for name, value in values.items():
            before = self.before.get(name, ())
            if self.sigma and len(before) >= ENOUGH and value > self.limit(before):
                return f"{name} {value:.4g} is above {self.limit(before):.4g}"
        return ""

    def limit(self, before: Sequence[float]) -> float:
        """Mean and so many standard deviations of earlier values."""
        mean = math.fsum(before) / len(before)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in before) / len(before))
        return mean + self.sigma * max(deviation, SMALLEST_SHARE * abs(mean))

    def accept(self, values: dict[str, float]) -> None:
        """The step was taken: it counts for those that follow."""
        for name, value in values.items():
            self.before.setdefault(name, deque(maxlen=WINDOW)).append(value)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {name: list(values) for name, values in self.before.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.before = {name: deque(values, maxlen=WINDOW) for name, values in state.items()}


def step_values(mlm: float, cka: float, norm: float, *, facts: int) -> dict[str, float]:
    """The values of a step by kind."""
    if not facts:
        return {"masked-LM loss": mlm, "gradient norm": norm}
    return {"masked-LM loss": mlm, "contrastive loss": cka, "gradient norm with facts": norm}
