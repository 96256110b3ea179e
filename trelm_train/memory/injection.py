"""Knowledge injection: which mentions get a vector, which vector, and the edit of the input embeddings.

`K(e) = v_tail - v_rel` where e is the head, `v_head + v_rel` where it is the tail (DKPLM, Zhang et al. 2022); v is
the mean of the initial model's word embeddings over the label. A triple whose other entity is named in the same sentence,
by a linked mention or by all tokens of its label, is never used: it would state, in some direction, what the sentence
asks. K(e) and the bank's M(e) are scaled to the mean token-embedding norm, then `inj(e) = alpha K(e) + (1 - alpha) M(e)`,
and a mention's token embedding becomes `(1 - lambda) t + lambda inj(e)`.

Two halves: `Injector.draw` is numpy alone and knows neither step nor model, so that it may run ahead of the training;
`Injector.vectors` reads the bank as it stands before the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.array_types import F64, I64, Bools
from schemas.shards import POLICY_BITS
from trelm_train.config import InjectionConfig
from trelm_train.data.arrays import Ragged, among, expand, uniform
from trelm_train.data.knowledge import Knowledge
from trelm_train.data.loader import Batch
from trelm_train.memory.memory_bank import MemoryBank

MAX_TRIPLES = 64  # of an entity with more, so many are drawn before the unusable ones are left out
# Legend: P spans of a batch, J injected spans, C triples looked at, K rows of `knowledge`, n asked rows, V vocabulary, H hidden
# size.


@dataclass(frozen=True, kw_only=True, slots=True)
class InitialEmbeddings:
    """What the initial model fixes for the whole run: its word embeddings, and the scale of one.

    Label vectors are made when they are asked for: kept for all K rows, they would take 4 K H bytes.
    """

    table_VH: Tensor
    label_ids: Ragged
    token_norm: float

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.table_VH.shape[1]

    def vectors(self, row_n: I64) -> Tensor:
        """Mean word embedding of the labels of some knowledge rows, as n x H; zeros for a label without tokens."""
        device = self.table_VH.device
        lengths = self.label_ids.lengths(row_n)
        values = torch.from_numpy(self.label_ids.take(row_n)).to(device)
        offsets = torch.from_numpy(np.cumsum(lengths) - lengths).to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return F.embedding_bag(values, self.table_VH, offsets, mode="mean")


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnMentions:
    """Mentions that may be injected in a step, as far as the batch alone tells."""

    span_J: I64
    triple_J: I64  # index into the flat triples, -1: none
    row_J: I64  # in the memory bank, -1: none
    sentence_J: I64  # key


@dataclass(frozen=True, kw_only=True, slots=True)
class Injection:
    """The vectors of one step."""

    span_J: I64
    vector_JH: Tensor
    triple_J: I64  # index into the flat triples, -1: none


def freeze_embeddings(word_embeddings_VH: Tensor, knowledge: Knowledge) -> InitialEmbeddings:
    """A frozen copy of the initial word embeddings, where they lie."""
    table_VH = word_embeddings_VH.detach().to(torch.float32, copy=True)
    return InitialEmbeddings(
        table_VH=table_VH,
        label_ids=knowledge.label_ids,
        token_norm=float(table_VH.norm(dim=1).mean()),
    )


def chosen_spans(batch: Batch, policy: str) -> Bools:
    """Mentions that the policy chooses."""
    chosen: Bools = (batch.span_policies_P & POLICY_BITS.get(policy, 0)) != 0
    return chosen


def sample_triples(batch: Batch, span_J: I64, knowledge: Knowledge, *, seed: int) -> I64:
    """One usable triple per mention (index into the flat triples), or -1; never one whose other end is in the sentence."""
    entity = batch.span_entity_P[span_J]
    counts = knowledge.triple_other.lengths(entity)
    looked_at = np.minimum(counts, MAX_TRIPLES)
    owner = np.repeat(np.arange(len(span_J)), looked_at)
    sentence = batch.key_N[batch.span_sentence_P[span_J]]
    keys = (batch.position.epoch, sentence[owner], batch.span_ordinal_P[span_J][owner])
    ordinal = expand(np.zeros(len(span_J), np.int64), looked_at)
    spread = (uniform(seed, "spread", *keys, ordinal) * counts[owner]).astype(np.int64)
    triple = knowledge.triple_other.offsets[entity][owner] + np.where(
        counts[owner] > MAX_TRIPLES, spread, ordinal
    )
    usable = usable_triples(batch, batch.span_sentence_P[span_J][owner], triple, knowledge)
    draw = uniform(seed, "triple", *keys, triple)[usable]
    owner, triple = owner[usable], triple[usable]
    order = np.lexsort((draw, owner))
    first_owner, first = np.unique(owner[order], return_index=True)
    sampled = np.full(len(span_J), -1, np.int64)
    sampled[first_owner] = triple[order][first]
    return sampled


def usable_triples(batch: Batch, sentence_C: I64, triple_C: I64, knowledge: Knowledge) -> Bools:
    """Whether a sentence of the batch may read a triple: its other end must not be named there."""
    other_C = knowledge.triple_other.at(triple_C)
    num_rows = len(knowledge)
    mentioned = np.unique(batch.span_sentence_P * num_rows + batch.span_entity_P)
    linked_C = among(mentioned, sentence_C * num_rows + other_C)
    usable: Bools = ~(linked_C | spelt_out(batch, sentence_C, other_C, knowledge.label_ids))
    return usable


def spelt_out(batch: Batch, sentence_C: I64, row_C: I64, label_ids: Ragged) -> Bools:
    """Whether every token of a row's label stands in a sentence: a mention that was not linked, or a namesake's.

    Order is not looked at; one token too many left out costs an injection, one too few tells an answer.
    """
    segment = batch.segment_RS.reshape(-1)
    own = segment >= 0
    present = np.unique((segment[own] << 32) | batch.input_ids_RS.reshape(-1)[own])
    lengths = label_ids.lengths(row_C)
    asked = (np.repeat(sentence_C, lengths) << 32) | label_ids.take(row_C)
    found = np.concatenate([np.zeros(1, np.int64), np.cumsum(among(present, asked))])
    ends = np.cumsum(lengths)
    complete: Bools = (lengths > 0) & (found[ends] - found[ends - lengths] == lengths)
    return complete


def triple_vectors(knowledge: Knowledge, initial: InitialEmbeddings, triple_J: I64) -> Tensor:
    """K(e) of each sampled triple, as J x H."""
    rows = np.concatenate(
        [knowledge.triple_other.values[triple_J], knowledge.triple_relation.values[triple_J]]
    )
    other, relation = initial.vectors(rows).chunk(2)
    sign = np.where(knowledge.triple_is_head.values[triple_J] != 0, -1.0, 1.0).astype(np.float32)
    return other + torch.from_numpy(sign)[:, None].to(other.device) * relation


def scaled(vectors_JH: Tensor, norm: float) -> Tensor:
    """Each vector at the same length."""
    return F.normalize(vectors_JH, dim=-1) * norm


class Injector:
    """Plans the injection of a step."""

    def __init__(
        self,
        config: InjectionConfig,
        knowledge: Knowledge,
        initial: InitialEmbeddings,
        *,
        seed: int,
    ) -> None:
        self.config, self.knowledge, self.initial, self.seed = config, knowledge, initial, seed

    def candidates(self, batch: Batch, chosen_RS: Bools, blocked_P: Bools) -> I64:
        """Mentions to inject: wanted by the policy, not blocked, not dropped, half of the masked ones."""
        epoch = batch.position.epoch
        key_P = batch.key_N[batch.span_sentence_P]
        dropped = uniform(self.seed, "drop", epoch, key_P) < self.config.dropout
        masked = chosen_RS.reshape(-1)[batch.span_start_P]
        draw = uniform(self.seed, "hidden", epoch, key_P, batch.span_ordinal_P)
        allowed = ~masked | (draw < self.config.masked_probability)
        return np.flatnonzero(
            chosen_spans(batch, self.config.policy) & allowed & ~dropped & ~blocked_P
        )

    def draw(self, batch: Batch, chosen_RS: Bools, blocked_P: Bools) -> DrawnMentions:
        """The half that needs no bank and no model.

        Args:
            batch: Packed sentences.
            chosen_RS: Tokens that are masked-LM targets.
            blocked_P: Mentions that get nothing: the hidden tails of contrastive knowledge assessing.
        """
        span = self.candidates(batch, chosen_RS, blocked_P)
        return DrawnMentions(
            span_J=span,
            triple_J=sample_triples(batch, span, self.knowledge, seed=self.seed),
            row_J=self.knowledge.bank_row[batch.span_entity_P[span]],
            sentence_J=batch.key_N[batch.span_sentence_P[span]],
        )

    def vectors(self, drawn: DrawnMentions, bank: MemoryBank | None) -> Injection:
        """inj(e) of each mention that has a triple or a readable note, in float32."""
        noted = (
            np.zeros(len(drawn.span_J), np.bool_)
            if bank is None
            else bank.readable(drawn.row_J, drawn.sentence_J)
        )
        kept = np.flatnonzero((drawn.triple_J >= 0) | noted)
        triple, row, noted = drawn.triple_J[kept], drawn.row_J[kept], noted[kept]
        alpha = np.where(triple < 0, 0.0, np.where(noted, self.config.triple_share, 1.0))
        device, norm = self.initial.table_VH.device, self.initial.token_norm
        vector = torch.zeros(len(kept), self.initial.hidden_size, device=device)
        told, read = np.flatnonzero(triple >= 0), np.flatnonzero(noted)
        known = scaled(triple_vectors(self.knowledge, self.initial, triple[told]), norm)
        _add(vector, told, alpha[told], known)
        if bank is not None and len(read):
            _add(vector, read, 1 - alpha[read], scaled(bank.read(row[read]).to(device), norm))
        return Injection(span_J=drawn.span_J[kept], vector_JH=vector, triple_J=triple)

    def plan(
        self, batch: Batch, chosen_RS: Bools, blocked_P: Bools, bank: MemoryBank | None
    ) -> Injection:
        """Both halves at once."""
        return self.vectors(self.draw(batch, chosen_RS, blocked_P), bank)

    def edit(self, batch: Batch, injection: Injection) -> Callable[[Tensor], Tensor] | None:
        """The change of the word embeddings: `(1 - lambda) t + lambda inj(e)` at every token of an injected mention."""
        if not len(injection.span_J):
            return None
        start, end = batch.span_start_P[injection.span_J], batch.span_end_P[injection.span_J]
        device = injection.vector_JH.device
        flat = torch.from_numpy(expand(start, end - start)).to(device)
        owner = torch.from_numpy(np.repeat(np.arange(len(start)), end - start)).to(device)
        added = self.config.strength * injection.vector_JH[owner]
        kept = 1 - self.config.strength

        def change(word_RSH: Tensor) -> Tensor:
            row_TH = word_RSH.reshape(-1, word_RSH.shape[-1])
            at = flat.to(row_TH.device)
            mixed = kept * row_TH.index_select(0, at) + added.to(row_TH.device, row_TH.dtype)
            return row_TH.index_copy(0, at, mixed).view_as(word_RSH)

        return change


def _add(vector_JH: Tensor, at_n: I64, weight_n: F64, added_nH: Tensor) -> None:
    weight = torch.from_numpy(weight_n.astype(np.float32))[:, None].to(vector_JH.device)
    vector_JH.index_add_(0, torch.from_numpy(at_n).to(vector_JH.device), weight * added_nH)
