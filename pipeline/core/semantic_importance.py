"""Semantic importance: how much a sentence's meaning changes when an entity is replaced (TRELM, Yan et al. 2024).

SI(e) = |x_o| |x_rep| / (x_o . x_rep), the inverse cosine of the sentence and of the sentence with e replaced. It has a pole
at 0, so the cosine is stored, entities are ranked by 1 - cosine, and si = 1 / max(cosine, 1e-4).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIN_COSINE = 1e-4
COSINE_DECIMALS = 4  # batching changes the last bits: rounded before any selection

Span = tuple[int, int]


def replaced(ids: np.ndarray, spans: Sequence[Span], token: int | None) -> np.ndarray:
    """Token ids with every token of the spans replaced by `token`, or left out where it is None. Shape (n,)."""
    inside = np.zeros(len(ids), bool)
    for start, end in spans:
        inside[start:end] = True
    if token is None:
        return ids[~inside]
    return np.where(inside, token, ids)


def window(length: int, span: Span, width: int) -> Span:
    """At most `width` tokens of a sentence of `length`, with the span in the middle where the ends allow."""
    if length <= width:
        return 0, length
    middle = (span[0] + span[1]) // 2
    start = min(max(middle - width // 2, 0), length - width)
    return start, start + width


def cosines(originals: np.ndarray, variants: np.ndarray) -> np.ndarray:
    """Row-wise cosines of two (n, d) arrays, rounded to COSINE_DECIMALS; 0 where a vector is zero. Shape (n,).

    A zero vector is a sentence of which nothing is left: all its meaning is gone.
    """
    left, right = originals.astype(np.float64), variants.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products = np.sum(left * right, axis=1)
    values = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return np.round(values, COSINE_DECIMALS).astype(np.float32)


def semantic_importance(cosine: np.ndarray) -> np.ndarray:
    """SI of cosines, bounded at the pole. Shape (n,)."""
    return (1 / np.maximum(cosine, MIN_COSINE)).astype(np.float32)
