"""Prepare what a step trains on: its batches, masked, with the facts that serve, ahead in a thread.

A step takes the next `micro_batches` batches of the stream. Rank r of W prepares every W-th of
them, so the step is the same for any number of ranks, up to the order of sums. Everything here is
numpy and a pure function of (seed, position).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from schemas.array_types import I64, Bools
from trelm_train.cka.plan import CkaPlan, CkaPlanner, hide
from trelm_train.config import Config
from trelm_train.data.loader import Batch, BatchStream, Position, in_steps, share
from trelm_train.data.masking import MaskedBatch, Vocabulary, mask_batch
from trelm_train.ranks import Ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Hold one batch of a step, ready for the model."""

    # Within the step, over all ranks.
    number: int
    batch: Batch
    masked: MaskedBatch
    # Masked, and without the tails of the facts that serve.
    input_ids_RS: I64
    cka: CkaPlan | None

    @property
    def hidden_P(self) -> Bools:
        """Mark the mentions that are hidden for a fact, and get no injection."""
        if self.cka is None:
            return np.zeros(len(self.batch.span_start_P), np.bool_)
        return self.cka.hidden_P

    @property
    def num_facts(self) -> int:
        """Return the number of facts that count in the loss."""
        return len(self.cka) if self.cka is not None else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInputs:
    """Hold this rank's batches of one step (perhaps none), and where the stream goes on."""

    micro_batches: tuple[MicroBatch, ...]
    following: Position


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPreparer:
    """Prepare a batch for the model: masks, facts, hidden tails."""

    config: Config
    vocabulary: Vocabulary
    planner: CkaPlanner | None

    def __call__(self, batch: Batch, number: int) -> MicroBatch:
        """Return the batch as the model will see it."""
        seed, epoch = self.config.train.seed, batch.position.epoch
        masked = mask_batch(batch, self.config.masking, self.vocabulary, seed=seed, epoch=epoch)

        # Tails are hidden on top of the masks, and are no masked-LM targets.
        ids, plan = masked.input_ids_RS, None
        if self.planner is not None:
            plan = self.planner.plan(batch, masked)
            ids = hide(batch, ids, plan.hidden_P, self.vocabulary.mask_id)

        return MicroBatch(number=number, batch=batch, masked=masked, input_ids_RS=ids, cka=plan)


def stream_step_inputs(
    stream: BatchStream,
    start: Position,
    ranks: Ranks,
    per_step: int,
    prepare: Callable[[Batch, int], MicroBatch],
) -> Iterator[StepInputs]:
    """Yield the inputs of all steps from a position on, without end."""
    for positions, following in in_steps(stream.positions(start), per_step):
        # The number of a batch within the step seeds its dropout, so it must not depend on the
        # rank.
        numbers = range(ranks.rank, per_step, ranks.size)
        of_rank = share(positions, ranks.rank, ranks.size)
        micro_batches = tuple(
            prepare(stream.at(position), number)
            for position, number in zip(of_rank, numbers, strict=True)
        )
        yield StepInputs(micro_batches=micro_batches, following=following)
