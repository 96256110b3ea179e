"""Contrastive knowledge assessing: tell the true tail of a fact from others (TRELM, Yan et al. 2024).

`q = W_q [mean state of the head's mention ; v_rel]`, candidate c = mean of the tied word embeddings of a label, logit
`cos(q, c) / tau`, InfoNCE. Decided here: q comes from the training forward itself; in the sentences that serve in a
step every mention of the tail is replaced by mask tokens and gets no injection, while the masked-LM targets stay the
same 15 % (so the masked-LM loss is comparable with this loss switched off). `cka_plan` says which facts serve, against
which candidates. Everything is computed in float32, under autocast too. A batch without facts adds 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schemas.array_types import I64
from trelm_train.cka.plan import CkaPlan, CkaPlanner
from trelm_train.config import CkaConfig
from trelm_train.data.knowledge import Knowledge
from trelm_train.memory.injection import InitialEmbeddings
from trelm_train.memory.memory_bank import range_means

# Legend: G facts that serve in a step, N candidates (the true one first), C candidate tails of a fact, R relations per fact, U
# distinct tails, T flat tokens, H hidden size.


def label_means(word_embeddings: nn.Embedding, knowledge: Knowledge, row_U: I64) -> Tensor:
    """Mean of the tied word embeddings over each label, with gradient, as U x H."""
    table_VH = word_embeddings.weight
    lengths = torch.from_numpy(knowledge.label_ids.lengths(row_U))
    values = torch.from_numpy(knowledge.label_ids.take(row_U)).to(table_VH.device)
    offsets = (lengths.cumsum(0) - lengths).to(table_VH.device)
    return F.embedding_bag(values, table_VH, offsets, mode="mean")


class Cka(nn.Module):
    """The projection W_q, which exists in training only, and the loss."""

    def __init__(
        self, config: CkaConfig, knowledge: Knowledge, initial: InitialEmbeddings, *, seed: int
    ) -> None:
        super().__init__()
        hidden = initial.hidden_size
        self.config, self.knowledge, self.initial = config, knowledge, initial
        self.planner = CkaPlanner(config, knowledge, seed=seed)
        self.projection = nn.Linear(2 * hidden, hidden, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.projection.weight.copy_(
                torch.randn(hidden, 2 * hidden, generator=generator) * (2 * hidden) ** -0.5
            )

    def query(self, states_TH: Tensor, plan: CkaPlan) -> Tensor:
        """q for each fact and each of its relations, as G x R x H."""
        head_GH = range_means(states_TH, plan.head_start_G, plan.head_end_G)
        relation_GRH = self.initial.vectors(plan.relation_GR.reshape(-1)).view(
            *plan.relation_GR.shape, -1
        )
        of_head, of_relation = self.projection.weight.chunk(2, dim=1)
        return F.linear(head_GH, of_head)[:, None] + F.linear(
            relation_GRH.to(head_GH.device), of_relation
        )

    def logits(self, states_TH: Tensor, plan: CkaPlan, word_embeddings: nn.Embedding) -> Tensor:
        """cos(q, c) / tau of each fact and candidate, as G x N."""
        query_GRH = F.normalize(self.query(states_TH, plan), dim=-1)
        tail_UH = F.normalize(label_means(word_embeddings, self.knowledge, plan.tail_U), dim=-1)
        tail_index_GC = torch.from_numpy(plan.tail_index_GC).to(tail_UH.device)
        if self.config.contrast == "tail":
            # One product with all distinct tails, then a choice: a gradient through chosen rows would cost more.
            cosine_GN = (query_GRH[:, 0] @ tail_UH.T).gather(1, tail_index_GC)
        else:
            cosine_GN = (query_GRH * tail_UH.index_select(0, tail_index_GC[:, 0])[:, None]).sum(-1)
        return cosine_GN / self.config.temperature

    def loss_sum(self, hidden_RSH: Tensor, plan: CkaPlan, word_embeddings: nn.Embedding) -> Tensor:
        """Summed InfoNCE over the facts of a plan, with gradients to states, word embeddings and W_q; 0 without facts.

        To be divided by the number of facts (`len(plan)`) over all parts of the step.
        """
        if not len(plan):
            return hidden_RSH.new_zeros((), dtype=torch.float32)
        with torch.autocast(hidden_RSH.device.type, enabled=False):
            states_TH = hidden_RSH.reshape(-1, hidden_RSH.shape[-1]).float()
            logits_GN = self.logits(states_TH, plan, word_embeddings)
            return info_nce_sum(logits_GN, torch.from_numpy(plan.valid_GN).to(logits_GN.device))

    def forward(self, hidden_RSH: Tensor, plan: CkaPlan, word_embeddings: nn.Embedding) -> Tensor:
        """Mean InfoNCE over the facts of one plan."""
        return self.loss_sum(hidden_RSH, plan, word_embeddings) / max(1, len(plan))


def info_nce_sum(logits_GN: Tensor, valid_GN: Tensor) -> Tensor:
    """Sum of -log softmax of column 0 over the valid columns; a row with none but column 0 adds 0."""
    return -F.log_softmax(logits_GN.masked_fill(~valid_GN, -torch.inf), -1)[:, 0].sum()
