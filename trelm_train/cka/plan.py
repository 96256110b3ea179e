"""What contrastive knowledge assessing asks in a step: facts, hidden tails, candidates. numpy alone.

A plan is a function of (batch, masks, seed), and every draw in it one of (seed, epoch, sentence): it may be made ahead of the
training, on another thread, and does not change with the number of ranks. How many facts count is known from the plan, so
that the loss can be divided by their number over all micro-batches and ranks before any forward.

Negatives: tails of the batch's other facts first, then tails of the relation; no true tail of (h, r, .) is among them, nor
a namesake of one. A fact for which no negative is left is dropped, and its tail stays visible.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from schemas.array_types import I64, Bools
from trelm_train.config import CkaConfig
from trelm_train.data.arrays import among, expand, uniform
from trelm_train.data.knowledge import Knowledge
from trelm_train.data.loader import Batch
from trelm_train.data.masking import MaskedBatch

# Legend: F facts of a batch, G facts that serve in a step, N candidates (the true one first), C (fact, candidate) pairs, U
# distinct candidates, L their label tokens, P spans, R relations per fact.

WRONG_RELATIONS = 3
SAMPLE = 4  # of a relation with many tails, so many times the negatives are drawn: room for those that may not serve


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFacts:
    """The facts of one step: knowledge rows, the head's mention, and the sentence."""

    head_span_G: I64
    head_G: I64
    relation_G: I64
    tail_G: I64
    sentence_G: I64  # within the batch
    key_G: I64  # of the sentence

    def __len__(self) -> int:
        return len(self.head_G)

    def take(self, kept_G: Bools) -> StepFacts:
        """Some of them."""
        return StepFacts(
            **{field.name: getattr(self, field.name)[kept_G] for field in fields(self)}
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Candidates of each fact, padded; column 0 is the true one."""

    row_GN: I64
    valid_GN: Bools


@dataclass(frozen=True, kw_only=True, slots=True)
class CkaPlan:
    """All that the loss of a step needs besides states and weights.

    With tails as candidates there is one relation per fact (R = 1) and N tails; with relations R = N and one tail.
    """

    facts: StepFacts
    hidden_P: Bools  # mentions of a tail: fully masked, and not injected
    head_start_G: I64  # flat range of the head's mention
    head_end_G: I64
    relation_GR: I64
    tail_U: I64  # distinct tails, ascending
    tail_index_GC: I64  # each fact's candidates (or its one tail) in `tail_U`
    valid_GN: Bools

    def __len__(self) -> int:
        """Facts that count: every one has a negative."""
        return len(self.facts)


def choose_facts(batch: Batch, masked: MaskedBatch, config: CkaConfig, *, seed: int) -> StepFacts:
    """At most one fact per sentence, whose head is not masked and not the tail itself."""
    epoch = batch.position.epoch
    sentence_F = batch.span_sentence_P[batch.fact_head_F]
    key_F = batch.key_N[sentence_F]
    head_F, tail_F = batch.span_entity_P[batch.fact_head_F], batch.span_entity_P[batch.fact_tail_F]
    head_masked = masked.chosen_RS.reshape(-1)[batch.span_start_P[batch.fact_head_F]]
    serves = uniform(seed, "serves", epoch, key_F) < config.fact_share
    fact = np.flatnonzero(serves & ~head_masked & (head_F != tail_F))
    draw = uniform(
        seed, "fact", epoch, key_F[fact], fact - np.searchsorted(sentence_F, sentence_F[fact])
    )
    order = fact[np.lexsort((draw, sentence_F[fact]))]
    order = order[np.unique(sentence_F[order], return_index=True)[1]]
    return StepFacts(
        head_span_G=batch.fact_head_F[order],
        head_G=head_F[order],
        relation_G=batch.fact_relation_F[order],
        tail_G=tail_F[order],
        sentence_G=sentence_F[order],
        key_G=key_F[order],
    )


def mentions(batch: Batch, sentence_G: I64, entity_G: I64) -> Bools:
    """Every mention of an entity in its sentence."""
    scale = int(batch.span_entity_P.max(initial=0)) + 1
    asked = np.sort(sentence_G * scale + entity_G)
    return among(asked, batch.span_sentence_P * scale + batch.span_entity_P)


def hide(batch: Batch, input_ids_RS: I64, hidden_P: Bools, mask_id: int) -> I64:
    """Token ids with some mentions fully masked."""
    ids = input_ids_RS.copy()
    start, end = batch.span_start_P[hidden_P], batch.span_end_P[hidden_P]
    ids.reshape(-1)[expand(start, end - start)] = mask_id
    return ids


def tail_contrast(
    facts: StepFacts, knowledge: Knowledge, config: CkaConfig, *, seed: int, epoch: int
) -> Contrast:
    """True tail, then up to N false ones: tails of the batch, then tails of the relation, each in random order."""
    number_G = np.arange(len(facts))
    in_batch = np.unique(facts.tail_G)
    far_fact, far_row = _relation_tails(
        facts, knowledge, config.negatives * SAMPLE, seed=seed, epoch=epoch
    )
    fact_C = np.concatenate([np.repeat(number_G, len(in_batch)), far_fact])
    row_C = np.concatenate([np.tile(in_batch, len(facts)), far_row])
    far_C = np.arange(len(fact_C)) >= len(facts) * len(in_batch)
    names = int(knowledge.name.max(initial=-1)) + 1 if len(knowledge) else 1
    true_fact, true_row = _true_tails(facts, knowledge)
    banned = np.unique(true_fact * names + knowledge.name[true_row])
    allowed = ~among(banned, fact_C * names + knowledge.name[row_C])
    fact_C, row_C, far_C = fact_C[allowed], row_C[allowed], far_C[allowed]
    _, once = np.unique(
        fact_C * len(knowledge) + row_C, return_index=True
    )  # the first: that of the batch
    fact_C, row_C, far_C = fact_C[once], row_C[once], far_C[once]
    draw = uniform(seed, "tail", epoch, facts.key_G[fact_C], row_C)
    order = np.argsort(fact_C * 2 + far_C + draw, kind="stable")
    return _table(facts.tail_G, fact_C[order], row_C[order], config.negatives)


def _relation_tails(
    facts: StepFacts, knowledge: Knowledge, most: int, *, seed: int, epoch: int
) -> tuple[I64, I64]:
    """Fact numbers and tails of their relations: all of them, or a sample of `most` with repeats."""
    counts = knowledge.tails.lengths(facts.relation_G)
    taken = np.minimum(counts, most)
    fact = np.repeat(np.arange(len(facts)), taken)
    ordinal = expand(np.zeros(len(facts), np.int64), taken)
    draw = uniform(seed, "some", epoch, facts.key_G[fact], ordinal)
    many = counts[fact] > most
    place = np.where(many, (draw * counts[fact]).astype(np.int64), ordinal)
    return fact, knowledge.tails.at(knowledge.tails.offsets[facts.relation_G][fact] + place)


def _true_tails(facts: StepFacts, knowledge: Knowledge) -> tuple[I64, I64]:
    """Fact numbers and every tail of (h, r, .), the stated one included."""
    at = knowledge.true_tail.positions(facts.head_G)
    fact = np.repeat(np.arange(len(facts)), knowledge.true_tail.lengths(facts.head_G))
    same = knowledge.true_tail_relation.values[at] == facts.relation_G[fact]
    return (
        np.concatenate([fact[same], np.arange(len(facts))]),
        np.concatenate([knowledge.true_tail.values[at][same], facts.tail_G]),
    )


def relation_contrast(
    facts: StepFacts, knowledge: Knowledge, relation_K: I64, *, seed: int, epoch: int
) -> Contrast:
    """True relation, then three of all relations (`relation_K`, ascending) that do not hold between head and tail."""
    at = knowledge.true_tail.positions(facts.head_G)
    fact = np.repeat(np.arange(len(facts)), knowledge.true_tail.lengths(facts.head_G))
    true = knowledge.true_tail.values[at] == facts.tail_G[fact]
    draw_GK = uniform(seed, "wrong", epoch, facts.key_G[:, None], relation_K[None, :])
    held_fact = np.concatenate([fact[true], np.arange(len(facts))])
    held = np.concatenate([knowledge.true_tail_relation.values[at][true], facts.relation_G])
    draw_GK[held_fact, np.searchsorted(relation_K, held)] = 2.0
    order_GK = np.argsort(draw_GK, axis=1, kind="stable")[:, :WRONG_RELATIONS]
    wrong = np.take_along_axis(draw_GK, order_GK, axis=1) < 1
    fact_C, column = np.nonzero(wrong)
    return _table(facts.relation_G, fact_C, relation_K[order_GK[fact_C, column]], WRONG_RELATIONS)


def _table(true_G: I64, fact_C: I64, row_C: I64, most: int) -> Contrast:
    """The true one and the first `most` false ones of each fact; pairs come fact by fact."""
    counts = np.bincount(fact_C, minlength=len(true_G))
    rank = np.arange(len(fact_C)) - (np.cumsum(counts) - counts)[fact_C]
    width = min(most, int(counts.max(initial=0)))
    row_GN = np.zeros((len(true_G), width + 1), np.int64)
    valid_GN = np.zeros(row_GN.shape, np.bool_)
    row_GN[:, 0], valid_GN[:, 0] = true_G, True
    kept = rank < width
    row_GN[fact_C[kept], rank[kept] + 1] = row_C[kept]
    valid_GN[fact_C[kept], rank[kept] + 1] = True
    return Contrast(row_GN=row_GN, valid_GN=valid_GN)


class CkaPlanner:
    """Plans every step of a run."""

    def __init__(self, config: CkaConfig, knowledge: Knowledge, *, seed: int) -> None:
        self.config, self.knowledge, self.seed = config, knowledge, seed
        self.relation_K: I64 = np.flatnonzero(~knowledge.is_entity)

    def contrast(self, facts: StepFacts, epoch: int) -> Contrast:
        """Candidates of each fact: tails or relations."""
        if self.config.contrast == "tail":
            return tail_contrast(facts, self.knowledge, self.config, seed=self.seed, epoch=epoch)
        return relation_contrast(
            facts, self.knowledge, self.relation_K, seed=self.seed, epoch=epoch
        )

    def plan(self, batch: Batch, masked: MaskedBatch) -> CkaPlan:
        """Facts that serve in a step and have a negative."""
        facts = choose_facts(batch, masked, self.config, seed=self.seed)
        contrast = self.contrast(facts, batch.position.epoch)
        usable = contrast.valid_GN.sum(axis=1) > 1
        facts, row_GN, valid_GN = (
            facts.take(usable),
            contrast.row_GN[usable],
            contrast.valid_GN[usable],
        )
        by_tail = self.config.contrast == "tail"
        asked_GC = row_GN if by_tail else facts.tail_G[:, None]
        tail_U, place = np.unique(asked_GC, return_inverse=True)
        return CkaPlan(
            facts=facts,
            hidden_P=mentions(batch, facts.sentence_G, facts.tail_G),
            head_start_G=batch.span_start_P[facts.head_span_G],
            head_end_G=batch.span_end_P[facts.head_span_G],
            relation_GR=facts.relation_G[:, None] if by_tail else row_GN,
            tail_U=tail_U,
            tail_index_GC=place.reshape(asked_GC.shape),
            valid_GN=valid_GN,
        )
