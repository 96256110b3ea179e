"""Semantic importance: how much a sentence's meaning changes when an entity is replaced (TRELM, Yan et al. 2024).

SI(e) = |x_o| |x_rep| / (x_o . x_rep), the inverse cosine of the sentence and of the sentence with e replaced. It has a pole
at 0, so the cosine is stored, entities are ranked by 1 - cosine, and si = 1 / max(cosine, 1e-4).
"""

from __future__ import annotations

import numpy as np

MIN_COSINE = 1e-4


def semantic_importance(cosine: np.ndarray) -> np.ndarray:
    """SI of cosines, bounded at the pole. Shape (n,)."""
    return (1 / np.maximum(cosine, MIN_COSINE)).astype(np.float32)
