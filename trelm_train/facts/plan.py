"""Choose the facts or the mentions that a step asks, and hide them.

A fact is asked where a sentence states it: its tail is replaced by mask tokens wherever the
sentence mentions it, and the masked LM must predict it there, through the head that the exported
model has. A sentence asks at most one fact in a step. Every draw is a hash of (seed, epoch,
sentence), so the facts of a sentence depend neither on its batch nor on the number of ranks.

Without facts a linked mention can be asked by itself: salient-span masking, as REALM (Guu et al.
2020) has it. It stands in `StepFacts` as its own head and tail, without a relation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np

from schemas.array_types import I64, Bools
from schemas.shards import POLICY_BITS
from trelm_train.config import ALL_FACTS
from trelm_train.data.arrays import among, expand, lowest_of_groups, uniform
from trelm_train.data.loader import Batch
from trelm_train.data.masking import MaskedBatch
from trelm_train.data.spellings import spelt

# Legend: F facts of a batch, A and C facts that may serve, G facts that do, P spans, R rows,
# S tokens per row, M targets, T tokens of mentions.

# In the place of a relation where a mention is asked by itself.
NO_RELATION = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFacts:
    """Hold the facts of one step: knowledge rows, both mentions, and the sentence."""

    head_span_G: I64
    tail_span_G: I64
    head_G: I64
    relation_G: I64
    tail_G: I64
    # Number of the sentence within the batch, and its key.
    sentence_G: I64
    key_G: I64

    def __len__(self) -> int:
        return len(self.head_G)

    def take(self, is_taken_G: Bools) -> StepFacts:
        """Return the marked facts."""
        columns = {field.name: getattr(self, field.name)[is_taken_G] for field in fields(self)}
        return StepFacts(**columns)


class Chooser(Protocol):
    """Choose what each batch asks."""

    def choose(self, batch: Batch, masked: MaskedBatch) -> StepFacts:
        """Choose at most one fact or mention per sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _ChooserByPolicy:
    """Draw questions by a policy, in a share of the sentences that have one.

    F counts what may be asked: facts, or mentions.
    """

    policy: str
    # Probability that a sentence with a question of the policy asks one.
    probability: float
    seed: int
    # Whether the facts of statements serve, which no sentence of the corpus states.
    statements: bool = True
    # By token id: the same number for tokens that read the same (`Vocabulary`).
    spelling: I64 | None = None

    def _may_ask(self, batch: Batch, span_F: I64) -> Bools:
        """Say of each question whether draw and policy allow it; the policy speaks of `span_F`."""
        sentence_F = batch.span_sentence_P[span_F]
        # By sentence, not by fact: a sentence with many facts is not asked more often.
        draw_F = uniform(self.seed, "serves", batch.position.epoch, batch.key_N[sentence_F])
        is_wanted_F = policy_marks(batch.span_policies_P[span_F], self.policy)
        is_wanted_F &= self.statements | ~batch.is_statement_N[sentence_F]
        return (draw_F < self.probability) & is_wanted_F

    def _one_per_sentence(self, batch: Batch, purpose: str, asked: I64, sentence_F: I64) -> I64:
        """Return one of the questions `asked` for each sentence; `sentence_F` is of all."""
        # One draw for each, by its number within the sentence; the lowest of a sentence wins.
        sentence_A = sentence_F[asked]
        ordinal_A = asked - np.searchsorted(sentence_F, sentence_A)
        epoch, key_A = batch.position.epoch, batch.key_N[sentence_A]
        draw_A = uniform(self.seed, purpose, epoch, key_A, ordinal_A)
        return asked[lowest_of_groups(draw_A, sentence_A)]


class FactChooser(_ChooserByPolicy):
    """Choose the facts of each batch."""

    __slots__ = ()

    def choose(self, batch: Batch, masked: MaskedBatch) -> StepFacts:
        """Choose at most one fact per sentence, whose head is not masked and not the tail itself.

        A fact whose tail would stay visible in the sentence is not asked. The policy speaks of the
        head: its mention is the one that the probe will name.
        """
        head_span_F, tail_span_F = batch.fact_head_F, batch.fact_tail_F
        sentence_F = batch.span_sentence_P[head_span_F]
        head_F, tail_F = batch.span_entity_P[head_span_F], batch.span_entity_P[tail_span_F]

        # A mention is masked as a whole, so its first token speaks for it.
        is_masked_F = masked.chosen_RS.reshape(-1)[batch.span_start_P[head_span_F]]
        fact = np.flatnonzero(self._may_ask(batch, head_span_F) & ~is_masked_F & (head_F != tail_F))
        named_F = named_elsewhere(batch, tail_span_F[fact], head_span_F[fact], self.spelling)
        fact = fact[~named_F]
        fact_G = self._one_per_sentence(batch, "fact", fact, sentence_F)

        return StepFacts(
            head_span_G=head_span_F[fact_G],
            tail_span_G=tail_span_F[fact_G],
            head_G=head_F[fact_G],
            relation_G=batch.fact_relation_F[fact_G],
            tail_G=tail_F[fact_G],
            sentence_G=sentence_F[fact_G],
            key_G=batch.key_N[sentence_F[fact_G]],
        )


