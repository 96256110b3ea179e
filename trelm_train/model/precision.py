"""Choose the number format of matrix products.

Weights, optimiser, losses, notes and attribution stay in float32. In bfloat16 the products and the
values between two of them are bfloat16 (autocast). On a processor without instructions for it
bfloat16 is several times slower, so `auto` asks the processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from schemas.processor import multiplies_bfloat16

# A product of bfloat16 on a processor has a multiple of this many rows.
ROWS_OF_A_PRODUCT = 64
_is_exact: ContextVar[bool] = ContextVar("is_exact", default=False)


def number_format(name: str, device: torch.device) -> torch.dtype:
    """Return float32 or bfloat16; `auto` is bfloat16 where the device multiplies it faster."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32

    # bfloat16 is always possible, and slow where it is emulated.
    is_faster = device.type == "cpu" and multiplies_bfloat16()
    if device.type == "cuda":
        is_faster = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if is_faster else torch.float32


def products(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """Open a `with` block whose matrix products are in `dtype`."""
    # Autocast to float32 would cost time and change nothing.
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def working_dtype(x: Tensor) -> torch.dtype:
    """Return the number format of a linear map of `x`: autocast's where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@contextmanager
def exact_rows() -> Iterator[None]:
    """Add no rows inside a `with` block: where what few rows take is extrapolated to many."""
    token = _is_exact.set(True)
    try:
        yield
    finally:
        _is_exact.reset(token)


def rows_to_add(rows: Tensor, dtype: torch.dtype) -> int:
    """Return how many rows to add to these, so that products of few shapes follow.

    For bfloat16 on a processor, oneDNN compiles a kernel for every number of rows: 35 ms for the
    vocabulary's gradient, where the product took 10. Numbers that follow from a draw differ at every
    step. Nothing is added in float32 or where there is no row.
    """
    if _is_exact.get() or dtype != torch.bfloat16 or rows.device.type != "cpu":
        return 0
    return -len(rows) % ROWS_OF_A_PRODUCT
