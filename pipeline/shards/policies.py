"""Injection policies: which mentions receive knowledge (TRELM section 2.1; DKPLM for `klt`). A bit per policy.

Every policy asks for a linked entity with at least one usable triple. All arrays have shape (n,), one element per mention.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.shards import POLICY_BITS

MIN_R_FREQ = 3.0
DISTANCE_DECIMALS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyLimits:
    """Corpus-wide limits of the policies."""

    r_freq: float  # an entity with fewer mentions is long-tail
    median_distance: float  # corpus median of 1 - cosine
    klt_r_min: int
    klt_r_max: int


def default_r_freq(num_linked: int, num_entities: int) -> float:
    """max(3, mean mentions per entity): with the mean alone only singletons pass on a small corpus."""
    return max(MIN_R_FREQ, num_linked / max(num_entities, 1))


def median_of_counts(values: np.ndarray, counts: np.ndarray) -> float:
    """Median of values that occur so many times each; 0 of none, the mean of the two in the middle of an even number."""
    if not len(values):
        return 0.0
    order = np.argsort(values)
    reach = np.cumsum(counts[order].astype(np.int64))
    middle = np.searchsorted(reach, [(reach[-1] + 1) // 2, reach[-1] // 2 + 1])
    return float(values[order][middle].mean())


def policy_bits(
    sentences: np.ndarray,
    cosine: np.ndarray,
    frequency: np.ndarray,
    reach: np.ndarray,
    limits: PolicyLimits,
) -> np.ndarray:
    """Bits of the policies that choose each mention, uint16.

    Args:
        sentences: number of the mention's sentence.
        cosine: of the sentence and of the sentence without the entity; NaN where it was not scored.
        frequency: mentions of the entity in the corpus.
        reach: entities within two hops in the KB; 0 where the entity has no usable triple.
        limits: corpus-wide limits.
    """
    usable = reach > 0
    distance = np.round(1.0 - np.nan_to_num(cosine.astype(np.float64), nan=1.0), DISTANCE_DECIMALS)
    scored = ~np.isnan(cosine)
    important = (
        scored
        & (distance >= _mean_per(sentences, distance, scored))
        & (distance >= limits.median_distance)
    )
    rare = frequency < limits.r_freq
    # KLT(e) = 1[freq < r] SI(e) KC(e); a mention is chosen where its score reaches its sentence's mean.
    complexity = np.clip(reach, limits.klt_r_min, limits.klt_r_max)
    klt = np.where(rare & scored & usable, complexity / np.maximum(1.0 - distance, 1e-4), 0.0)
    chosen = {
        "all": usable,
        "high-frequency": usable & ~rare,
        "low-frequency": usable & rare,
        "importance": usable & important,
        "long-tail-important": usable & rare & important,
        "klt": (klt > 0) & (klt >= _mean_per(sentences, klt, usable)),
    }
    bits = np.zeros(len(sentences), np.uint16)
    for name, mask in chosen.items():
        bits[mask] |= np.uint16(POLICY_BITS[name])
    return bits


def _mean_per(groups: np.ndarray, values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Mean of the counted values of each element's group, rounded as the values are."""
    if len(groups) == 0:
        return np.empty(0)
    _, places = np.unique(groups, return_inverse=True)
    totals = np.bincount(places, weights=np.where(counted, values, 0.0))
    counts = np.bincount(places, weights=counted.astype(np.float64))
    return np.round(totals / np.maximum(counts, 1), DISTANCE_DECIMALS)[places]
