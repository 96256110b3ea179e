"""Inject knowledge: choose mentions, make their vectors, and edit the input embeddings.

`K(e) = v_tail - v_rel` where e is the head, `v_head + v_rel` where it is the tail (DKPLM, Zhang et
al. 2022); v is the mean of the initial model's word embeddings over the label. A triple whose other
entity is named in the same sentence, by a linked mention or by all tokens of its label, is never
used: it would state, in some direction, what the sentence asks. K(e) and the bank's M(e) are scaled
to the mean token-embedding norm, then `inj(e) = alpha K(e) + (1 - alpha) M(e)`, and the token
embedding of a mention becomes `(1 - lambda) t + lambda inj(e)`.

Injection has two halves. `Injector.draw` is numpy alone and needs neither step nor model, so that
it may run ahead of the training. `Injector.vectors` reads the bank as it stands before the step.
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
from trelm_train.config import AT_STATES, InjectionConfig
from trelm_train.data.arrays import Ragged, among, expand, lowest_of_groups, uniform
from trelm_train.data.knowledge import Knowledge
from trelm_train.data.loader import Batch
from trelm_train.data.spellings import spelt
from trelm_train.memory.memory_bank import MemoryBank

# Of an entity with more triples, this many are drawn before the unusable ones are left out.
MAX_TRIPLES = 64
# Legend: P spans of a batch, J injected spans, C (span, triple) pairs, K rows of `knowledge`,
# n requested rows, V vocabulary, H hidden size, R rows, S tokens per row, T flat tokens.


@dataclass(frozen=True, kw_only=True, slots=True)
class InitialEmbeddings:
    """Hold the word embeddings of the initial model, frozen, and the mean norm of a token.

    Label vectors are made when they are needed: kept for all K rows, they would take 4 K H bytes.
    """

    table_VH: Tensor
    label_ids: Ragged
    token_norm: float

    @property
    def hidden_size(self) -> int:
        """Return H."""
        return self.table_VH.shape[1]

    def vectors(self, row_n: I64) -> Tensor:
        """Average the word embeddings over the labels of some knowledge rows, as n x H.

        A label without tokens gives zeros.
        """
        device = self.table_VH.device
        lengths = self.label_ids.lengths(row_n)
        values = torch.from_numpy(self.label_ids.take(row_n)).to(device)
        offsets = torch.from_numpy(np.cumsum(lengths) - lengths).to(device)

        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return F.embedding_bag(values, self.table_VH, offsets, mode="mean")


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnMentions:
    """Hold the mentions that may be injected in a step, as far as the batch alone decides."""

    span_J: I64
    # Index into the flat triples; -1: none.
    triple_J: I64
    # Row of the memory bank; -1: none.
    row_J: I64
    # Key of the sentence.
    sentence_J: I64


@dataclass(frozen=True, kw_only=True, slots=True)
class Injection:
    """Hold the vectors of one step."""

    span_J: I64
    vector_JH: Tensor
    # Index into the flat triples; -1: none.
    triple_J: I64


def freeze_embeddings(word_embeddings_VH: Tensor, knowledge: Knowledge) -> InitialEmbeddings:
    """Copy the initial word embeddings, on the device where they lie."""
    # A copy: training changes the embeddings, and label vectors must stay those of the initial
    # model.
    table_VH = word_embeddings_VH.detach().to(torch.float32, copy=True)
    return InitialEmbeddings(
        table_VH=table_VH,
        label_ids=knowledge.label_ids,
        token_norm=float(table_VH.norm(dim=1).mean()),
    )


def chosen_spans(batch: Batch, policy: str) -> Bools:
    """Say which mentions the policy chooses."""
    is_chosen: Bools = (batch.span_policies_P & POLICY_BITS.get(policy, 0)) != 0
    return is_chosen


def sample_triples(
    batch: Batch, span_J: I64, knowledge: Knowledge, *, seed: int, spelling: I64 | None = None
) -> I64:
    """Draw one usable triple per mention: an index into the flat triples, or -1.

    It is never a triple whose other end is in the sentence.
    """
    entity_J = batch.span_entity_P[span_J]
    sentence_J = batch.span_sentence_P[span_J]
    count_J = knowledge.triple_other.lengths(entity_J)
    tried_J = np.minimum(count_J, MAX_TRIPLES)

    # One pair per mention and triple to try. Every draw is a hash of epoch, sentence and mention,
    # so it depends neither on the batch nor on the rank.
    owner_C = np.repeat(np.arange(len(span_J)), tried_J)
    ordinal_C = expand(np.zeros(len(span_J), np.int64), tried_J)
    keys = (
        batch.position.epoch,
        batch.key_N[sentence_J][owner_C],
        batch.span_ordinal_P[span_J][owner_C],
    )

    # Few triples: all of them, in order. Many: a sample, with repeats.
    count_C = count_J[owner_C]
    spread_C = (uniform(seed, "spread", *keys, ordinal_C) * count_C).astype(np.int64)
    number_C = np.where(count_C > MAX_TRIPLES, spread_C, ordinal_C)
    triple_C = knowledge.triple_other.offsets[entity_J][owner_C] + number_C

    usable_C = usable_triples(batch, sentence_J[owner_C], triple_C, knowledge, spelling)
    draw_C = uniform(seed, "triple", *keys, triple_C)[usable_C]
    owner_C, triple_C = owner_C[usable_C], triple_C[usable_C]

    # Of each mention take the usable triple with the lowest draw.
    lowest = lowest_of_groups(draw_C, owner_C)
    sampled_J = np.full(len(span_J), -1, np.int64)
    sampled_J[owner_C[lowest]] = triple_C[lowest]
    return sampled_J


def usable_triples(
    batch: Batch,
    sentence_C: I64,
    triple_C: I64,
    knowledge: Knowledge,
    spelling: I64 | None = None,
) -> Bools:
    """Say whether a sentence may read a triple: the other end must not be named there."""
    other_C = knowledge.triple_other.at(triple_C)
    num_rows = len(knowledge)

    # A pair (sentence, entity) as one number.
    mentioned = np.unique(batch.span_sentence_P * num_rows + batch.span_entity_P)
    linked_C = among(mentioned, sentence_C * num_rows + other_C)

    is_usable: Bools = ~(
        linked_C | spelt_out(batch, sentence_C, other_C, knowledge.label_ids, spelling)
    )
    return is_usable


def spelt_out(
    batch: Batch,
    sentence_C: I64,
    row_C: I64,
    label_ids: Ragged,
    spelling: I64 | None = None,
) -> Bools:
    """Say whether every token of a row's label stands in a sentence.

    Then the sentence may hold a mention that was not linked, or an entity of the same name. The
    order of tokens is ignored: one triple too many left out costs an injection, one too few gives
    an answer away.
    """
    segment = batch.segment_RS.reshape(-1)
    is_real = segment >= 0
    # A pair (sentence, token id) as one number.
    ids = spelt(batch.input_ids_RS.reshape(-1)[is_real], spelling)
    present = np.unique((segment[is_real] << 32) | ids)

    # The tokens of all labels one after the other; running counts of those that are present.
    lengths_C = label_ids.lengths(row_C)
    label_tokens = (np.repeat(sentence_C, lengths_C) << 32) | spelt(label_ids.take(row_C), spelling)
    hits = np.cumsum(among(present, label_tokens))
    hits = np.concatenate([np.zeros(1, np.int64), hits])

    end_C = np.cumsum(lengths_C)
    hits_C = hits[end_C] - hits[end_C - lengths_C]
    is_complete: Bools = (lengths_C > 0) & (hits_C == lengths_C)
    return is_complete


def triple_vectors(knowledge: Knowledge, initial: InitialEmbeddings, triple_J: I64) -> Tensor:
    """Compute K(e) of each sampled triple, as J x H."""
    rows = np.concatenate(
        [knowledge.triple_other.values[triple_J], knowledge.triple_relation.values[triple_J]]
    )
    other_JH, relation_JH = initial.vectors(rows).chunk(2)

    # The head is tail - relation, the tail is head + relation.
    is_head = knowledge.triple_is_head.values[triple_J] != 0
    sign = np.where(is_head, -1.0, 1.0).astype(np.float32)
    return other_JH + torch.from_numpy(sign)[:, None].to(other_JH.device) * relation_JH


def scaled(vectors_JH: Tensor, norm: float) -> Tensor:
    """Scale each vector to the same length."""
    return F.normalize(vectors_JH, dim=-1) * norm


class Injector:
    """Plan the injection of a step, and edit the input embeddings by it."""

    def __init__(
        self,
        config: InjectionConfig,
        knowledge: Knowledge,
        initial: InitialEmbeddings,
        *,
        seed: int,
        spelling: I64 | None = None,
    ) -> None:
        """Hold what a run's injections are made of.

        Args:
            config: its settings.
            knowledge: entities and triples.
            initial: the initial word embeddings.
            seed: of the draws.
            spelling: by token id, the same number for tokens that read the same (`Vocabulary`).
        """
        self.config, self.knowledge, self.initial, self.seed = config, knowledge, initial, seed
        self.spelling = spelling

    def candidates(self, batch: Batch, chosen_RS: Bools, blocked_P: Bools) -> I64:
        """Return the mentions to inject.

        They are chosen by the policy, not blocked, not dropped, and a share `masked_probability` of
        the masked ones.
        """
        epoch = batch.position.epoch
        key_P = batch.key_N[batch.span_sentence_P]

        # Some sentences get no injection at all, as at fine-tuning time.
        is_dropped_P = uniform(self.seed, "drop", epoch, key_P) < self.config.dropout

        # A note at every masked mention would make its prediction trivial.
        is_masked_P = chosen_RS.reshape(-1)[batch.span_start_P]
        draw_P = uniform(self.seed, "hidden", epoch, key_P, batch.span_ordinal_P)
        is_allowed_P = ~is_masked_P | (draw_P < self.config.masked_probability)

        is_chosen_P = chosen_spans(batch, self.config.policy)
        return np.flatnonzero(is_chosen_P & is_allowed_P & ~is_dropped_P & ~blocked_P)

    def draw(self, batch: Batch, chosen_RS: Bools, blocked_P: Bools) -> DrawnMentions:
        """Do the half that needs no bank and no model.

        Args:
            batch: Packed sentences.
            chosen_RS: Tokens that are masked-LM targets.
            blocked_P: Mentions that get nothing: the hidden tails of contrastive knowledge
                assessing.
        """
        span_J = self.candidates(batch, chosen_RS, blocked_P)
        return DrawnMentions(
            span_J=span_J,
            triple_J=sample_triples(
                batch, span_J, self.knowledge, seed=self.seed, spelling=self.spelling
            ),
            row_J=self.knowledge.bank_row[batch.span_entity_P[span_J]],
            sentence_J=batch.key_N[batch.span_sentence_P[span_J]],
        )

    def vectors(self, drawn: DrawnMentions, bank: MemoryBank | None) -> Injection:
        """Compute inj(e) of each mention that has a triple or a readable note, in float32."""
        has_note_J = np.zeros(len(drawn.span_J), np.bool_)
        if bank is not None:
            has_note_J = bank.readable(drawn.row_J, drawn.sentence_J)

        # From here on J counts the mentions that have at least one of the two.
        survivor_J = np.flatnonzero((drawn.triple_J >= 0) | has_note_J)
        triple_J, row_J = drawn.triple_J[survivor_J], drawn.row_J[survivor_J]
        has_note_J = has_note_J[survivor_J]

        # The share of the triple: all without a note, nothing without a triple.
        alpha_J = np.where(has_note_J, self.config.triple_share, 1.0)
        alpha_J = np.where(triple_J < 0, 0.0, alpha_J)

        device, norm = self.initial.table_VH.device, self.initial.token_norm
        vector_JH = torch.zeros(len(survivor_J), self.initial.hidden_size, device=device)

        with_triple, with_note = np.flatnonzero(triple_J >= 0), np.flatnonzero(has_note_J)
        k_nH = scaled(triple_vectors(self.knowledge, self.initial, triple_J[with_triple]), norm)
        _add(vector_JH, with_triple, alpha_J[with_triple], k_nH)
        if bank is not None and len(with_note):
            m_nH = scaled(bank.read(row_J[with_note]).to(device), norm)
            _add(vector_JH, with_note, 1 - alpha_J[with_note], m_nH)

        return Injection(span_J=drawn.span_J[survivor_J], vector_JH=vector_JH, triple_J=triple_J)

    def plan(
        self, batch: Batch, chosen_RS: Bools, blocked_P: Bools, bank: MemoryBank | None
    ) -> Injection:
        """Do both halves at once."""
        return self.vectors(self.draw(batch, chosen_RS, blocked_P), bank)

    def edit(self, batch: Batch, injection: Injection) -> Callable[[Tensor], Tensor] | None:
        """Return the change of embeddings or states (R x S x H), or None where there is none.

        Every token of an injected mention becomes `(1 - lambda) t + lambda inj(e)`. The length of
        inj(e) is that of a word embedding; a state is longer or shorter, so there inj(e) takes the
        length of the state that it is mixed with.
        """
        if not len(injection.span_J):
            return None

        start, end = batch.span_start_P[injection.span_J], batch.span_end_P[injection.span_J]
        device = injection.vector_JH.device
        flat = torch.from_numpy(expand(start, end - start)).to(device)
        owner = torch.from_numpy(np.repeat(np.arange(len(start)), end - start)).to(device)

        added_TH = self.config.strength * injection.vector_JH[owner]
        remaining = 1 - self.config.strength
        norm = self.initial.token_norm if self.config.place == AT_STATES else None

        def change(word_RSH: Tensor) -> Tensor:
            row_TH = word_RSH.reshape(-1, word_RSH.shape[-1])
            position = flat.to(row_TH.device)
            added = added_TH.to(row_TH.device, row_TH.dtype)
            old_TH = row_TH.index_select(0, position)
            if norm is not None:
                added = added * (old_TH.norm(dim=-1, keepdim=True) / norm)
            mixed = remaining * old_TH + added
            return row_TH.index_copy(0, position, mixed).view_as(word_RSH)

        return change


def _add(vector_JH: Tensor, index_n: I64, weight_n: F64, added_nH: Tensor) -> None:
    """Add weighted vectors to some rows, in place."""
    weight = torch.from_numpy(weight_n.astype(np.float32))[:, None].to(vector_JH.device)
    vector_JH.index_add_(0, torch.from_numpy(index_n).to(vector_JH.device), weight * added_nH)
