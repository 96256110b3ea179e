"""Discrete power law and lognormal fitted to a frequency spectrum.

The cut-off x_min is the one with the least Kolmogorov-Smirnov distance (Clauset, Shalizi, Newman 2009), searched on the
spectrum, so that its cost follows the distinct frequencies and not the entities. The fits at that cut-off, and Vuong's test
between them, are those of the package `powerlaw` (Alstott, Bullmore, Plenz 2014).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

MIN_FIT = 10  # entities below which no power law is fitted
MAX_EXPONENT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TailFit:
    """A fitted discrete power law P(f) = f^-exponent / zeta(exponent, x_min) for f >= x_min, and its rival."""

    exponent: float
    x_min: int
    num_entities: int  # of frequency x_min or above
    ks: float
    lognormal_mu: float
    lognormal_sigma: float
    # Normalised log likelihood ratio (Vuong): above 0 the power law fits better. None where both underflow.
    versus_lognormal: float | None
    versus_lognormal_p: float | None


def fit_tail(frequencies: np.ndarray, entities: np.ndarray) -> TailFit | None:
    """Maximum likelihood fits to a spectrum, shapes (n,), ascending.

    None where fewer than MIN_FIT entities, or only one frequency, leave nothing to fit. Cost: about 6 s per million
    entities above the cut-off, nearly all of it the lognormal; memory: 8 bytes for each, a few times.
    """
    left = np.cumsum(entities[::-1])[::-1]
    cutoffs = frequencies[:-1][left[:-1] >= MIN_FIT]  # leaves MIN_FIT entities, of two frequencies
    if not len(cutoffs):
        return None
    ks, x_min = min(
        (_distance(frequencies, entities, cutoff), cutoff) for cutoff in cutoffs.tolist()
    )
    above = frequencies >= x_min
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of the package's own future names, and of optima at the edge of a range
        return _fit(np.repeat(frequencies[above], entities[above]), x_min, ks)


def _distance(frequencies: np.ndarray, entities: np.ndarray, x_min: int) -> float:
    """Kolmogorov-Smirnov distance of the likeliest power law above a cut-off."""
    from scipy.special import zeta

    (exponent,) = likeliest_exponents(frequencies, entities[None], x_min)
    above = frequencies >= x_min
    observed = np.cumsum(entities[above]) / entities[above].sum()
    return float(
        np.max(
            np.abs(
                observed - (1 - zeta(exponent, frequencies[above] + 1.0) / zeta(exponent, x_min))
            )
        )
    )


def _fit(data: np.ndarray, x_min: int, ks: float) -> TailFit:
    import powerlaw

    # Its own range of exponents ends at 3.
    ranges = {"alpha": [1.0, MAX_EXPONENT]}
    # And from a cut-off of 10 on it would take an approximation for the likeliest exponent.
    fit = powerlaw.Fit(
        data, discrete=True, estimate_discrete=False, xmin=x_min, parameter_ranges=ranges, verbose=0
    )
    law, rival = fit.power_law, fit.lognormal
    ratio, probability = fit.distribution_compare("power_law", "lognormal", normalized_ratio=True)
    return TailFit(
        exponent=round(float(law.alpha), 6),
        x_min=x_min,
        num_entities=len(data),
        ks=ks,
        lognormal_mu=float(rival.mu),
        lognormal_sigma=float(rival.sigma),
        versus_lognormal=float(ratio) if np.isfinite(ratio) else None,
        versus_lognormal_p=float(probability) if np.isfinite(ratio) else None,
    )


def likeliest_exponents(frequencies: np.ndarray, entities: np.ndarray, x_min: int) -> np.ndarray:
    """Exponent of each spectrum at a given cut-off: for the search and the bootstrap, where the package would be too slow.

    Args:
        frequencies: shape (n,), ascending.
        entities: shape (b, n).
        x_min: the cut-off.

    Returns:
        Shape (b,); NaN where a resample has no entity above the cut-off.
    """
    above = frequencies >= x_min
    counts = entities[:, above].sum(-1)
    log_sums = entities[:, above] @ np.log(frequencies[above])
    return np.array([_likeliest(float(log_sum / count), x_min) if count else np.nan
                     for count, log_sum in zip(counts, log_sums, strict=True)])  # fmt: skip


def _likeliest(mean_log: float, x_min: int) -> float:
    """Where the mean negative log likelihood, ln zeta(a, x_min) + a mean(ln f), is least; it is convex."""
    from scipy.optimize import minimize_scalar
    from scipy.special import zeta

    best = minimize_scalar(
        lambda exponent: np.log(zeta(exponent, x_min)) + exponent * mean_log,
        bounds=(1.0001, MAX_EXPONENT), method="bounded", options={"xatol": 1e-6},
    )  # fmt: skip
    return float(best.x)
