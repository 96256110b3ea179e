"""Measure masked-LM loss on fixed masks of the validation split, and the knowledge score.

The masks are hashes of the sentence, so every model of one tokenizer gets exactly the same
questions. The knowledge score of a fact is (P_true + 0.001) / (mean P_false + 0.001): P is the
probability of a label at the masked mention of the tail, and the false labels are other tails of
the relation with as many tokens (CaliNet, Dong et al. 2022). A model that knows nothing has 1.

A prediction is right only if no other token is as likely. Numbers that are not finite are an error.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.array_types import I64, Bools
from trelm_train.config import MaskingConfig
from trelm_train.data.arrays import expand
from trelm_train.data.knowledge import Knowledge
from trelm_train.data.loader import Batch, Packing, split_batches
from trelm_train.data.masking import MaskedBatch, Vocabulary, mask_batch
from trelm_train.data.shards import Shards
from trelm_train.evaluate.answers import ranks_of
from trelm_train.evaluate.finite import check_finite
from trelm_train.evaluate.mlm_bands import GroupTotals
from trelm_train.facts.plan import named_elsewhere
from trelm_train.memory.memory_bank import note_window
from trelm_train.model.masked_lm import MaskedLm

# Legend: M masked tokens, V vocabulary, R rows, S tokens per row, T tokens of a label,
# H hidden size.

MASK_SEED = 20240520
# Tokens on either side of a mention that are near it, as many as a note of the memory bank reads.
NEAR = 8
SMOOTHING = 0.001
# False labels per fact.
MAX_FALSE = 16
# Tails of a relation that are tried as false labels, evenly spread.
MAX_TRIED = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class MlmReport:
    """Hold the measures of a model.

    Losses are natural-log cross-entropies per masked token; None where nothing was masked.
    """

    num_sentences: int
    num_masked: int
    loss: float | None
    accuracy: float | None
    num_entity_masked: int
    entity_loss: float | None
    # Words within NEAR tokens of a mention whose entity has a row in the memory bank, so a rare
    # one: what a note about the entity should help with.
    num_near_rare_masked: int
    near_rare_loss: float | None
    num_facts: int
    cka_score: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class FactAnswer:
    """Hold how likely the true tail of a fact was, beside false ones; rows are of `knowledge`."""

    # The sentence's row in `examples`.
    sentence: int
    head: int
    relation: int
    tail: int
    # Among the true tail and the false ones, from 1; ties count against the model.
    rank: int
    num_false: int
    p_true: float
    p_false: float

    @property
    def score(self) -> float:
        """Return the knowledge score."""
        return (self.p_true + SMOOTHING) / (self.p_false + SMOOTHING)


@dataclass(slots=True)
class MlmTotals:
    """Add up counts and losses over batches."""

    # Where to stop; 0: at the end of the split.
    max_sentences: int = 0
    # One per fact, where they are wanted.
    answers: list[FactAnswer] | None = None
    # The masked tokens by the band of their entity, where that is wanted.
    groups: GroupTotals | None = None
    sentences: int = 0
    masked: int = 0
    loss: float = 0.0
    right: int = 0
    entity_masked: int = 0
    entity_loss: float = 0.0
    near_rare_masked: int = 0
    near_rare_loss: float = 0.0
    facts: int = 0
    score: float = 0.0


def evaluate_mlm(
    model: MaskedLm,
    vocabulary: Vocabulary,
    shards: Shards,
    knowledge: Knowledge,
    packing: Packing,
    *,
    max_sentences: int = 0,
) -> MlmReport:
    """Measure a model on the validation split.

    With `max_sentences` only about that many sentences are used, from the start of the split: its
    rows lie in random order.

    Raises:
        NotFiniteError: the model gives NaN or infinite logits.
    """
    sums = MlmTotals(max_sentences=max_sentences)
    add_split(sums, model, vocabulary, shards, knowledge, packing)
    return report_of(sums)


def add_split(
    sums: MlmTotals,
    model: MaskedLm,
    vocabulary: Vocabulary,
    shards: Shards,
    knowledge: Knowledge,
    packing: Packing,
) -> None:
    """Ask a model about the validation split, and add up what it answers.

    Raises:
        NotFiniteError: the model gives NaN or infinite logits.
    """
    with model.evaluating(), torch.no_grad():
        for batch in split_batches(shards, packing, "validation", vocabulary.pad_id):
            # The default settings, not those of the run: models of different runs are compared.
            masked = mask_batch(batch, MaskingConfig(), vocabulary, seed=MASK_SEED, epoch=0)
            # Two passes: a hidden tail would change the losses at the masks beside it.
            _add_loss(sums, model, batch, masked, knowledge)
            _add_facts(sums, model, batch, knowledge, vocabulary)
            # Whole batches, so that a sentence's neighbours do not depend on the limit.
            if sums.max_sentences and sums.sentences >= sums.max_sentences:
                break


def report_of(sums: MlmTotals) -> MlmReport:
    """Turn sums into means."""
    return MlmReport(
        num_sentences=sums.sentences,
        num_masked=sums.masked,
        loss=_ratio(sums.loss, sums.masked),
        accuracy=_ratio(sums.right, sums.masked),
        num_entity_masked=sums.entity_masked,
        entity_loss=_ratio(sums.entity_loss, sums.entity_masked),
        num_near_rare_masked=sums.near_rare_masked,
        near_rare_loss=_ratio(sums.near_rare_loss, sums.near_rare_masked),
        num_facts=sums.facts,
        cka_score=_ratio(sums.score, sums.facts),
    )


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None


def span_tokens(batch: Batch) -> Bools:
    """Mark every flat position inside a linked mention."""
    inside = np.zeros(batch.input_ids_RS.size, np.bool_)
    inside[expand(batch.span_start_P, batch.span_end_P - batch.span_start_P)] = True
    return inside


def near_rare(batch: Batch, knowledge: Knowledge) -> Bools:
    """Mark every flat position near a mention of a rare entity, but outside of all mentions."""
    rare = np.flatnonzero(knowledge.bank_row[batch.span_entity_P] >= 0)
    start, end = note_window(batch, rare, NEAR)
    is_near = np.zeros(batch.input_ids_RS.size, np.bool_)
    is_near[expand(start, end - start)] = True
    return is_near & ~span_tokens(batch)


def _add_loss(
    sums: MlmTotals, model: MaskedLm, batch: Batch, masked: MaskedBatch, knowledge: Knowledge
) -> None:
    """Add the losses at the masked tokens of a batch."""
    sums.sentences += len(batch.key_N)
    if not len(masked.target_M):
        return

    hidden_RSH = model.encode(model.pack(batch, masked.input_ids_RS))
    target_M = torch.from_numpy(masked.target_M)
    hidden_MH = hidden_RSH.reshape(-1, model.hidden_size)[target_M]
    logits_MV = model.logits(hidden_MH).float().cpu()
    check_finite(model, logits_MV, "the validation split")
    gold_M = torch.from_numpy(masked.gold_M)

    # Double precision: a long sum of small numbers would lose digits.
    loss_M = F.cross_entropy(logits_MV, gold_M, reduction="none").double()
    # Targets inside a linked mention: what knowledge should help with.
    is_entity_M = torch.from_numpy(span_tokens(batch)[masked.target_M])
    sums.masked += len(gold_M)
    sums.loss += float(loss_M.sum())
    # Right only where no other token has as high a logit: `argmax` would take the first of equals.
    is_right_M = ranks_of(logits_MV, logits_MV.gather(1, gold_M[:, None])) == 1
    sums.right += int(is_right_M.sum())
    sums.entity_masked += int(is_entity_M.sum())
    sums.entity_loss += float(loss_M[is_entity_M].sum())
    is_near_rare = near_rare(batch, knowledge)
    is_near_M = torch.from_numpy(is_near_rare[masked.target_M])
    sums.near_rare_masked += int(is_near_M.sum())
    sums.near_rare_loss += float(loss_M[is_near_M].sum())
    if sums.groups is not None:
        sums.groups.add(batch, is_near_rare, masked.target_M, loss_M.numpy(), is_right_M.numpy())


def _add_facts(
    sums: MlmTotals, model: MaskedLm, batch: Batch, knowledge: Knowledge, vocabulary: Vocabulary
) -> None:
    """Add the knowledge scores of one fact per sentence."""
    # As training asks them: neither a fact of an item with itself, nor one that the sentence tells.
    head_F, tail_F = batch.fact_head_F, batch.fact_tail_F
    facts = np.flatnonzero(batch.span_entity_P[head_F] != batch.span_entity_P[tail_F])
    facts = facts[~named_elsewhere(batch, tail_F[facts], head_F[facts], vocabulary.spelling)]
    facts = facts[np.unique(batch.span_sentence_P[tail_F[facts]], return_index=True)[1]]
    if not len(facts):
        return

    # Every mention of a tail is hidden in its sentence.
    tails = batch.fact_tail_F[facts]
    ids = batch.input_ids_RS.copy()
    sentence, entity = batch.span_sentence_P, batch.span_entity_P
    for tail in tails.tolist():
        spans = np.flatnonzero((sentence == sentence[tail]) & (entity == entity[tail]))
        span_lengths = batch.span_end_P[spans] - batch.span_start_P[spans]
        hidden = expand(batch.span_start_P[spans], span_lengths)
        ids.reshape(-1)[hidden] = vocabulary.mask_id

    # Log-probabilities at the tokens of all tails, one tail after the other.
    states = model.encode(model.pack(batch, ids)).reshape(-1, model.hidden_size)
    start, lengths = batch.span_start_P[tails], (batch.span_end_P - batch.span_start_P)[tails]
    position = torch.from_numpy(expand(start, lengths)).to(model.device)
    logits = model.logits(states[position]).float()
    check_finite(model, logits, "the masked tails")
    log_p = F.log_softmax(logits, -1).cpu()

    for fact, log_p_TV in zip(facts.tolist(), torch.split(log_p, lengths.tolist()), strict=True):
        answer = _answer(log_p_TV, batch, fact, knowledge)
        if answer is None:
            continue
        sums.facts += 1
        sums.score += answer.score
        if sums.answers is not None:
            sums.answers.append(answer)


def _answer(log_p_TV: Tensor, batch: Batch, fact: int, knowledge: Knowledge) -> FactAnswer | None:
    """Compare the true tail of a fact with false ones.

    None where its label has another length than its mention, or no false label has that length.
    """
    head = int(batch.span_entity_P[batch.fact_head_F[fact]])
    tail = int(batch.span_entity_P[batch.fact_tail_F[fact]])
    relation = int(batch.fact_relation_F[fact])
    length = len(log_p_TV)

    tails = knowledge.tails.of(relation)
    # Every true tail is left out, not the stated one alone: none of them is a wrong answer.
    true = np.append(knowledge.true_tails(head, relation), tail)
    # Every n-th tail of the relation: a bound on the time that keeps the spread.
    spread = np.unique(tails[:: 1 + len(tails) // MAX_TRIED])
    wrong = knowledge.without_names_of(spread, true)
    wrong = wrong[knowledge.label_ids.lengths(wrong) == length][:MAX_FALSE]
    if len(knowledge.label_ids.of(tail)) != length or not len(wrong):
        return None

    def probability(row: int) -> float:
        # The product over the tokens of the label, each at its masked position.
        label: I64 = knowledge.label_ids.of(row)
        return float(log_p_TV[torch.arange(length), torch.from_numpy(label)].sum().exp())

    p_true, p_wrong = probability(tail), [probability(row) for row in wrong.tolist()]
    return FactAnswer(
        sentence=int(batch.key_N[batch.span_sentence_P[batch.fact_tail_F[fact]]]),
        head=head,
        relation=relation,
        tail=tail,
        rank=1 + sum(p >= p_true for p in p_wrong),
        num_false=len(p_wrong),
        p_true=p_true,
        p_false=float(np.mean(p_wrong)),
    )