class MentionChooser(_ChooserByPolicy):
    """Choose the mentions of each batch."""

    __slots__ = ()

    def choose(self, batch: Batch, masked: MaskedBatch) -> StepFacts:
        """Choose at most one mention per sentence, whose words stand nowhere else in it.

        A mention that the masks hide anyway may be chosen; it is one target all the same.
        """
        del masked
        sentence_P = batch.span_sentence_P
        span = np.flatnonzero(self._may_ask(batch, np.arange(len(sentence_P))))
        span = span[~named_elsewhere(batch, span, spelling=self.spelling)]
        span_G = self._one_per_sentence(batch, "mention", span, sentence_P)

        entity_G = batch.span_entity_P[span_G]
        return StepFacts(
            head_span_G=span_G,
            tail_span_G=span_G,
            head_G=entity_G,
            relation_G=np.full(len(span_G), NO_RELATION, np.int64),
            tail_G=entity_G,
            sentence_G=sentence_P[span_G],
            key_G=batch.key_N[sentence_P[span_G]],
        )


def named_elsewhere(
    batch: Batch, hidden_C: I64, question_C: I64 | None = None, spelling: I64 | None = None
) -> Bools:
    """Say of some mentions whether their words stay visible when their entity's are hidden.

    A name that is repeated may be linked only once, and other entities may have it too. As for
    injection, the order of tokens is ignored.

    Args:
        batch: the mentions' batch.
        hidden_C: mentions that would be hidden, shape (C,): the tails of facts.
        question_C: for each a mention of another entity whose words do not count, because a
            question about the fact shows them as well: its head.
        spelling: by token id, the same number for tokens that read the same.
    """
    flat = spelt(batch.input_ids_RS.reshape(-1), spelling)
    segment = batch.segment_RS.reshape(-1)
    is_real = segment >= 0
    # A pair (sentence, token id) as one number.
    present = np.sort((segment[is_real] << 32) | flat[is_real])

    # Pairs (entity of a sentence, token id), one for each token of its linked mentions.
    scale = int(batch.span_entity_P.max(initial=0)) + 1
    entities_P = batch.span_sentence_P * scale + batch.span_entity_P
    number_P = np.unique(entities_P, return_inverse=True)[1].astype(np.int64)
    length_P = batch.span_end_P - batch.span_start_P
    token_T = flat[expand(batch.span_start_P, length_P)]
    in_mentions = np.sort((np.repeat(number_P, length_P) << 32) | token_T)

    length_C = length_P[hidden_C]
    owner_T = np.repeat(np.arange(len(hidden_C)), length_C)
    hidden_T = flat[expand(batch.span_start_P[hidden_C], length_C)]
    num_visible_T = _count(present, (batch.span_sentence_P[hidden_C][owner_T] << 32) | hidden_T)
    for span_C in (hidden_C,) if question_C is None else (hidden_C, question_C):
        num_visible_T -= _count(in_mentions, (number_P[span_C][owner_T] << 32) | hidden_T)

    num_gone_C = np.bincount(owner_T, weights=num_visible_T == 0, minlength=len(hidden_C))
    is_named: Bools = num_gone_C == 0
    return is_named


def _count(ordered: I64, values: I64) -> I64:
    """Count how often each value stands in an ordered array."""
    return np.searchsorted(ordered, values, "right") - np.searchsorted(ordered, values, "left")


def policy_marks(policy_bits: I64, policy: str) -> Bools:
    """Mark the mentions that a policy chooses; `all` means every mention, and `none` no mention."""
    if policy == ALL_FACTS:
        return np.ones(len(policy_bits), np.bool_)
    is_chosen: Bools = (policy_bits & POLICY_BITS.get(policy, 0)) != 0
    return is_chosen


def mentions(batch: Batch, sentence_G: I64, entity_G: I64) -> Bools:
    """Mark every mention of an entity in its sentence."""
    # A pair (sentence, entity) as one number.
    scale = int(batch.span_entity_P.max(initial=0)) + 1
    pairs = np.sort(sentence_G * scale + entity_G)
    return among(pairs, batch.span_sentence_P * scale + batch.span_entity_P)


def hide(batch: Batch, input_ids_RS: I64, hidden_P: Bools, mask_id: int) -> I64:
    """Return the token ids with some mentions fully masked."""
    ids = input_ids_RS.copy()
    ids.reshape(-1)[span_tokens(batch, hidden_P)] = mask_id
    return ids


def span_tokens(batch: Batch, chosen_P: Bools) -> I64:
    """Return the flat positions of all tokens of some mentions."""
    start, end = batch.span_start_P[chosen_P], batch.span_end_P[chosen_P]
    return expand(start, end - start)


def ask(batch: Batch, masked: MaskedBatch, hidden_P: Bools) -> MaskedBatch:
    """Make every token of the hidden mentions a target, beside those that are targets already.

    In "Flavia lives in Zenda." with "lives" a target and the fact's tail Zenda hidden, the targets
    are "lives" and "Zenda", and the second one is marked as asked.
    """
    is_asked = np.zeros(batch.input_ids_RS.size, np.bool_)
    is_asked[span_tokens(batch, hidden_P)] = True

    # A tail may be a target of the masks already; it is one target all the same.
    is_target = masked.chosen_RS.reshape(-1) | is_asked
    target_M = np.flatnonzero(is_target)
    return replace(
        masked,
        target_M=target_M,
        gold_M=batch.input_ids_RS.reshape(-1)[target_M],
        chosen_RS=is_target.reshape(masked.chosen_RS.shape),
        asked_M=is_asked[target_M],
    )
