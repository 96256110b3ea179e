"""Compute the loss of contrastive knowledge assessing (TRELM, Yan et al. 2024).

The true tail of a fact must be recognised among other tails. `q = W_q [mean state of the head's
mention ; v_rel]`, candidate c = mean of the tied word embeddings of a label, logit
`cos(q, c) / tau`, loss InfoNCE (van den Oord et al. 2018).

Decided here: q comes from the training forward itself. In the sentences that serve in a step every
mention of the tail is replaced by mask tokens and gets no injection, while the masked-LM targets
stay the same 15 %, so the masked-LM loss is comparable with this loss switched off. `cka.plan` says
which facts serve, against which candidates. Everything is computed in float32, under autocast too.
A batch without facts adds 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schemas.array_types import I64
from trelm_train.cka.plan import CkaPlan
from trelm_train.config import CkaConfig
from trelm_train.data.knowledge import Knowledge
from trelm_train.memory.injection import InitialEmbeddings
from trelm_train.memory.memory_bank import range_means

# Legend: G facts that serve in a step, N candidates (the true one first), C candidate tails of a
# fact, R relations per fact, U distinct tails, T flat tokens, H hidden size, V vocabulary.


def label_means(word_embeddings: nn.Embedding, knowledge: Knowledge, row_U: I64) -> Tensor:
    """Average the tied word embeddings over each label, with gradient, as U x H."""
    table_VH = word_embeddings.weight
    lengths = torch.from_numpy(knowledge.label_ids.lengths(row_U))
    values = torch.from_numpy(knowledge.label_ids.take(row_U)).to(table_VH.device)
    offsets = (lengths.cumsum(0) - lengths).to(table_VH.device)
    return F.embedding_bag(values, table_VH, offsets, mode="mean")


class Cka(nn.Module):
    """Hold the projection W_q, which exists in training only, and compute the loss."""

    def __init__(
        self, config: CkaConfig, knowledge: Knowledge, initial: InitialEmbeddings, *, seed: int
    ) -> None:
        super().__init__()
        hidden = initial.hidden_size
        self.config, self.knowledge, self.initial = config, knowledge, initial
        self.projection = nn.Linear(2 * hidden, hidden, bias=False)

        # A generator with its own seed: switching this loss on changes no other draw.
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            weight = torch.randn(hidden, 2 * hidden, generator=generator)
            self.projection.weight.copy_(weight * (2 * hidden) ** -0.5)

    def query(self, states_TH: Tensor, plan: CkaPlan) -> Tensor:
        """Compute q for each fact and each of its relations, as G x R x H."""
        head_GH = range_means(states_TH, plan.head_start_G, plan.head_end_G)
        relation_XH = self.initial.vectors(plan.relation_GR.reshape(-1))
        relation_GRH = relation_XH.view(*plan.relation_GR.shape, relation_XH.shape[-1]).to(
            head_GH.device
        )

        # W_q [head ; relation] is the sum of both halves; the half of the head is computed once for
        # all relations of a fact.
        weight_head, weight_relation = self.projection.weight.chunk(2, dim=1)
        return F.linear(head_GH, weight_head)[:, None] + F.linear(relation_GRH, weight_relation)

    def logits(self, states_TH: Tensor, plan: CkaPlan, word_embeddings: nn.Embedding) -> Tensor:
        """Compute cos(q, c) / tau of each fact and candidate, as G x N."""
        query_GRH = F.normalize(self.query(states_TH, plan), dim=-1)
        tail_UH = F.normalize(label_means(word_embeddings, self.knowledge, plan.tail_U), dim=-1)
        tail_index_GC = torch.from_numpy(plan.tail_index_GC).to(tail_UH.device)

        if self.config.contrast == "tail":
            # One product with all distinct tails, then a choice: a gradient through chosen rows
            # would cost more.
            cosine_GN = (query_GRH[:, 0] @ tail_UH.T).gather(1, tail_index_GC)
        else:
            cosine_GN = (query_GRH * tail_UH.index_select(0, tail_index_GC[:, 0])[:, None]).sum(-1)
        return cosine_GN / self.config.temperature

    def loss_sum(self, hidden_RSH: Tensor, plan: CkaPlan, word_embeddings: nn.Embedding) -> Tensor:
        """Sum InfoNCE over the facts of a plan, with gradients to states, embeddings and W_q.

        The sum is 0 without facts. The caller divides it by the number of facts (`len(plan)`) over
        all micro-batches of the step.
        """
        if not len(plan):
            return hidden_RSH.new_zeros((), dtype=torch.float32)

        with torch.autocast(hidden_RSH.device.type, enabled=False):
            states_TH = hidden_RSH.reshape(-1, hidden_RSH.shape[-1]).float()
            # Padded columns are left out of the softmax by `valid_GN`.
            logits_GN = self.logits(states_TH, plan, word_embeddings)
            return info_nce_sum(logits_GN, torch.from_numpy(plan.valid_GN).to(logits_GN.device))

    def forward(self, hidden_RSH: Tensor, plan: CkaPlan, word_embeddings: nn.Embedding) -> Tensor:
        """Average InfoNCE over the facts of one plan."""
        return self.loss_sum(hidden_RSH, plan, word_embeddings) / max(1, len(plan))


def info_nce_sum(logits_GN: Tensor, valid_GN: Tensor) -> Tensor:
    """Sum -log softmax of column 0 over the valid columns.

    A row where only column 0 is valid adds 0.
    """
    return -F.log_softmax(logits_GN.masked_fill(~valid_GN, -torch.inf), -1)[:, 0].sum()
