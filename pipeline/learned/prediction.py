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


class PartedAuc:
    """Compute AUCs of the same scores, with facts counted several times or not at all.

    An AUC is the chance that a known fact scores above an unknown one of its part, a tie counting half
    (Hanley and McNeil 1982). Each part has a model of its own: across parts, a score also says how
    many facts of the *other* parts are known, which would give less than a half without any feature.
    """

    def __init__(self, scores: F64, is_known: Bools, parts: I64) -> None:
        # Sorted once: facts of one part and score are a group.
        self.order = np.lexsort((scores, parts))
        self.is_known = is_known[self.order]
        part, score = parts[self.order], scores[self.order]
        is_first = np.append(True, (part[1:] != part[:-1]) | (score[1:] != score[:-1]))
        self.group = np.cumsum(is_first) - 1
        self.group_part = part[is_first]
        # The first group of each group's part.
        self.start = np.searchsorted(self.group_part, self.group_part)

    def of(self, times: F64) -> float:
        """Return the AUC where each fact counts so many times; NaN where no part has both kinds.

        `times` has shape (n,).
        """
        counted = times[self.order]
        known = np.bincount(self.group, counted * self.is_known)
        unknown = np.bincount(self.group, counted * ~self.is_known)
        below = np.cumsum(unknown) - unknown
        below -= below[self.start]
        of_part = np.bincount(self.group_part, known), np.bincount(self.group_part, unknown)
        num_pairs = float(of_part[0] @ of_part[1])
        return float(known @ (below + unknown / 2)) / num_pairs if num_pairs else float("nan")


def auc_of(scores: F64, is_known: Bools, parts: I64) -> float:
    """Return the AUC of facts that count once each; see `PartedAuc`."""
    return PartedAuc(scores, is_known, parts).of(np.ones(len(scores)))


def interval_of(scores: F64, is_known: Bools, subjects: I64) -> Interval:
    """Return the AUC with its interval: whole subjects are drawn again, not facts."""
    auc = PartedAuc(scores, is_known, parts_of(subjects))
    random = np.random.default_rng(SEED)
    _, number = np.unique(subjects, return_inverse=True)
    num_subjects = int(number.max()) + 1
    drawn = []
    for _ in range(NUM_RESAMPLES):
        chosen = random.integers(num_subjects, size=num_subjects)
        times = np.bincount(chosen, minlength=num_subjects).astype(np.float64)
        drawn.append(auc.of(times[number]))
    # A draw without any known fact says nothing.
    usable = np.asarray(drawn)[~np.isnan(drawn)]
    low, high = np.percentile(usable, (LOW, HIGH)) if len(usable) else (np.nan, np.nan)
    return Interval(auc.of(np.ones(len(scores))), float(low), float(high))


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
