"""The processes that train together: sums, gathers and decisions over all of them; one process is the same without any.

`torchrun` sets RANK, WORLD_SIZE and LOCAL_RANK. Every rank holds the whole model, optimiser and memory bank and makes the
same update; gradients of the trained tensors are summed in one flat message (with routing that is a small part of the
model). Whatever a decision depends on (loss, gradient norm, a signal) is summed first, so all ranks decide alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from trelm_train.errors import ConfigError, TrelmError

_LOST = (
    "gloo",
    "nccl",
    "connection closed",
    "connection reset",
)  # how torch says that a peer is gone
TIMEOUT = timedelta(minutes=30)  # a rank may wait for another's evaluation or checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and log lines."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum of each number over all ranks, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def highest(self, value: int) -> int:
        """The largest of the ranks' numbers: a signal that any of them got."""
        if self.size == 1:
            return value
        found = torch.tensor([value], dtype=torch.int64)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return int(found.item())

    def sum_gradients(self, tensors: Sequence[Tensor]) -> None:
        """Add up the gradients of all ranks, in place; a tensor to which no rank has one is left without."""
        if self.size == 1 or not tensors:
            return
        found = torch.tensor([tensor.grad is not None for tensor in tensors], dtype=torch.int64)
        dist.all_reduce(found)
        for tensor, anywhere in zip(tensors, found.tolist(), strict=True):
            if anywhere and tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)
        gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
        if not gradients:
            return
        flat = torch.cat([gradient.reshape(-1).float() for gradient in gradients])
        dist.all_reduce(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Sum of each tensor over all ranks, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def gather(self, rows: Tensor) -> Tensor:
        """Rows (… x anything) of all ranks one after the other, in the order of the ranks; their numbers may differ."""
        if self.size == 1:
            return rows
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(rows)
        dist.all_reduce(counts)
        longest = int(counts.max())
        padded = torch.zeros(longest, *rows.shape[1:], dtype=rows.dtype)
        padded[: len(rows)] = rows.cpu()
        parts = [torch.zeros_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat(
            [part[:count] for part, count in zip(parts, counts.tolist(), strict=True)]
        ).to(rows.device)

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The ranks that `torchrun` started, connected inside; alone where it did not.

    Raises:
        ConfigError: its variables make no sense.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    try:
        ranks = Ranks(
            rank=int(os.environ["RANK"]), size=size, local_rank=int(os.environ["LOCAL_RANK"])
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"WORLD_SIZE is {size}, but {error} is wrong; start the ranks with torchrun"
        ) from error
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        torch.cuda.set_device(ranks.local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    try:
        yield ranks
    except RuntimeError as error:
        if any(word in str(error).lower() for word in _LOST):
            raise TrelmError(
                f"rank {ranks.rank}: another rank has ended, its own message says why"
            ) from error
        raise
    finally:
        dist.destroy_process_group()
