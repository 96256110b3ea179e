"""Fit a logistic model of which facts are known, and measure it on subjects that it has not met.

Facts of one subject fall into one part, so no prediction comes from a model that has seen the
subject. Features are standardised by the parts that a model is fitted on; one that is not known is
taken to be the mean. The penalty is the usual one of logistic regression (ridge, 1). Intervals are
those of a bootstrap over subjects.

Legend: n facts, f columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from pipeline.arrays.hashing import hash64
from schemas.array_types import F64, I64, Bools

NUM_PARTS = 5
PENALTY = 1.0
NUM_RESAMPLES = 1000
SEED = 19
# Spreads below this part of the mean are rounding: the feature is always the same.
ROUNDING = 1e-12
# Two-sided, 95 %.
LOW, HIGH = 2.5, 97.5


@dataclass(frozen=True, slots=True)
class Interval:
    """Hold an AUC and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Strength:
    """Say what one feature is worth."""

    name: str
    # By a model of this feature alone.
    alone: Interval
    # What all features together lose without it.
    lost_without: float
    # In the model of all facts, per standard deviation; None for a feature of several columns.
    weight: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Hold what all features together predict."""

    # Probability that a fact is known, by a model that has not met its subject, shape (n,).
    p_known: F64
    auc: Interval
    # The strongest alone first.
    strengths: tuple[Strength, ...]


def parts_of(subjects: I64) -> I64:
    """Return the part of each fact, by a hash of its subject, shape (n,)."""
    part_of = {qid: hash64(f"learned:{qid}") % NUM_PARTS for qid in set(subjects.tolist())}
    return np.asarray([part_of[qid] for qid in subjects.tolist()], np.int64)


def auc_of(scores: F64, is_known: Bools, parts: I64) -> float:
    """Return the chance that a known fact scores above an unknown one of its part, a tie counting
    half.

    Each part has a model of its own. Across parts, a score also says how many facts of the *other*
    parts are known: without any feature that would give less than a half. NaN where no part has both
    kinds (Hanley and McNeil 1982).
    """
    won = num_pairs = 0.0
    for part in np.unique(parts):
        is_here = parts == part
        known = is_known[is_here]
        num_known = int(known.sum())
        pairs = num_known * (len(known) - num_known)
        if pairs:
            ranks = rankdata(scores[is_here])
            won += float(ranks[known].sum()) - num_known * (num_known + 1) / 2
            num_pairs += pairs
    return won / num_pairs if num_pairs else float("nan")


def interval_of(scores: F64, is_known: Bools, subjects: I64) -> Interval:
    """Return the AUC with its interval: whole subjects are drawn again, not facts."""
    parts = parts_of(subjects)
    random = np.random.default_rng(SEED)
    _, number = np.unique(subjects, return_inverse=True)
    order = np.argsort(number, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(number))[:-1])
    drawn = []
    for _ in range(NUM_RESAMPLES):
        chosen = random.integers(len(rows_of), size=len(rows_of))
        rows = np.concatenate([rows_of[subject] for subject in chosen])
        drawn.append(auc_of(scores[rows], is_known[rows], parts[rows]))
    # A draw without any known fact says nothing.
    usable = np.asarray(drawn)[~np.isnan(drawn)]
    low, high = np.percentile(usable, (LOW, HIGH)) if len(usable) else (np.nan, np.nan)
    return Interval(auc_of(scores, is_known, parts), float(low), float(high))


def predict(features: Mapping[str, F64], is_known: Bools, subjects: I64) -> Prediction:
    """Predict every fact from the others, and say what each feature is worth.

    Args:
        features: name -> its columns, shape (n, f); NaN is not known.
        is_known: what is predicted, shape (n,).
        subjects: QIDs, shape (n,); facts of one are held out together.
    """
    parts = parts_of(subjects)

    def held_out(names: Sequence[str]) -> F64:
        return _held_out(_stacked(features, names), is_known, parts)

    names = list(features)
    p_known = held_out(names)
    auc = interval_of(p_known, is_known, subjects)
    whole = _fit(_stacked(features, names), is_known)
    strengths = []
    first = 0
    for name in names:
        width = features[name].shape[1]
        without = auc_of(held_out([other for other in names if other != name]), is_known, parts)
        strengths.append(
            Strength(
                name=name,
                alone=interval_of(held_out([name]), is_known, subjects),
                lost_without=auc.value - without,
                weight=float(whole.weights[first]) if width == 1 else None,
            )
        )
        first += width
    ranked = sorted(strengths, key=lambda one: (-one.alone.value, one.name))
    return Prediction(p_known=p_known, auc=auc, strengths=tuple(ranked))


def _stacked(features: Mapping[str, F64], names: Sequence[str]) -> F64:
    num_facts = len(next(iter(features.values())))
    return np.concatenate([np.zeros((num_facts, 0)), *(features[name] for name in names)], axis=1)


def _held_out(columns: F64, is_known: Bools, parts: I64) -> F64:
    """Return the probability of each fact by a model of the other parts, shape (n,)."""
    p_known = np.zeros(len(columns))
    for part in range(NUM_PARTS):
        is_out = parts == part
        p_known[is_out] = _fit(columns[~is_out], is_known[~is_out]).apply(columns[is_out])
    return p_known


@dataclass(frozen=True, kw_only=True, slots=True)
class _Logistic:
    """Hold a fitted model of standardised columns."""

    mean: F64
    scale: F64
    weights: F64
    bias: float

    def apply(self, columns: F64) -> F64:
        """Return probabilities, shape (n,). `columns` has shape (n, f)."""
        return expit(_standardised(columns, self.mean, self.scale) @ self.weights + self.bias)


def _standardised(columns: F64, mean: F64, scale: F64) -> F64:
    # What is not known is the mean, so it speaks for neither.
    return np.nan_to_num((columns - mean) / scale)


def _fit(columns: F64, is_known: Bools) -> _Logistic:
    """Fit a model to some facts; no facts at all give .5 for each. `columns` has shape (n, f)."""
    counted = (~np.isnan(columns)).sum(axis=0)
    known = np.nan_to_num(columns)
    mean = known.sum(axis=0) / np.maximum(counted, 1)
    spread = np.where(np.isnan(columns), 0.0, (known - mean) ** 2).sum(axis=0)
    scale = np.sqrt(spread / np.maximum(counted, 1))
    scale = np.where(scale > ROUNDING * np.abs(mean), scale, 1.0)
    x, y = _standardised(columns, mean, scale), is_known.astype(np.float64)

    def loss_and_gradient(values: F64) -> tuple[float, F64]:
        weights, bias = values[:-1], values[-1]
        scores = x @ weights + bias
        # log(1 + e^s) - y s, summed, and the penalty, which spares the bias.
        loss = float(np.logaddexp(0.0, scores).sum() - y @ scores + PENALTY / 2 * weights @ weights)
        off = expit(scores) - y
        return loss, np.append(x.T @ off + PENALTY * weights, off.sum())

    start = np.zeros(x.shape[1] + 1)
    found = minimize(loss_and_gradient, start, method="L-BFGS-B", jac=True).x
    return _Logistic(mean=mean, scale=scale, weights=found[:-1], bias=float(found[-1]))
