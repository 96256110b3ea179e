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
from trelm_train.cka.plan import CkaPlan, CkaPlanner
from trelm_train.config import Config
from trelm_train.data.loader import Batch, BatchStream, Position, in_steps, share
from trelm_train.data.masking import MaskedBatch, Vocabulary, mask_batch
from trelm_train.facts.plan import Chooser, StepFacts, ask, hide, mentions
from trelm_train.ranks import Ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Hold one batch of a step, ready for the model."""

    # Within the step, over all ranks.
    number: int
    batch: Batch
    # The targets of the masked LM; those of asked facts are among them.
    masked: MaskedBatch
    # Masked, and without the tails of the facts that serve.
    input_ids_RS: I64
    # Mentions that are hidden for a fact, and get no injection.
    hidden_P: Bools
    # Facts that are asked through the LM head.
    num_asked: int
    cka: CkaPlan | None

    @property
    def num_contrasted(self) -> int:
        """Return the number of facts that count in the contrastive loss."""
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
    # None where no fact serves: facts and contrast are both switched off.
    chooser: Chooser | None = None
    planner: CkaPlanner | None = None

    def __call__(self, batch: Batch, number: int) -> MicroBatch:
        """Return the batch as the model will see it."""
        seed, epoch = self.config.train.seed, batch.position.epoch
        masked = mask_batch(batch, self.config.masking, self.vocabulary, seed=seed, epoch=epoch)

        facts = self.chooser.choose(batch, masked) if self.chooser is not None else None
        if facts is None:
            return MicroBatch(
                number=number,
                batch=batch,
                masked=masked,
                input_ids_RS=masked.input_ids_RS,
                hidden_P=np.zeros(len(batch.span_start_P), np.bool_),
                num_asked=0,
                cka=None,
            )
        return self._with_facts(batch, number, masked, facts)

    def _with_facts(
        self, batch: Batch, number: int, masked: MaskedBatch, facts: StepFacts
    ) -> MicroBatch:
        """Hide the tails of the facts on top of the masks, and ask for them."""
        plan = self.planner.plan(batch, facts) if self.planner is not None else None
        is_asking = self.config.facts.enabled
        # The contrast alone hides only the tails that it can compare.
        hiding = facts if is_asking or plan is None else plan.facts
        hidden_P = mentions(batch, hiding.sentence_G, hiding.tail_G)

        return MicroBatch(
            number=number,
            batch=batch,
            masked=ask(batch, masked, hidden_P) if is_asking else masked,
            input_ids_RS=hide(batch, masked.input_ids_RS, hidden_P, self.vocabulary.mask_id),
            hidden_P=hidden_P,
            num_asked=len(facts) if is_asking else 0,
            cka=plan,
        )


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
