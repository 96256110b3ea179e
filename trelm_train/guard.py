"""Steps that are not taken: a loss or gradient norm that is not finite, or far above those before it.

After OLMo's skip-step optimiser: mean and standard deviation over the last 128 steps that were taken; a step more than
`sigma` deviations above the mean of either is skipped, and so is its update of the memory bank. Nothing is skipped before
there is enough to judge by. Costs two numbers per step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

WINDOW = 128
ENOUGH = WINDOW // 2
SMALLEST_SHARE = 0.01  # of the mean: on a plateau the deviation shrinks until noise would count as a spike


class Guard:
    """Judges each step by those before it."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.norms: deque[float] = deque(maxlen=WINDOW)

    def judge(self, loss: float, norm: float) -> str:
        """Why this step must be skipped; empty if it may be taken, and then it counts for those that follow."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return "not finite"
        for name, value, before in (("loss", loss, self.losses), ("gradient norm", norm, self.norms)):
            if self.sigma and len(before) >= ENOUGH and value > self.limit(before):
                return f"{name} {value:.4g} is above {self.limit(before):.4g}"
        self.losses.append(loss)
        self.norms.append(norm)
        return ""

    def limit(self, before: Sequence[float]) -> float:
        """Mean and so many standard deviations of earlier values."""
        mean = math.fsum(before) / len(before)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in before) / len(before))
        return mean + self.sigma * max(deviation, SMALLEST_SHARE * abs(mean))

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"losses": list(self.losses), "norms": list(self.norms)}

    def load(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.losses = deque(state["losses"], maxlen=WINDOW)
        self.norms = deque(state["norms"], maxlen=WINDOW)
