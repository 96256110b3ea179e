"""Choose the mentions that receive knowledge, by injection policies.

The policies are those of TRELM, section 2.1, and of DKPLM (`klt`). Each policy has a bit. Every
policy asks for a linked entity with at least one usable triple. All arrays have shape (n,), one
element per mention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.array_types import F64, I64, U16, Bools, Floats, Ints
from schemas.shards import POLICY_BITS

# Distances are rounded: batching changes the last bits of a cosine, and must not change a choice.
DISTANCE_DECIMALS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyLimits:
    """Hold the corpus-wide limits of the policies."""

    # An entity with fewer mentions is long-tail.
    r_freq: float
    # The corpus median of 1 - cosine: that of a random sample of sentences.
    median_distance: float
    klt_r_min: int
    klt_r_max: int


def median_of_counts(values: Floats, counts: Ints) -> float:
    """Return the median of values, each of which occurs `counts` times.

    No values give 0; an even number of values gives the mean of the two in the middle.
    """
    if not len(values):
        return 0.0

    order = np.argsort(values)
    cumulative = np.cumsum(counts[order].astype(np.int64))
    # The two middle values, which are one and the same for an odd number.
    middle = np.searchsorted(cumulative, [(cumulative[-1] + 1) // 2, cumulative[-1] // 2 + 1])
    return float(values[order][middle].mean())


def requested_bits(policies: Sequence[str]) -> np.uint16:
    """Return the bits of the policies that are computed; `none` has no bit."""
    return np.uint16(sum(POLICY_BITS.get(policy, 0) for policy in set(policies)))


def policy_bits(
    sentences: I64,
    cosine: Floats,
    frequency: I64,
    reach: I64,
    limits: PolicyLimits,
) -> U16:
    """Return the bits of the policies that choose each mention.

    Args:
        sentences: number of the mention's sentence.
        cosine: of the sentence and of the sentence without the entity; NaN where it was not scored.
        frequency: mentions of the entity in the corpus.
        reach: entities within two hops in the KB; 0 where the entity has no usable triple.
        limits: corpus-wide limits.
    """
    is_usable = reach > 0
    is_scored = ~np.isnan(cosine)
    similarity = np.nan_to_num(cosine.astype(np.float64), nan=1.0)
    distance = np.round(1.0 - similarity, DISTANCE_DECIMALS)

    # Important: at least as distant as the mean of its sentence and the median of the corpus.
    above_mean = distance >= _mean_per(sentences, distance, is_scored)
    is_important = is_scored & above_mean & (distance >= limits.median_distance)
    is_rare = frequency < limits.r_freq

    # KLT(e) = 1[freq < r] SI(e) KC(e); a mention is chosen where its score reaches its sentence's
    # mean.
    complexity = np.clip(reach, limits.klt_r_min, limits.klt_r_max)
    has_klt = is_rare & is_scored & is_usable
    klt = np.where(has_klt, complexity / np.maximum(1.0 - distance, 1e-4), 0.0)

    masks = {
        "all": is_usable,
        "high-frequency": is_usable & ~is_rare,
        "low-frequency": is_usable & is_rare,
        "importance": is_usable & is_important,
        "long-tail-important": is_usable & is_rare & is_important,
        "klt": (klt > 0) & (klt >= _mean_per(sentences, klt, is_usable)),
    }
    bits = np.zeros(len(sentences), np.uint16)
    for name, mask in masks.items():
        bits[mask] |= np.uint16(POLICY_BITS[name])
    return bits


def _mean_per(groups: I64, values: F64, is_counted: Bools) -> F64:
    """Return the mean of the counted values of each element's group, rounded as the values are."""
    if len(groups) == 0:
        return np.empty(0)

    _, members = np.unique(groups, return_inverse=True)
    totals = np.bincount(members, weights=np.where(is_counted, values, 0.0))
    counts = np.bincount(members, weights=is_counted.astype(np.float64))
    # A group without a counted value has the mean 0.
    return np.round(totals / np.maximum(counts, 1), DISTANCE_DECIMALS)[members]
