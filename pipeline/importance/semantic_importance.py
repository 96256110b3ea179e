"""Compute semantic importance (TRELM, Yan et al. 2024).

Semantic importance is how much the meaning of a sentence changes when an entity is replaced:

    SI(e) = |x_o| |x_rep| / (x_o . x_rep)

That is the inverse cosine of the sentence, x_o, and of the sentence with e replaced, x_rep. It has
a pole at 0, so the cosine is stored, entities are ranked by 1 - cosine, and
si = 1 / max(cosine, 1e-4).
"""

from __future__ import annotations

import numpy as np

from schemas.array_types import F32, Floats

MIN_COSINE = 1e-4


def semantic_importance(cosine: Floats) -> F32:
    """Return the semantic importance of cosines, bounded at the pole; same shape."""
    return (1 / np.maximum(cosine, MIN_COSINE)).astype(np.float32)
