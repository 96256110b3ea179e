"""Plan contrastive knowledge assessing: the candidates of each fact of a step.

The plan is made in numpy alone. It is a function of (batch, facts, seed), and every draw in it one
of (seed, epoch, sentence): it may be made ahead of the training, on another thread, and does not
change with the number of ranks. How many facts count is known from the plan, so that the loss can
be divided by their number over all micro-batches and ranks before any forward pass.

Negatives are tails of the batch's other facts, and after these tails of the relation. No true tail
of (h, r, .) is among them, nor an entity with the name of one. A fact for which no negative is left
is dropped from the plan; `facts.plan` says which facts there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.array_types import I64, Bools
from trelm_train.config import CkaConfig
from trelm_train.data.arrays import among, expand, uniform
from trelm_train.data.knowledge import Knowledge
from trelm_train.data.loader import Batch
from trelm_train.facts.plan import StepFacts

# Legend: F facts of a batch, G facts that serve in a step, N candidates (the true one first),
# C (fact, candidate) pairs, K relations, U distinct candidates, P spans, R relations per fact.

WRONG_RELATIONS = 3
# Of a relation with many tails, this many times the negatives are drawn: room for tails that may
# not serve.
SAMPLE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Hold the candidates of each fact, padded; column 0 is the true one."""

    row_GN: I64
    valid_GN: Bools


@dataclass(frozen=True, kw_only=True, slots=True)
class CkaPlan:
    """Hold all that the loss of a step needs besides states and weights.

    A batch of "Rudolf Rassendyll lives in Strelsau." and "Flavia lives in Bolivar Town.", with two
    negatives, row 20 for "lives in", rows 4, 5, 7 and 8 for Strelsau, Bolivar Town, Golden City and
    Zenda. Each fact gets the tail of the other one, then another tail of the relation:

    | field           | fact 1                    | fact 2                           |
    |-----------------|---------------------------|----------------------------------|
    | head_start, end | 1, 3 (rudolf rassendyll)  | 9, 10 (flavia)                   |
    | relation_GR     | 20                        | 20                               |
    | tail_index_GC   | 0, 1, 3                   | 1, 0, 2                          |
    | in tail_U       | 4, 5, 8 (Strelsau first)  | 5, 4, 7 (Bolivar Town first)     |

    Here tail_U is 4, 5, 7, 8.

    With tails as candidates there is one relation per fact (R = 1) and N tails; with relations
    R = N and there is one tail.
    """

    facts: StepFacts
    # Flat ranges of the head's mention, and of the tail's.
    head_start_G: I64
    head_end_G: I64
    tail_start_G: I64
    tail_end_G: I64
    relation_GR: I64
    # Distinct tails, ascending, and where each fact's candidates (or its one tail) stand there.
    tail_U: I64
    tail_index_GC: I64
    valid_GN: Bools

    def __len__(self) -> int:
        """Return the number of facts that count: every one has a negative."""
        return len(self.facts)


def tail_contrast(
    facts: StepFacts, knowledge: Knowledge, config: CkaConfig, *, seed: int, epoch: int
) -> Contrast:
    """Return the true tail, then up to N false ones.

    Tails of the batch come before tails of the relation, each in random order.
    """
    num_facts, num_rows = len(facts), len(knowledge)

    # All pairs of a fact and a candidate: "near" ones from the batch, "far" ones by the relation.
    in_batch = np.unique(facts.tail_G)
    far_fact, far_row = _relation_tails(
        facts, knowledge, config.negatives * SAMPLE, seed=seed, epoch=epoch
    )
    near_fact = np.repeat(np.arange(num_facts), len(in_batch))
    fact_C = np.concatenate([near_fact, far_fact])
    row_C = np.concatenate([np.tile(in_batch, num_facts), far_row])
    is_far_C = np.arange(len(fact_C)) >= num_facts * len(in_batch)

    # Drop candidates that have the name of a true tail. A pair (fact, name) as one number.
    num_names = int(knowledge.name.max(initial=-1)) + 1 if num_rows else 1
    true_fact, true_row = _true_tails(facts, knowledge)
    banned = np.unique(true_fact * num_names + knowledge.name[true_row])
    is_allowed_C = ~among(banned, fact_C * num_names + knowledge.name[row_C])
    fact_C, row_C, is_far_C = fact_C[is_allowed_C], row_C[is_allowed_C], is_far_C[is_allowed_C]

    # Drop repeats. `np.unique` keeps the first of equal pairs, which is the near one.
    _, unique = np.unique(fact_C * num_rows + row_C, return_index=True)
    fact_C, row_C, is_far_C = fact_C[unique], row_C[unique], is_far_C[unique]

    # Sort by fact, near before far, then by draw: a draw is below 1.
    draw_C = uniform(seed, "tail", epoch, facts.key_G[fact_C], row_C)
    order = np.argsort(fact_C * 2 + is_far_C + draw_C, kind="stable")
    return _contrast(facts.tail_G, fact_C[order], row_C[order], config.negatives)


def _relation_tails(
    facts: StepFacts, knowledge: Knowledge, limit: int, *, seed: int, epoch: int
) -> tuple[I64, I64]:
    """Return fact numbers and tails of their relations.

    These are all tails of a relation, or a sample of `limit` with repeats.
    """
    count_G = knowledge.tails.lengths(facts.relation_G)
    drawn_G = np.minimum(count_G, limit)
    fact_C = np.repeat(np.arange(len(facts)), drawn_G)
    ordinal_C = expand(np.zeros(len(facts), np.int64), drawn_G)

    draw_C = uniform(seed, "some", epoch, facts.key_G[fact_C], ordinal_C)
    count_C = count_G[fact_C]
    number_C = np.where(count_C > limit, (draw_C * count_C).astype(np.int64), ordinal_C)
    first_C = knowledge.tails.offsets[facts.relation_G][fact_C]
    return fact_C, knowledge.tails.at(first_C + number_C)


