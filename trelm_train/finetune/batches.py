"""Group examples of similar length into batches, and pad them.

The order of an epoch is random, but texts of similar length stand together: padding is work for
nothing. Widths are multiples of 16, so that few shapes occur: bfloat16 on a processor compiles a kernel
for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from schemas.array_types import I64
from trelm_train.finetune.marking import Encoded

# Legend: N examples, R rows of a batch, S tokens per row, P marked spans.

# Batches that are sorted by length together: enough for little padding, few enough for a random order.
SORTED_BATCHES = 50
WIDTH_STEP = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class PaddedBatch:
    """Hold the rows of a batch as tensors, and which examples they are."""

    numbers: I64
    ids_RS: Tensor
    mask_RS: Tensor
    marks_RP: Tensor


def epoch_order(lengths_N: I64, batch: int, seed: int, epoch: int) -> list[I64]:
    """Return the examples of each batch of an epoch; every example is in one of them.

    The same seed and epoch give the same batches.
    """
    rng = np.random.default_rng([seed, epoch])
    order_N = rng.permutation(len(lengths_N))
    chunk = batch * SORTED_BATCHES
    batches: list[I64] = []
    for begin in range(0, len(order_N), chunk):
        some = order_N[begin : begin + chunk]
        some = some[np.argsort(lengths_N[some], kind="stable")]
        batches += [some[start : start + batch] for start in range(0, len(some), batch)]
    # Otherwise every chunk would go from short texts to long ones.
    return [batches[place] for place in rng.permutation(len(batches))]


def by_length(lengths_N: I64, batch: int) -> list[I64]:
    """Return the examples of each batch in the order of their lengths, for evaluation."""
    order_N = np.argsort(lengths_N, kind="stable")
    return [order_N[start : start + batch] for start in range(0, len(order_N), batch)]


def padded(
    encoded: Sequence[Encoded],
    batches: Sequence[I64],
    pad_id: int,
    width: int,
    device: torch.device,
) -> Iterator[PaddedBatch]:
    """Yield batches, padded to their longest text; `width` is the most tokens that a model reads."""
    for numbers in batches:
        rows = [encoded[number] for number in numbers.tolist()]
        longest = max(len(row.ids) for row in rows)
        padded_width = min(-(-longest // WIDTH_STEP) * WIDTH_STEP, max(width, longest))
        ids = np.full((len(rows), padded_width), pad_id, np.int64)
        mask = np.zeros((len(rows), padded_width), np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row.ids)] = row.ids
            mask[place, : len(row.ids)] = 1
        marks = np.asarray([row.marks for row in rows], np.int64)
        yield PaddedBatch(
            numbers=numbers,
            ids_RS=torch.from_numpy(ids).to(device),
            mask_RS=torch.from_numpy(mask).to(device),
            marks_RP=torch.from_numpy(marks).to(device),
        )
