"""The long tail in numbers: bands, hapaxes, Gini, Good-Turing, bootstrap intervals. Pure numpy; exact counts in, no sketches.

A frequency spectrum is two arrays: distinct frequencies, ascending, and how many entities have each. Where `entities` has
shape (b, n), every row is a spectrum of its own (a bootstrap resample) and the answer has shape (b,).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

INTERVAL = 0.95


def band_cutoffs(
    frequencies: np.ndarray, entities: np.ndarray, head_mass: float, torso_mass: float
) -> tuple[int, int]:
    """Lowest frequency of the head and of the torso, by share of mass.

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


def gini(frequencies: np.ndarray, entities: np.ndarray) -> np.ndarray:
    """Gini coefficient of mentions over entities: 0 all alike, near 1 when few entities hold nearly all mentions."""
    mass = frequencies * entities
    total = np.maximum(mass.sum(-1, keepdims=True), 1)
    count = np.maximum(entities.sum(-1), 1)
    # Area under the Lorenz curve, one trapezium per distinct frequency: the mean of its two ends.
    upper = np.cumsum(mass, -1) / total
    area = np.sum((upper - mass / total / 2) * entities, -1) / count
    return 1 - 2 * area


def share_of_frequency(frequencies: np.ndarray, entities: np.ndarray, frequency: int) -> np.ndarray:
    """Share of entities seen exactly so often: 1 gives the hapaxes, 2 the dis legomena."""
    return entities[..., frequencies == frequency].sum(-1) / np.maximum(entities.sum(-1), 1)


def good_turing_unseen(frequencies: np.ndarray, entities: np.ndarray) -> np.ndarray:
    """Good-Turing estimate of the probability that the next mention is of an unseen entity: hapaxes / mentions."""
    return entities[..., frequencies == 1].sum(-1) / np.maximum((frequencies * entities).sum(-1), 1)


def resampled(entities: np.ndarray, num_samples: int, seed: int) -> np.ndarray:
    """Spectra of bootstrap resamples: as many entities, drawn with replacement. Shape (num_samples, n).

    The entity is the unit of the bootstrap: the interval says how much the figure would move had the corpus drawn other
    entities of the same kind. It does not know that mentions of one document hang together.
    """
    total = int(entities.sum())
    return np.random.default_rng(seed).multinomial(
        total, entities / max(total, 1), size=num_samples
    )


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Percentile interval, INTERVAL wide, of a figure's resamples; shape (b,)."""
    low, high = np.quantile(samples, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)


def share_interval(count: int, total: int, num_samples: int, seed: int) -> tuple[float, float]:
    """The same for a share of mentions, each mention drawn by itself."""
    drawn = np.random.default_rng(seed).binomial(total, count / total, size=num_samples)
    return interval(drawn / total)


def spectrum_figures(frequencies: np.ndarray, entities: np.ndarray) -> Mapping[str, np.ndarray]:
    """The figures that have bootstrap intervals, by their names in `tail_summary`."""
    return {
        "hapax_share": share_of_frequency(frequencies, entities, 1),
        "gini": gini(frequencies, entities),
        "good_turing_unseen": good_turing_unseen(frequencies, entities),
    }
