"""Semantic importance: how much a sentence's meaning changes when an entity is replaced (TRELM, Yan et al. 2024).

SI(e) = |x_o| |x_rep| / (x_o . x_rep), the inverse cosine of the sentence and of the sentence with e replaced. It has a pole
at 0, so the cosine is stored, entities are ranked by 1 - cosine, and si = 1 / max(cosine, 1e-4).
"""

from __future__ import annotations

from typing import Any

import numpy as np

MIN_COSINE = 1e-4
COSINE_DECIMALS = 4  # batching changes the last bits: whoever selects by a cosine rounds it first

Span = tuple[Any, Any]  # ints, or arrays of them


def window(length: Any, span: Span, width: int) -> Span:  # noqa: ANN401 - as Span
    """At most `width` tokens of a sentence of `length`, with the span in the middle where the ends allow."""
    middle = (span[0] + span[1]) // 2
    start = np.clip(middle - width // 2, 0, np.maximum(length - width, 0))
    return start, np.minimum(start + width, length)


def cosines(originals: np.ndarray, variants: np.ndarray) -> np.ndarray:
    """Row-wise cosines of two (n, d) arrays, float64 (n,); 0 where a vector is zero.

    A zero vector is a sentence of which nothing is left: all its meaning is gone.
    """
    left, right = originals.astype(np.float64), variants.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products = np.sum(left * right, axis=1)
    return np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)


def semantic_importance(cosine: np.ndarray) -> np.ndarray:
    """SI of cosines, bounded at the pole. Shape (n,)."""
    return (1 / np.maximum(cosine, MIN_COSINE)).astype(np.float32)
