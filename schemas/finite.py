"""Find tensors with NaN or infinite numbers, for both programs; torch is not imported."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def not_finite(tensors: Iterable[tuple[str, Any]]) -> list[str]:
    """Return the names of the torch tensors that hold a NaN or an infinite number.

    It costs one pass over the numbers, and a byte for each number of the largest tensor.
    """
    return [
        name
        for name, tensor in tensors
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
