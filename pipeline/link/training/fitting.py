"""Fitting the linker's weights: a conditional logit by maximum likelihood, with an L2 penalty on standardised weights.

Goes in: features of the candidates of many mentions, and which candidate is the gold one (none: NIL). Comes out: a `Model`.
20,000 mentions take a few seconds (L-BFGS of SciPy).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from pipeline.link.disambiguation import Model
from pipeline.link.features import GROUPS
from schemas.array_types import Array

PENALTY = 1e-4
# Evidence for a candidate never counts against it: what looks so in one corpus (a sentence alone has no coherence) is wrong
# in the next. The others may have either sign.
EVIDENCE = frozenset(
    (*GROUPS["context"], *GROUPS["coherence"], *GROUPS["type"], *GROUPS["semantic"])
    + ("prior", "primary", "similarity", "label", "title")
)
MAX_ITERATIONS = 500
WEIGHT_DECIMALS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Candidates of many mentions, flat."""

    features: Mapping[str, Array]  # float32 (c,) each
    mentions: Array  # int64 (c,), ascending
    is_gold: Array  # bool (c,), at most one per mention
    num_mentions: int

    def of(self, chosen: Array) -> Examples:
        """Those of some mentions. bool (m,) in."""
        kept = chosen[self.mentions]
        numbers = np.cumsum(chosen) - 1
        return Examples(
            features={name: values[kept] for name, values in self.features.items()},
            mentions=numbers[self.mentions[kept]],
            is_gold=self.is_gold[kept],
            num_mentions=int(chosen.sum()),
        )


def fit(examples: Examples, names: Sequence[str], penalty: float = PENALTY) -> Model:
    """Weights of the named features under which the gold candidates, or NIL, are likeliest; all 0 without candidates."""
    if not len(examples.mentions):
        return Model(0.0, dict.fromkeys(names, 0.0))
    columns = np.stack([examples.features[name].astype(np.float64) for name in names], axis=1)
    mean, scale = columns.mean(axis=0), columns.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    columns = (columns - mean) / scale
    start = np.zeros(len(names) + 1)
    bounds = [(0.0 if name in EVIDENCE else None, None) for name in names] + [(None, None)]
    found = minimize(
        _loss_and_gradient,
        start,
        (columns, examples, penalty),
        "L-BFGS-B",
        jac=True,
        bounds=bounds,
        options={"maxiter": MAX_ITERATIONS},
    )
    weights = found.x[:-1] / scale
    bias = float(found.x[-1] - weights @ mean)
    rounded = {
        name: round(float(value), WEIGHT_DECIMALS)
        for name, value in zip(names, weights, strict=True)
    }
    return Model(round(bias, WEIGHT_DECIMALS), rounded)


def _loss_and_gradient(
    values: Array, columns: Array, examples: Examples, penalty: float
) -> tuple[float, Array]:
    """Mean negative log likelihood, and its gradient."""
    scores = columns @ values[:-1] + values[-1]
    mentions, count = examples.mentions, examples.num_mentions
    top = np.zeros(count)
    np.maximum.at(top, mentions, scores)
    exponents = np.exp(scores - top[mentions])
    total = np.exp(-top) + np.bincount(mentions, exponents, count)
    loss = (np.log(total) + top).sum() - scores[examples.is_gold].sum()
    residual = exponents / total[mentions] - examples.is_gold
    gradient = np.append(columns.T @ residual, residual.sum()) / count
    gradient[:-1] += 2 * penalty * values[:-1]
    return float(loss / count + penalty * (values[:-1] ** 2).sum()), gradient
