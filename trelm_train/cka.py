"""Contrastive knowledge assessing: tell the true tail of a fact from others (TRELM, Yan et al. 2024).

`q = W_q [mean state of the head's mention ; v_rel]`, candidate c = mean of the tied word embeddings of a label, logit
`cos(q, c) / tau`, InfoNCE. Decided here: q comes from the training forward itself; in the sentences that serve in a
step every mention of the tail is replaced by mask tokens and gets no injection, while the masked-LM targets stay the
same 15 % (so the masked-LM loss is comparable with this loss switched off). Negatives: tails of the batch's other
facts first, then tails of the relation; no true tail of (h, r, .) is among them, nor a namesake of one. A batch
without facts adds 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trelm_train.arrays import I64, Bools, expand, uniform
from trelm_train.config import CkaConfig
from trelm_train.injection import Anchor
from trelm_train.knowledge import Knowledge
from trelm_train.loader import Batch
from trelm_train.masking import Masked
from trelm_train.memory_bank import range_means

# Legend: F facts of a batch, G facts that serve in a step, N candidates (the true one first), H hidden size.

WRONG_RELATIONS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The facts of one step: knowledge rows, and the head's mention."""

    head_span_G: I64
    head_G: I64
    relation_G: I64
    tail_G: I64
    hidden_P: Bools  # mentions of a tail, fully masked

    def __len__(self) -> int:
        return len(self.head_G)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Candidates of each fact, padded; column 0 is the true one."""

    row_GN: I64
    valid_GN: Bools


def choose_facts(batch: Batch, masked: Masked, config: CkaConfig, *, seed: int) -> Facts:
    """At most one fact per sentence, whose head is not masked and not the tail itself."""
    epoch = batch.position.epoch
    sentence_F = batch.span_sentence_P[batch.fact_head_F]
    key_F = batch.key_N[sentence_F]
    head_F, tail_F = batch.span_entity_P[batch.fact_head_F], batch.span_entity_P[batch.fact_tail_F]
    head_masked = masked.chosen_RS.reshape(-1)[batch.span_start_P[batch.fact_head_F]]
    serves = uniform(seed, "serves", epoch, key_F) < config.fact_share
    fact = np.flatnonzero(serves & ~head_masked & (head_F != tail_F))
    draw = uniform(seed, "fact", epoch, key_F[fact], fact - np.searchsorted(sentence_F, sentence_F[fact]))
    order = fact[np.lexsort((draw, sentence_F[fact]))]
    order = order[np.unique(sentence_F[order], return_index=True)[1]]
    return Facts(
        head_span_G=batch.fact_head_F[order],
        head_G=head_F[order],
        relation_G=batch.fact_relation_F[order],
        tail_G=tail_F[order],
        hidden_P=mentions(batch, sentence_F[order], tail_F[order]),
    )


def mentions(batch: Batch, sentence_G: I64, entity_G: I64) -> Bools:
    """Every mention of an entity in its sentence."""
    scale = int(batch.span_entity_P.max(initial=0)) + 1
    inside: Bools = np.isin(batch.span_sentence_P * scale + batch.span_entity_P, sentence_G * scale + entity_G)
    return inside


def hide(batch: Batch, input_ids_RS: I64, hidden_P: Bools, mask_id: int) -> I64:
    """Token ids with some mentions fully masked."""
    ids = input_ids_RS.copy()
    start, end = batch.span_start_P[hidden_P], batch.span_end_P[hidden_P]
    ids.reshape(-1)[expand(start, end - start)] = mask_id
    return ids


def tail_contrast(facts: Facts, knowledge: Knowledge, config: CkaConfig, *, seed: int, step: int) -> Contrast:
    """True tail, then up to N false ones: tails of the batch, then tails of the relation in random order."""
    rows = []
    in_batch = np.unique(facts.tail_G)
    for number in range(len(facts)):
        head, relation, tail = int(facts.head_G[number]), int(facts.relation_G[number]), int(facts.tail_G[number])
        banned = np.append(knowledge.true_tails(head, relation), tail)
        near = knowledge.without_namesakes(in_batch, banned)
        some = np.setdiff1d(_some(knowledge.tails.of(relation), config, seed, step, number), near)
        far = knowledge.without_namesakes(some, banned)
        near = near[np.argsort(uniform(seed, "near", step, number, near))]
        far = far[np.argsort(uniform(seed, "far", step, number, far))]
        rows.append(np.concatenate([[tail], near, far])[: config.negatives + 1])
    return _pad(rows)


def _some(tails: I64, config: CkaConfig, seed: int, step: int, number: int) -> I64:
    """All tails of a relation, or a sample with room for those that may not serve."""
    enough = 4 * config.negatives
    if len(tails) <= enough:
        return tails
    draw = uniform(seed, "some", step, number, np.arange(enough, dtype=np.int64))
    sampled: I64 = tails[(draw * len(tails)).astype(np.int64)]
    return sampled


def relation_contrast(facts: Facts, knowledge: Knowledge, *, seed: int, step: int) -> Contrast:
    """True relation, then three that do not hold between head and tail."""
    relations = np.flatnonzero(~knowledge.is_entity)
    rows = []
    for number in range(len(facts)):
        head, tail = int(facts.head_G[number]), int(facts.tail_G[number])
        true = knowledge.true_tail_relation.of(head)[knowledge.true_tail.of(head) == tail]
        wrong = np.setdiff1d(relations, np.append(true, facts.relation_G[number]))
        wrong = wrong[np.argsort(uniform(seed, "wrong", step, number, wrong))][:WRONG_RELATIONS]
        rows.append(np.concatenate([facts.relation_G[number : number + 1], wrong]))
    return _pad(rows)


def _pad(rows: list[I64]) -> Contrast:
    width = max((len(row) for row in rows), default=1)
    padded = np.zeros((len(rows), width), np.int64)
    valid = np.zeros((len(rows), width), np.bool_)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
        valid[number, : len(row)] = True
    return Contrast(row_GN=padded, valid_GN=valid)


def label_means(word_embeddings: nn.Embedding, knowledge: Knowledge, row_GN: I64) -> Tensor:
    """Mean of the tied word embeddings over each label, with gradient, as G x N x H."""
    rows, place = np.unique(row_GN, return_inverse=True)
    values = torch.from_numpy(knowledge.label_ids.take(rows)).to(word_embeddings.weight.device)
    lengths = knowledge.label_ids.lengths(rows)
    offsets = torch.from_numpy(np.cumsum(lengths) - lengths).to(values.device)
    means = F.embedding_bag(values, word_embeddings.weight, offsets, mode="mean")
    return means[torch.from_numpy(place.reshape(row_GN.shape)).to(values.device)]


class Cka(nn.Module):
    """The projection W_q, which exists in training only, and the loss."""

    def __init__(self, config: CkaConfig, knowledge: Knowledge, anchor: Anchor, *, seed: int) -> None:
        super().__init__()
        hidden = anchor.label_KH.shape[1]
        self.config, self.knowledge, self.anchor, self.seed = config, knowledge, anchor, seed
        self.projection = nn.Linear(2 * hidden, hidden, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.projection.weight.copy_(torch.randn(hidden, 2 * hidden, generator=generator) * (2 * hidden) ** -0.5)

    def query(self, states_TH: Tensor, batch: Batch, facts: Facts, relation_GN: I64) -> Tensor:
        """q for each fact and each of its relations, as G x N x H."""
        span = facts.head_span_G
        head_GH = range_means(states_TH, batch.span_start_P[span], batch.span_end_P[span])
        relation_GNH = self.anchor.label_KH[torch.from_numpy(relation_GN)].to(head_GH.device)
        head_GNH = head_GH[:, None].expand(-1, relation_GN.shape[1], -1)
        projected: Tensor = self.projection(torch.cat([head_GNH, relation_GNH], -1))
        return projected

    def forward(
        self, hidden_RSH: Tensor, batch: Batch, facts: Facts, word_embeddings: nn.Embedding, step: int
    ) -> Tensor:
        """Mean InfoNCE over the facts that have a negative; 0 if none has."""
        if not len(facts):
            return hidden_RSH.new_zeros(())
        if self.config.contrast == "tail":
            contrast = tail_contrast(facts, self.knowledge, self.config, seed=self.seed, step=step)
            relation, candidate = facts.relation_G[:, None], contrast.row_GN
        else:
            contrast = relation_contrast(facts, self.knowledge, seed=self.seed, step=step)
            relation, candidate = contrast.row_GN, facts.tail_G[:, None]
        states_TH = hidden_RSH.reshape(-1, hidden_RSH.shape[-1]).float()
        query = self.query(states_TH, batch, facts, relation)
        logits_GN = F.cosine_similarity(query, label_means(word_embeddings, self.knowledge, candidate), dim=-1)
        return info_nce(logits_GN / self.config.temperature, torch.from_numpy(contrast.valid_GN))


def info_nce(logits_GN: Tensor, valid_GN: Tensor) -> Tensor:
    """Mean -log softmax of column 0 over the valid columns, over rows with at least two of them."""
    valid_GN = valid_GN.to(logits_GN.device)
    usable_G = valid_GN.sum(1) > 1
    if not bool(usable_G.any()):
        return logits_GN.sum() * 0.0
    logits_GN = logits_GN.masked_fill(~valid_GN, -torch.inf)
    return -F.log_softmax(logits_GN[usable_G], -1)[:, 0].mean()
