"""Connect the processes that train together: sums, gathers and decisions over all of them.

One process does the same without any other. `torchrun` sets RANK, WORLD_SIZE and LOCAL_RANK. Every
rank holds the whole model, optimiser and memory bank and makes the same update; gradients of the
trained tensors are summed in one flat message (with routing that is a small share of the model).
What a decision depends on (loss, gradient norm, a signal) is summed first, so all ranks decide
alike.
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

from schemas.errors import ConfigError, TrelmError
from schemas.parent import end_with_parent

# Words in torch's error when another rank is gone.
_LOST = (
    "gloo",
    "nccl",
    "connection closed",
    "connection reset",
)
# Set to 1, it connects a single rank too: what one GPU can show of the messages between GPUs.
CONNECT_ONE = "TRELM_CONNECT_ONE_RANK"
# A rank may wait for the evaluation or the checkpoint of another one.
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """Say which process this is among those that train together, and talk to the others."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    # Whether a single rank sends its messages all the same, to itself.
    talks_to_itself: bool = False

    @property
    def is_alone(self) -> bool:
        """Say whether there is nobody to talk to."""
        return self.size == 1 and not self.talks_to_itself

    @property
    def is_first(self) -> bool:
        """Say whether this rank writes files and log lines."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum each number over all ranks, in float64."""
        if self.is_alone:
            return list(values)

        # On the processor: gloo serves it also where gradients go through nccl.
        total = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def highest(self, value: int) -> int:
        """Return the largest of the ranks' numbers: a signal that any of them got."""
        if self.is_alone:
            return value

        largest = torch.tensor([value], dtype=torch.int64)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest.item())

    def sum_gradients(self, tensors: Sequence[Tensor]) -> None:
        """Add up the gradients of all ranks, in place.

        A tensor without a gradient on every rank is left without one.
        """
        if self.is_alone or not tensors:
            return

        # A rank whose sentences had no target may lack gradients that others have: it joins with
        # zeros, so that all messages have the same size.
        has_gradient = [tensor.grad is not None for tensor in tensors]
        counts = torch.tensor(has_gradient, dtype=torch.int64)
        dist.all_reduce(counts)
        for tensor, num_ranks in zip(tensors, counts.tolist(), strict=True):
            if num_ranks and tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)

        gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
        if not gradients:
            return
        # One message costs less than one per tensor, and order and sizes are the same on all ranks.
        flat = torch.cat([gradient.reshape(-1).float() for gradient in gradients])
        dist.all_reduce(flat)

        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all ranks, in place."""
        if not self.is_alone:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows (… x anything) of all ranks, in the order of the ranks.

        Ranks may have different numbers of rows.
        """
        if self.is_alone:
            return rows

        # torch gathers tensors of one shape only: pad to the longest, and cut afterwards.
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(rows)
        dist.all_reduce(counts)
        longest = int(counts.max())
        padded = torch.zeros(longest, *rows.shape[1:], dtype=rows.dtype)
        padded[: len(rows)] = rows.cpu()
        of_ranks = [torch.zeros_like(padded) for _ in range(self.size)]
        dist.all_gather(of_ranks, padded)

        pieces = [piece[:count] for piece, count in zip(of_ranks, counts.tolist(), strict=True)]
        return torch.cat(pieces).to(rows.device)

    def wait(self) -> None:
        """Wait until every rank is here."""
        if not self.is_alone:
            dist.barrier()


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Connect the ranks that `torchrun` started, inside a `with` block.

    Without `torchrun` this process is alone. So is a single rank, unless TRELM_CONNECT_ONE_RANK is 1.

    Raises:
        ConfigError: the variables of `torchrun` make no sense.
        TrelmError: another rank has ended.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    # Without `torchrun` there is nothing to connect by.
    is_started = "RANK" in os.environ
    talks_to_itself = is_started and size == 1 and os.environ.get(CONNECT_ONE) == "1"
    if size == 1 and not talks_to_itself:
        yield ALONE
        return

    try:
        ranks = Ranks(
            rank=int(os.environ["RANK"]),
            size=size,
            local_rank=int(os.environ["LOCAL_RANK"]),
            talks_to_itself=talks_to_itself,
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"WORLD_SIZE is {size}, but {error} is wrong; start the ranks with torchrun"
        ) from error

    # A killed `torchrun` leaves its ranks, which would write beside those of the next one.
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()
    # Both back ends on GPUs: counts and decisions stay on the processor.
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        torch.cuda.set_device(ranks.local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)

    try:
        yield ranks
    except RuntimeError as error:
        # torch has no type for this error. The rank that failed has printed its own message.
        if any(word in str(error).lower() for word in _LOST):
            raise TrelmError(
                f"rank {ranks.rank}: another rank has ended, its own message says why"
            ) from error
        raise
    finally:
        dist.destroy_process_group()
