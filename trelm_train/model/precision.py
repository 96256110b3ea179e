"""The number format of matrix products.

Weights, optimiser, losses, notes and attribution stay in float32; in bfloat16 the products and what lies between two of
them are bfloat16 (autocast). On a processor without instructions for it bfloat16 is several times slower, so `auto` asks.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from schemas.processor import multiplies_bfloat16


def number_format(name: str, device: torch.device) -> torch.dtype:
    """float32 or bfloat16; `auto` is bfloat16 where the device multiplies it faster."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float32
        )
    return torch.bfloat16 if device.type == "cpu" and multiplies_bfloat16() else torch.float32


def products(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """A `with` block whose matrix products are in `dtype`."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
