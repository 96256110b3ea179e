"""Compute the long tail in numbers: bands, hapaxes, Gini, Good-Turing, bootstrap intervals.

Pure numpy; goes in: exact counts, no sketches. A frequency spectrum is two arrays: distinct
frequencies, ascending, and how many entities have each. A function that takes `entities_BF` also
takes one spectrum, shape (F,), and then returns a number without the B axis.

Shapes: F distinct frequencies, B spectra (bootstrap resamples).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from schemas.array_types import F64, I64

INTERVAL = 0.95


def band_cutoffs(
    frequencies_F: I64, entities_F: I64, head_mass: float, torso_mass: float
) -> tuple[int, int]:
    """Return the lowest frequency of the head and of the torso, by share of mass.

    From the most frequent entity down: entities are head while less than `head_mass` of all
    mentions lies above them, torso while less than `torso_mass` does. Entities of one frequency
    share a band.

    Args:
        frequencies_F: distinct frequencies, ascending.
        entities_F: how many entities have each.
        head_mass: share of all mentions.
        torso_mass: share of all mentions, head included.
    """
    # From here on the most frequent entities stand at index 0.
    mass_F = (frequencies_F * entities_F)[::-1].astype(np.float64)
    total = mass_F.sum()
    if total == 0:
        return 1, 1

    share_above_F = (np.cumsum(mass_F) - mass_F) / total
    descending_F = frequencies_F[::-1]
    head = int(descending_F[share_above_F < head_mass][-1])
    torso = int(descending_F[share_above_F < torso_mass][-1])
    return head, torso


def gini(frequencies_F: I64, entities_BF: I64) -> F64:
    """Return the Gini coefficient of mentions over entities, shape (B,).

    It is 0 where all entities have equally many mentions, and near 1 where few entities have nearly
    all.
    """
    mass_BF = frequencies_F * entities_BF
    # At least 1: an empty spectrum gives 1 instead of a division by zero.
    total_B1 = np.maximum(mass_BF.sum(-1, keepdims=True), 1)
    count_B = np.maximum(entities_BF.sum(-1), 1)

    # Area under the Lorenz curve, one trapezium per distinct frequency: the mean of its two ends.
    upper_BF = np.cumsum(mass_BF, -1) / total_B1
    area_B = np.sum((upper_BF - mass_BF / total_B1 / 2) * entities_BF, -1) / count_B
    coefficients_B: F64 = 1 - 2 * area_B
    return coefficients_B


def share_of_frequency(frequencies_F: I64, entities_BF: I64, frequency: int) -> F64:
    """Return the share of entities with exactly this frequency, shape (B,).

    A frequency of 1 gives the hapaxes, 2 the dis legomena.
    """
    matching_B = entities_BF[..., frequencies_F == frequency].sum(-1)
    shares_B: F64 = matching_B / np.maximum(entities_BF.sum(-1), 1)
    return shares_B


def good_turing_unseen(frequencies_F: I64, entities_BF: I64) -> F64:
    """Return the Good-Turing estimate, hapaxes / mentions, shape (B,).

    It is the probability that the next mention is of an unseen entity.
    """
    hapaxes_B = entities_BF[..., frequencies_F == 1].sum(-1)
    estimates_B: F64 = hapaxes_B / np.maximum((frequencies_F * entities_BF).sum(-1), 1)
    return estimates_B


def resampled(entities_F: I64, num_samples: int, seed: int) -> I64:
    """Return the spectra of bootstrap resamples, shape (num_samples, F).

    Each draws as many entities, with replacement. The entity is the unit of the bootstrap: the
    interval says how much a figure would move if the corpus had drawn other entities of the same
    kind. It does not know that the mentions of one document depend on each other.
    """
    total = int(entities_F.sum())
    # Only the counts per frequency matter, so one multinomial draw stands for a draw of all
    # entities.
    return np.random.default_rng(seed).multinomial(
        total, entities_F / max(total, 1), size=num_samples
    )


def interval(samples_B: F64) -> tuple[float, float]:
    """Return the percentile interval, INTERVAL wide, of a figure's resamples."""
    # Equal shares of the resamples lie below and above the interval.
    low, high = np.quantile(samples_B, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)


def share_interval(count: int, total: int, num_samples: int, seed: int) -> tuple[float, float]:
    """Return the percentile interval of a share of mentions, with each mention drawn by itself."""
    # A binomial draw stands for a draw of all mentions, which differ in nothing else.
    drawn = np.random.default_rng(seed).binomial(total, count / total, size=num_samples)
    return interval(drawn / total)


def spectrum_figures(frequencies_F: I64, entities_BF: I64) -> Mapping[str, F64]:
    """Return the figures that have bootstrap intervals, by their names in `tail_summary`."""
    return {
        "hapax_share": share_of_frequency(frequencies_F, entities_BF, 1),
        "gini": gini(frequencies_F, entities_BF),
        "good_turing_unseen": good_turing_unseen(frequencies_F, entities_BF),
    }
