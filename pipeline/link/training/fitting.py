"""Fit the linker's weights: a conditional logit that starts from the weights set by hand.

Goes in: features of the candidates of many mentions, and which candidate is the gold one (none:
NIL). Comes out: a `Model`. 20,000 mentions take a few seconds (L-BFGS of SciPy).

The penalty is on the distance from the weights set by hand, not on their size: where the gold says
little about a feature, its weight stays what reason says (a maximum a posteriori estimate).

Legend: m mentions, c candidates, f features.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from pipeline.link.disambiguation import BY_HAND, Model
from pipeline.link.features import GROUPS
from schemas.array_types import F32, F64, I64, Bools

# On the squared distance of standardised weights from those set by hand; the strongest first. The
# strongest is best for a corpus of another kind (docs/log.md), a weaker one for more of the same.
PENALTIES = (0.1, 0.01, 0.001)
# Evidence for a candidate never counts against it: what seems to speak against it in one corpus (a
# sentence alone has no coherence) is wrong in the next. The other features may have either sign.
EVIDENCE = frozenset(
    (*GROUPS["context"], *GROUPS["coherence"], *GROUPS["type"], *GROUPS["semantic"])
    + ("prior", "linked", "popularity", "statements", "age", "primary", "similarity", "label")
    + ("same", "ending", "opening", "initials", "title")
)
MAX_ITERATIONS = 500
WEIGHT_DECIMALS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Hold the candidates of many mentions, flat."""

    # Shape (c,) each.
    features: Mapping[str, F32]
    # Shape (c,), ascending.
    mentions: I64
    # Shape (c,), at most one per mention.
    is_gold: Bools
    num_mentions: int

    def of_mentions(self, chosen: Bools) -> Examples:
        """Return the candidates of some mentions. `chosen` has shape (m,)."""
        rows = chosen[self.mentions]
        # Chosen mentions are numbered from 0 again.
        numbers = np.cumsum(chosen) - 1
        return Examples(
            features={name: values[rows] for name, values in self.features.items()},
            mentions=numbers[self.mentions[rows]],
            is_gold=self.is_gold[rows],
            num_mentions=int(chosen.sum()),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitting:
    """Say which weights to fit, and how far they may move."""

    # Features that get a weight.
    names: Sequence[str]
    # Those of them whose weights stay as set by hand.
    kept: Collection[str] = ()
    # On the squared distance of standardised weights from those set by hand.
    penalty: float = PENALTIES[0]


def fit(examples: Examples, fitting: Fitting) -> Model:
    """Return weights under which the gold candidates, or NIL, are likely, near those set by hand.

    Without candidates they are those set by hand.

    Args:
        examples: candidates of gold mentions.
        fitting: what to fit.
    """
    names = fitting.names
    by_hand = np.array([BY_HAND.weights.get(name, 0.0) for name in names])
    if not len(examples.mentions):
        return Model(BY_HAND.bias, dict(zip(names, by_hand.tolist(), strict=True)))

    # Standardised, so that one penalty fits all features: shape (c, f).
    columns = np.stack([examples.features[name].astype(np.float64) for name in names], axis=1)
    mean, scale = columns.mean(axis=0), columns.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    columns = (columns - mean) / scale

    # The last parameter is the bias.
    start = np.append(by_hand * scale, BY_HAND.bias + by_hand @ mean)
    lowest = [0.0 if name in EVIDENCE else None for name in names]
    bounds = [
        (value, value) if name in fitting.kept else (low, None)
        for name, low, value in zip(names, lowest, start[:-1].tolist(), strict=True)
    ]
    result = minimize(
        _loss_and_gradient,
        start,
        (columns, examples, start[:-1], fitting.penalty),
        "L-BFGS-B",
        jac=True,
        bounds=[*bounds, (None, None)],
        options={"maxiter": MAX_ITERATIONS},
    )

    # Back to weights of the features as they are.
    weights = result.x[:-1] / scale
    bias = float(result.x[-1] - weights @ mean)
    rounded = {
        name: round(float(value), WEIGHT_DECIMALS)
        for name, value in zip(names, weights, strict=True)
    }
    return Model(round(bias, WEIGHT_DECIMALS), rounded)


def _loss_and_gradient(
    values: F64, columns: F64, examples: Examples, start: F64, penalty: float
) -> tuple[float, F64]:
    """Return the mean negative log likelihood with the penalty, and its gradient.

    Args:
        values: weights and bias, shape (f + 1,).
        columns: standardised features, shape (c, f).
        examples: mentions and gold of the candidates.
        start: weights set by hand, standardised, shape (f,).
        penalty: on the squared distance from them; the bias is free.
    """
    # Softmax over the candidates of a mention and NIL, whose score is 0; less the highest score, so
    # that no exponent overflows.
    scores = columns @ values[:-1] + values[-1]
    mentions, count = examples.mentions, examples.num_mentions
    top = np.zeros(count)
    np.maximum.at(top, mentions, scores)
    exponents = np.exp(scores - top[mentions])
    total = np.exp(-top) + np.bincount(mentions, exponents, count)

    loss = (np.log(total) + top).sum() - scores[examples.is_gold].sum()
    # Probability less truth, shape (c,).
    residual = exponents / total[mentions] - examples.is_gold
    gradient = np.append(columns.T @ residual, residual.sum()) / count
    distance = values[:-1] - start
    gradient[:-1] += 2 * penalty * distance
    return float(loss / count + penalty * (distance**2).sum()), gradient
