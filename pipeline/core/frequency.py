"""The long tail in numbers: bands, discrete power law, Gini, Good-Turing. Pure numpy; exact counts in, no sketches.

A frequency spectrum is two arrays: distinct frequencies, ascending, and how many entities have each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_FIT = 10  # entities below which no power law is fitted
MAX_CUTOFFS = 60
_EULER_TERMS = 12
_GOLDEN = (np.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """A fitted discrete power law P(f) = f^-exponent / zeta(exponent, x_min) for f >= x_min."""

    exponent: float
    x_min: int
    ks: float


def band_cutoffs(frequencies: np.ndarray, entities: np.ndarray, head_mass: float, torso_mass: float) -> tuple[int, int]:
    """Lowest frequency of the head and of the torso.

    From the most frequent down: entities are head while less than `head_mass` of all mentions lies above them, torso while
    less than `torso_mass` does. Entities of one frequency share a band. Shapes (n,), ascending.
    """
    mass = (frequencies * entities)[::-1].astype(np.float64)
    total = mass.sum()
    if total == 0:
        return 1, 1
    above = (np.cumsum(mass) - mass) / total
    descending = frequencies[::-1]
    head = int(descending[above < head_mass][-1])
    torso = int(descending[above < torso_mass][-1])
    return head, torso


def hurwitz_zeta(exponent: float, start: int) -> float:
    """Sum of k^-exponent for k >= start, by Euler-Maclaurin; relative error below 1e-10 for exponent > 1."""
    cut = start + _EULER_TERMS
    ks = np.arange(start, cut, dtype=np.float64)
    tail = cut ** (1 - exponent) / (exponent - 1) + 0.5 * cut**-exponent
    tail += exponent * cut ** (-exponent - 1) / 12
    tail -= exponent * (exponent + 1) * (exponent + 2) * cut ** (-exponent - 3) / 720
    tail += (
        exponent * (exponent + 1) * (exponent + 2) * (exponent + 3) * (exponent + 4) * cut ** (-exponent - 5) / 30240
    )
    return float(np.sum(ks**-exponent) + tail)


def fit_power_law(frequencies: np.ndarray, entities: np.ndarray) -> PowerLaw | None:
    """Discrete maximum likelihood; x_min minimises the Kolmogorov-Smirnov distance (Clauset, Shalizi, Newman 2009).

    None where fewer than MIN_FIT entities, or only one frequency, leave nothing to fit.
    """
    fits = []
    for place in range(min(len(frequencies) - 1, MAX_CUTOFFS)):
        tail_frequencies, tail_entities = frequencies[place:], entities[place:]
        if tail_entities.sum() < MIN_FIT:
            break
        exponent = _likeliest_exponent(tail_frequencies, tail_entities)
        ks = _ks_distance(exponent, tail_frequencies, tail_entities)
        fits.append(PowerLaw(exponent, int(frequencies[place]), ks))
    return min(fits, key=lambda fit: (fit.ks, fit.x_min), default=None)


def _likeliest_exponent(frequencies: np.ndarray, entities: np.ndarray) -> float:
    count = float(entities.sum())
    log_sum = float(np.sum(entities * np.log(frequencies)))
    start = int(frequencies[0])

    def cost(exponent: float) -> float:
        return count * np.log(hurwitz_zeta(exponent, start)) + exponent * log_sum

    low, high = 1.01, 10.0  # the cost is convex in the exponent: golden section finds its only minimum
    while high - low > 1e-6:
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if cost(left) < cost(right):
            high = right
        else:
            low = left
    return round((low + high) / 2, 6)


def _ks_distance(exponent: float, frequencies: np.ndarray, entities: np.ndarray) -> float:
    start = int(frequencies[0])
    total = hurwitz_zeta(exponent, start)
    observed = np.cumsum(entities) / entities.sum()
    fitted = np.array([1 - hurwitz_zeta(exponent, int(value) + 1) / total for value in frequencies])
    return float(np.max(np.abs(observed - fitted)))


def gini(frequencies: np.ndarray, entities: np.ndarray) -> float:
    """Gini coefficient of mentions over entities: 0 all alike, near 1 when few entities hold nearly all mentions."""
    total = float(np.sum(frequencies * entities))
    count = float(np.sum(entities))
    if total == 0:
        return 0.0
    # Area under the Lorenz curve, one trapezium per distinct frequency.
    shares = np.concatenate([[0.0], np.cumsum(frequencies * entities) / total])
    area = np.sum((shares[1:] + shares[:-1]) / 2 * (entities / count))
    return float(1 - 2 * area)


def hapax_share(frequencies: np.ndarray, entities: np.ndarray) -> float:
    """Share of entities seen exactly once."""
    return float(np.sum(entities[frequencies == 1]) / max(np.sum(entities), 1))


def good_turing_unseen(frequencies: np.ndarray, entities: np.ndarray) -> float:
    """Good-Turing estimate of the probability that the next mention is of an unseen entity: hapaxes / mentions."""
    return float(np.sum(entities[frequencies == 1]) / max(np.sum(frequencies * entities), 1))


def sentence_pairs(sentences: np.ndarray, qids: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs of distinct entities that share a sentence.

    Args:
        sentences: shape (n,), a number per sentence, one element per linked mention.
        qids: shape (n,), the items.
        limit: sentences with more distinct entities give no pairs.

    Returns:
        Pairs of shape (p, 2), lower id first, each once per sentence; the sentence of each, shape (p,); sentences over
        the limit.
    """
    order = np.lexsort((qids, sentences))
    sentences, qids = sentences[order], qids[order]
    if len(sentences):
        distinct = (np.diff(sentences, prepend=-1) != 0) | (np.diff(qids.astype(np.int64), prepend=-1) != 0)
        sentences, qids = sentences[distinct], qids[distinct]
    _, starts, sizes = np.unique(sentences, return_index=True, return_counts=True)
    pairs, owners, over = [], [], 0
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        if size > limit:
            over += 1
            continue
        left, right = np.triu_indices(size, 1)
        pairs.append(np.stack([qids[start + left], qids[start + right]], axis=1))
        owners.append(np.full(len(left), sentences[start]))
    if not pairs:
        return np.empty((0, 2), np.uint32), np.empty(0, np.int64), over
    return np.concatenate(pairs), np.concatenate(owners), over
