"""Knowledge injection: which mentions get a vector, which vector, and the edit of the input embeddings.

`K(e) = v_tail - v_rel` where e is the head, `v_head + v_rel` where it is the tail (DKPLM, Zhang et al. 2022); v is
the mean of the initial model's word embeddings over the label. A triple whose other entity is mentioned in the same
sentence is never used: it would state, in some direction, what the sentence asks. K(e) and the bank's M(e) are scaled
to the mean token-embedding norm, then `inj(e) = alpha K(e) + (1 - alpha) M(e)`, and a mention's token embedding
becomes `(1 - lambda) t + lambda inj(e)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.shards import POLICY_BITS
from trelm_train.arrays import I64, Bools, expand, uniform
from trelm_train.config import InjectionConfig
from trelm_train.knowledge import Knowledge
from trelm_train.loader import Batch
from trelm_train.memory_bank import MemoryBank

MAX_TRIPLES = 64  # of an entity with more, so many are drawn before the unusable ones are left out
# Legend: P spans of a batch, J injected spans, K rows of `knowledge`, H hidden size.


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """What the initial model fixes for the whole run: label vectors and the scale of a token embedding."""

    label_KH: Tensor
    token_norm: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Injection:
    """The vectors of one step."""

    span_J: I64
    vector_JH: Tensor
    triple_J: I64  # index into the flat triples, -1: none


def make_anchor(word_embeddings_VH: Tensor, knowledge: Knowledge) -> Anchor:
    """Label vectors of every knowledge row; a label without tokens gets zeros."""
    table_VH = word_embeddings_VH.detach().float().cpu()
    values = torch.from_numpy(knowledge.label_ids.values)
    offsets = torch.from_numpy(knowledge.label_ids.offsets[:-1])
    if not len(knowledge):
        label_KH = torch.zeros(0, table_VH.shape[1])
    else:
        label_KH = F.embedding_bag(values, table_VH, offsets, mode="mean")
    return Anchor(label_KH=label_KH, token_norm=float(table_VH.norm(dim=1).mean()))


def wanted_spans(batch: Batch, policy: str) -> Bools:
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
    triple = knowledge.triple_other.offsets[entity][owner] + np.where(counts[owner] > MAX_TRIPLES, spread, ordinal)
    num_rows = len(knowledge)
    present = batch.span_sentence_P * num_rows + batch.span_entity_P
    asked = batch.span_sentence_P[span_J][owner] * num_rows + knowledge.triple_other.values[triple]
    usable = ~np.isin(asked, present)
    draw = uniform(seed, "triple", *keys, triple)[usable]
    owner, triple = owner[usable], triple[usable]
    order = np.lexsort((draw, owner))
    first_owner, first = np.unique(owner[order], return_index=True)
    sampled = np.full(len(span_J), -1, np.int64)
    sampled[first_owner] = triple[order][first]
    return sampled


def triple_vectors(knowledge: Knowledge, label_KH: Tensor, triple_J: I64) -> Tensor:
    """K(e) of each sampled triple, as J x H."""
    other = label_KH[torch.from_numpy(knowledge.triple_other.values[triple_J])]
    relation = label_KH[torch.from_numpy(knowledge.triple_relation.values[triple_J])]
    sign = torch.from_numpy(np.where(knowledge.triple_is_head.values[triple_J] != 0, -1.0, 1.0)).float()
    return other + sign[:, None] * relation


def scaled(vectors_JH: Tensor, norm: float) -> Tensor:
    """Each vector at the same length."""
    return F.normalize(vectors_JH, dim=-1) * norm


class Injector:
    """Plans the injection of a step."""

    def __init__(self, config: InjectionConfig, knowledge: Knowledge, anchor: Anchor, *, seed: int) -> None:
        self.config, self.knowledge, self.anchor, self.seed = config, knowledge, anchor, seed

    def candidates(self, batch: Batch, chosen_RS: Bools, blocked_P: Bools) -> I64:
        """Mentions to inject: wanted by the policy, not blocked, not dropped, half of the masked ones."""
        epoch = batch.position.epoch
        key_P = batch.key_N[batch.span_sentence_P]
        dropped = uniform(self.seed, "drop", epoch, key_P) < self.config.dropout
        masked = chosen_RS.reshape(-1)[batch.span_start_P]
        draw = uniform(self.seed, "hidden", epoch, key_P, batch.span_ordinal_P)
        allowed = ~masked | (draw < self.config.masked_probability)
        return np.flatnonzero(wanted_spans(batch, self.config.policy) & allowed & ~dropped & ~blocked_P)

    def plan(self, batch: Batch, chosen_RS: Bools, blocked_P: Bools, bank: MemoryBank | None) -> Injection:
        """inj(e) of each mention that has a triple or a readable note."""
        span = self.candidates(batch, chosen_RS, blocked_P)
        triple = sample_triples(batch, span, self.knowledge, seed=self.seed)
        row = self.knowledge.bank_row[batch.span_entity_P[span]]
        sentence = batch.key_N[batch.span_sentence_P[span]]
        noted = bank.seen(row, sentence) if bank is not None else np.zeros(len(span), np.bool_)
        keep = (triple >= 0) | noted
        span, triple, row, noted = span[keep], triple[keep], row[keep], noted[keep]
        vector = torch.zeros(len(span), self.anchor.label_KH.shape[1])
        alpha = np.where(triple < 0, 0.0, np.where(noted, self.config.triple_share, 1.0))
        told = np.flatnonzero(triple >= 0)
        known = triple_vectors(self.knowledge, self.anchor.label_KH, triple[told])
        weight = torch.from_numpy(alpha[told]).float()[:, None]
        vector[torch.from_numpy(told)] += weight * scaled(known, self.anchor.token_norm)
        if bank is not None:
            read = np.flatnonzero(noted)
            weight = torch.from_numpy(1 - alpha[read]).float()[:, None]
            vector[torch.from_numpy(read)] += weight * scaled(bank.read(row[read]), self.anchor.token_norm)
        return Injection(span_J=span, vector_JH=vector, triple_J=triple)

    def edit(self, batch: Batch, injection: Injection) -> Callable[[Tensor], Tensor] | None:
        """The change of the word embeddings: `(1 - lambda) t + lambda inj(e)` at every token of an injected mention."""
        if not len(injection.span_J):
            return None
        start, end = batch.span_start_P[injection.span_J], batch.span_end_P[injection.span_J]
        flat = torch.from_numpy(expand(start, end - start))
        owner = torch.from_numpy(np.repeat(np.arange(len(start)), end - start))
        added = self.config.strength * injection.vector_JH[owner]
        kept = 1 - self.config.strength

        def change(word_RSH: Tensor) -> Tensor:
            rows = word_RSH.reshape(-1, word_RSH.shape[-1])
            at = flat.to(rows.device)
            return rows.index_copy(0, at, kept * rows[at] + added.to(rows.device, rows.dtype)).view_as(word_RSH)

        return change
