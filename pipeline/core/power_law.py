"""Discrete power law and lognormal fitted to a frequency spectrum, by the package `powerlaw` (Alstott, Bullmore, Plenz 2014).

The cut-off x_min is the one with the least Kolmogorov-Smirnov distance (Clauset, Shalizi, Newman 2009), among the
MAX_CUTOFFS lowest frequencies: the package tries each on all entities, about 30 ms per million and cut-off.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

MIN_FIT = 10  # entities below which no power law is fitted
MAX_CUTOFFS = 40
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
    versus_lognormal: float  # normalised log likelihood ratio (Vuong): above 0 the power law fits better
    versus_lognormal_p: float


def fit_tail(frequencies: np.ndarray, entities: np.ndarray) -> TailFit | None:
    """Maximum likelihood fits to a spectrum, shapes (n,), ascending.

    None where fewer than MIN_FIT entities, or only one frequency, leave nothing to fit. Memory: 8 bytes per entity, twice.
    """
    if len(frequencies) < 2 or entities.sum() < MIN_FIT:
        return None
    # A cut-off leaves at least MIN_FIT entities, of two frequencies.
    left = np.cumsum(entities[::-1])[::-1]
    cutoffs = frequencies[:-1][left[:-1] >= MIN_FIT][:MAX_CUTOFFS]
    if not len(cutoffs):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package's own future names, and of optima at the edge of a range
        return _fit(np.repeat(frequencies, entities), int(cutoffs[0]), int(cutoffs[-1]))


def _fit(data: np.ndarray, lowest: int, highest: int) -> TailFit:
    import powerlaw

    fit = powerlaw.Fit(data, discrete=True, xmin=(lowest, highest), verbose=0)
    law, rival = fit.power_law, fit.lognormal
    ratio, probability = fit.distribution_compare("power_law", "lognormal", normalized_ratio=True)
    x_min = int(fit.xmin)
    return TailFit(
        exponent=round(float(law.alpha), 6),
        x_min=x_min,
        num_entities=int(np.count_nonzero(data >= x_min)),
        ks=float(law.D),
        lognormal_mu=float(rival.mu),
        lognormal_sigma=float(rival.sigma),
        versus_lognormal=float(ratio),
        versus_lognormal_p=float(probability),
    )


def likeliest_exponents(frequencies: np.ndarray, entities: np.ndarray, x_min: int) -> np.ndarray:
    """Exponent of each spectrum at a given cut-off: for the bootstrap, where the package would be too slow.

    Args:
        frequencies: shape (n,), ascending.
        entities: shape (b, n).
        x_min: the cut-off.

    Returns:
        Shape (b,); NaN where a resample has no entity above the cut-off.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import zeta

    above = frequencies >= x_min
    counts = entities[:, above].sum(-1)
    log_sums = entities[:, above] @ np.log(frequencies[above])
    found = np.full(len(counts), np.nan)
    for row, (count, log_sum) in enumerate(zip(counts, log_sums, strict=True)):
        if count:
            mean_log = log_sum / count
            best = minimize_scalar(
                lambda exponent, mean_log=mean_log: np.log(zeta(exponent, x_min)) + exponent * mean_log,
                bounds=(1.0001, MAX_EXPONENT), method="bounded", options={"xatol": 1e-6},
            )  # fmt: skip
            found[row] = best.x
    return found
