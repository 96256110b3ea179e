"""Disambiguation: four scores per candidate, a logistic combination, NIL as one of the outcomes.

Goes in: candidates with what the entity store knows of them, the mention and its context. Comes out: probabilities.
All arrays have shape (n,), one element per candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rapidfuzz import fuzz

PRIOR_STRENGTH = 3.0  # anchors that the popularity prior is worth
CONTEXT_HALF = 12.0  # summed IDF of shared terms at which the context score is one half
ROUND_DECIMALS = 5  # model floats are rounded before they select anything


@dataclass(frozen=True, slots=True)
class Scores:
    """Partial scores of the candidates, float32."""

    prior: np.ndarray  # log P(entity | surface), 0 or below
    string: np.ndarray  # 0 to 1
    context: np.ndarray  # 0 to 1
    type: np.ndarray  # 0 to 1


def log_prior(counts: np.ndarray, popularity: np.ndarray) -> np.ndarray:
    """log P(entity | surface): anchor counts smoothed by popularity (sitelinks and incoming triples, plus one)."""
    if len(counts) == 0:
        return np.empty(0, np.float32)
    share = (popularity + 1.0) / np.sum(popularity + 1.0)
    probability = (counts + PRIOR_STRENGTH * share) / (np.sum(counts) + PRIOR_STRENGTH)
    return np.log(probability).astype(np.float32)


def string_score(surface: str, labels: list[str], similarity: np.ndarray) -> np.ndarray:
    """Name similarity, a fifth of it the likeness of surface and label, letter case included."""
    likeness = np.fromiter((fuzz.ratio(surface, label) / 100 for label in labels), np.float32, len(labels))
    return (0.8 * similarity + 0.2 * likeness).astype(np.float32)


def context_score(context_terms: np.ndarray, entity_terms: list[np.ndarray], idf: np.ndarray) -> np.ndarray:
    """Summed IDF of the terms that context and entity share, squashed to 0..1. `context_terms` is sorted and unique."""
    shared = np.zeros(len(entity_terms), np.float32)
    if len(context_terms) == 0:
        return shared
    for row, terms in enumerate(entity_terms):
        places = np.searchsorted(context_terms, terms)
        places[places == len(context_terms)] = 0
        shared[row] = idf[terms[context_terms[places] == terms]].sum()
    return (shared / (shared + CONTEXT_HALF)).astype(np.float32)


def probabilities(scores: Scores, bias: float, weights: tuple[float, float, float, float]) -> np.ndarray:
    """P(candidate) of a softmax over the candidates and NIL, whose score is 0. Order of weights: as in `Scores`."""
    prior, string, context, kind = weights
    logits = bias + prior * scores.prior + string * scores.string + context * scores.context + kind * scores.type
    if len(logits) == 0:
        return np.empty(0, np.float32)
    top = max(float(np.max(logits)), 0.0)
    exponents = np.exp(logits - top)
    return np.round(exponents / (np.exp(-top) + exponents.sum()), ROUND_DECIMALS).astype(np.float32)


def ranked(probability: np.ndarray, popularity: np.ndarray, qids: np.ndarray) -> np.ndarray:
    """Order of the candidates: most probable, then most popular, then the lower id."""
    return np.lexsort((qids, -popularity.astype(np.int64), -probability))
