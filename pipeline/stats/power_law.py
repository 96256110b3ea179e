"""Fit a discrete power law and a lognormal to a frequency spectrum.

The cut-off x_min is the one with the least Kolmogorov-Smirnov distance (Clauset, Shalizi, Newman
2009), searched on the spectrum, so that its cost follows the distinct frequencies and not the
entities. The fits at that cut-off, and Vuong's test between them, are those of the package
`powerlaw` (Alstott, Bullmore, Plenz 2014).

Shapes: F distinct frequencies, B spectra (bootstrap resamples).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from schemas.array_types import F64, I64

# With fewer entities no power law is fitted.
MIN_FIT = 10
MAX_EXPONENT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TailFit:
    """Hold a fitted discrete power law and its rival, a lognormal.

    The power law is P(f) = f^-exponent / zeta(exponent, x_min) for f >= x_min.
    """

    exponent: float
    x_min: int
    # Entities of frequency x_min or above.
    num_entities: int
    # The Kolmogorov-Smirnov distance at x_min.
    ks: float
    lognormal_mu: float
    lognormal_sigma: float
    # Normalised log likelihood ratio (Vuong): above 0 the power law fits better. None where both
    # underflow.
    versus_lognormal: float | None
    versus_lognormal_p: float | None


def fit_tail(frequencies_F: I64, entities_F: I64) -> TailFit | None:
    """Fit both distributions to a spectrum by maximum likelihood.

    Cost: about 6 s per million entities above the cut-off, nearly all of it for the lognormal;
    memory: 8 bytes for each such entity, a few times.

    Args:
        frequencies_F: distinct frequencies, ascending.
        entities_F: how many entities have each.

    Returns:
        None where fewer than MIN_FIT entities, or only one frequency, leave nothing to fit.
    """
    # A cut-off must leave MIN_FIT entities, of at least two frequencies.
    num_above_F = np.cumsum(entities_F[::-1])[::-1]
    cutoffs = frequencies_F[:-1][num_above_F[:-1] >= MIN_FIT]
    if not len(cutoffs):
        return None

    ks, x_min = min(
        (_distance(frequencies_F, entities_F, cutoff), cutoff) for cutoff in cutoffs.tolist()
    )

    above_F = frequencies_F >= x_min
    with warnings.catch_warnings():
        # The package warns of its own future names, and of optima at the edge of a range.
        warnings.simplefilter("ignore")
        return _fit(np.repeat(frequencies_F[above_F], entities_F[above_F]), x_min, ks)


def _distance(frequencies_F: I64, entities_F: I64, x_min: int) -> float:
    """Return the Kolmogorov-Smirnov distance of the likeliest power law above a cut-off."""
    from scipy.special import zeta

    (exponent,) = likeliest_exponents(frequencies_F, entities_F[None], x_min)
    above_F = frequencies_F >= x_min

    observed = np.cumsum(entities_F[above_F]) / entities_F[above_F].sum()
    expected = 1 - zeta(exponent, frequencies_F[above_F] + 1.0) / zeta(exponent, x_min)
    return float(np.max(np.abs(observed - expected)))


def _fit(frequencies: I64, x_min: int, ks: float) -> TailFit:
    """Fit both distributions to the frequencies of all entities at or above x_min."""
    import powerlaw

    # By itself the package searches exponents up to 3 only.
    ranges = {"alpha": [1.0, MAX_EXPONENT]}
    # And from a cut-off of 10 on it would take an approximation for the likeliest exponent.
    fit = powerlaw.Fit(
        frequencies,
        discrete=True,
        estimate_discrete=False,
        xmin=x_min,
        parameter_ranges=ranges,
        verbose=0,
    )

    law, rival = fit.power_law, fit.lognormal
    ratio, probability = fit.distribution_compare("power_law", "lognormal", normalized_ratio=True)
    return TailFit(
        exponent=round(float(law.alpha), 6),
        x_min=x_min,
        num_entities=len(frequencies),
        ks=ks,
        lognormal_mu=float(rival.mu),
        lognormal_sigma=float(rival.sigma),
        versus_lognormal=float(ratio) if np.isfinite(ratio) else None,
        versus_lognormal_p=float(probability) if np.isfinite(ratio) else None,
    )


def likeliest_exponents(frequencies_F: I64, entities_BF: I64, x_min: int) -> F64:
    """Return the likeliest exponent of each spectrum at a given cut-off.

    This serves the search and the bootstrap, where the package would be too slow.

    Args:
        frequencies_F: distinct frequencies, ascending.
        entities_BF: how many entities have each, per spectrum.
        x_min: the cut-off.

    Returns:
        Shape (B,); NaN where a resample has no entity above the cut-off.
    """
    above_F = frequencies_F >= x_min
    counts_B = entities_BF[:, above_F].sum(-1)
    log_sums_B = entities_BF[:, above_F] @ np.log(frequencies_F[above_F])

    exponents = [
        _likeliest(float(log_sum / count), x_min) if count else np.nan
        for count, log_sum in zip(counts_B, log_sums_B, strict=True)
    ]
    return np.array(exponents)


def _likeliest(mean_log: float, x_min: int) -> float:
    """Return the exponent with the least mean negative log likelihood.

    The likelihood is ln zeta(a, x_min) + a mean(ln f), which is convex in the exponent a.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import zeta

    def negative_log_likelihood(exponent: float) -> float:
        return np.log(zeta(exponent, x_min)) + exponent * mean_log

    # At an exponent of 1 the zeta function has its pole.
    optimum = minimize_scalar(
        negative_log_likelihood,
        bounds=(1.0001, MAX_EXPONENT),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(optimum.x)