def _true_tails(facts: StepFacts, knowledge: Knowledge) -> tuple[I64, I64]:
    """Return fact numbers and every tail of (h, r, .), the stated one included."""
    position = knowledge.true_tail.positions(facts.head_G)
    fact = np.repeat(np.arange(len(facts)), knowledge.true_tail.lengths(facts.head_G))
    is_relation = knowledge.true_tail_relation.values[position] == facts.relation_G[fact]

    return (
        np.concatenate([fact[is_relation], np.arange(len(facts))]),
        np.concatenate([knowledge.true_tail.values[position][is_relation], facts.tail_G]),
    )


def relation_contrast(
    facts: StepFacts, knowledge: Knowledge, relation_K: I64, *, seed: int, epoch: int
) -> Contrast:
    """Return the true relation, then three that do not hold between head and tail.

    They are drawn from all relations (`relation_K`, ascending).
    """
    draw_GK = uniform(seed, "wrong", epoch, facts.key_G[:, None], relation_K[None, :])

    # Every relation that holds between head and tail, the stated one included.
    position = knowledge.true_tail.positions(facts.head_G)
    fact = np.repeat(np.arange(len(facts)), knowledge.true_tail.lengths(facts.head_G))
    is_tail = knowledge.true_tail.values[position] == facts.tail_G[fact]
    true_fact = np.concatenate([fact[is_tail], np.arange(len(facts))])
    true_relation = knowledge.true_tail_relation.values[position][is_tail]
    true_relation = np.concatenate([true_relation, facts.relation_G])

    # A draw is below 1, so 2 puts relations that hold behind all others.
    draw_GK[true_fact, np.searchsorted(relation_K, true_relation)] = 2.0
    order_GK = np.argsort(draw_GK, axis=1, kind="stable")[:, :WRONG_RELATIONS]
    is_wrong = np.take_along_axis(draw_GK, order_GK, axis=1) < 1

    fact_C, column_C = np.nonzero(is_wrong)
    row_C = relation_K[order_GK[fact_C, column_C]]
    return _contrast(facts.relation_G, fact_C, row_C, WRONG_RELATIONS)


def _contrast(true_G: I64, fact_C: I64, row_C: I64, limit: int) -> Contrast:
    """Lay out the true candidate and the first `limit` false ones of each fact.

    Pairs must come fact by fact.
    """
    # The number of each pair within its fact.
    count_G = np.bincount(fact_C, minlength=len(true_G))
    rank_C = np.arange(len(fact_C)) - (np.cumsum(count_G) - count_G)[fact_C]

    width = min(limit, int(count_G.max(initial=0)))
    row_GN = np.zeros((len(true_G), width + 1), np.int64)
    valid_GN = np.zeros(row_GN.shape, np.bool_)
    row_GN[:, 0], valid_GN[:, 0] = true_G, True

    fits_C = rank_C < width
    row_GN[fact_C[fits_C], rank_C[fits_C] + 1] = row_C[fits_C]
    valid_GN[fact_C[fits_C], rank_C[fits_C] + 1] = True
    return Contrast(row_GN=row_GN, valid_GN=valid_GN)


class CkaPlanner:
    """Plan every step of a run."""

    def __init__(self, config: CkaConfig, knowledge: Knowledge, *, seed: int) -> None:
        self.config, self.knowledge, self.seed = config, knowledge, seed
        self.relation_K: I64 = np.flatnonzero(~knowledge.is_entity)

    def contrast(self, facts: StepFacts, epoch: int) -> Contrast:
        """Choose the candidates of each fact: tails or relations."""
        if self.config.contrast == "tail":
            return tail_contrast(facts, self.knowledge, self.config, seed=self.seed, epoch=epoch)
        return relation_contrast(
            facts, self.knowledge, self.relation_K, seed=self.seed, epoch=epoch
        )

    def plan(self, batch: Batch, facts: StepFacts) -> CkaPlan:
        """Plan the facts that serve in a step; drop those without a negative."""
        contrast = self.contrast(facts, batch.position.epoch)

        has_negative = contrast.valid_GN.sum(axis=1) > 1
        facts = facts.take(has_negative)
        row_GN, valid_GN = contrast.row_GN[has_negative], contrast.valid_GN[has_negative]

        # The vectors of distinct tails are computed once; facts refer to them by index.
        by_tail = self.config.contrast == "tail"
        tail_GC = row_GN if by_tail else facts.tail_G[:, None]
        tail_U, tail_index = np.unique(tail_GC, return_inverse=True)

        return CkaPlan(
            facts=facts,
            head_start_G=batch.span_start_P[facts.head_span_G],
            head_end_G=batch.span_end_P[facts.head_span_G],
            tail_start_G=batch.span_start_P[facts.tail_span_G],
            tail_end_G=batch.span_end_P[facts.tail_span_G],
            relation_GR=facts.relation_G[:, None] if by_tail else row_GN,
            tail_U=tail_U,
            tail_index_GC=tail_index.reshape(tail_GC.shape),
            valid_GN=valid_GN,
        )
