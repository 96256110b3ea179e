"""Models that know nothing, or are broken, in every way that a probe must see through."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from trelm_train.model.masked_lm import MaskedLm


@torch.no_grad()
def zeroed(model: MaskedLm) -> MaskedLm:
    """Every weight 0: all logits are equal."""
    for parameter in model.hf.parameters():
        parameter.zero_()
    return model


@contextmanager
def logits_by(model: MaskedLm, edit: Callable[[Tensor], Tensor]) -> Iterator[MaskedLm]:
    """Change the logits of a model (M x V) inside a `with` block."""
    family, plain = model.family, model.family.logits
    family.logits = lambda hidden: edit(plain(hidden))  # type: ignore[method-assign]
    try:
        yield model
    finally:
        family.logits = plain  # type: ignore[method-assign]


def with_one(value: float) -> Callable[[Tensor], Tensor]:
    """Put one value among the logits of the last position."""

    def edit(logits_MV: Tensor) -> Tensor:
        changed = logits_MV.clone()
        changed[-1, 7] = value
        return changed

    return edit
