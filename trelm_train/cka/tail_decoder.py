"""Decode the tail of a fact from the head's mention and the relation, as DKPLM does.

After the description of "relational knowledge decoding" in Zhang et al., AAAI 2022 (DKPLM). The
state of the head's mention, `e = LayerNorm(GELU(W_s mean))`, and the vector of the relation at unit
scale, `h_0 = v_rel / rms(v_rel)`, give one state per token of the tail's label:

    h_i = tanh(W_d h_(i-1) * e)        (element by element)

Each h_i scores the vocabulary by the tied word embeddings, and the loss of a fact is the
cross-entropy of its label's tokens. The paper samples negative tokens for that softmax; here it is
over the whole vocabulary, of which the sample is an estimate. Its scale delta is part of W_d. Both
matrices exist in training only. Everything is computed in float32, under autocast too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trelm_train.cka.plan import CkaPlan
from trelm_train.data.knowledge import Knowledge
from trelm_train.memory.injection import InitialEmbeddings
from trelm_train.memory.memory_bank import range_means

# Legend: G facts that serve in a step, L tokens of a label, T flat tokens, H hidden size.

# A long label says little more than its first tokens, and every token is one more product.
MAX_DECODED = 8


class TailDecoder(nn.Module):
    """Hold the two matrices of the decoder, and compute the loss."""

    def __init__(self, knowledge: Knowledge, initial: InitialEmbeddings, *, seed: int) -> None:
        super().__init__()
        hidden = initial.hidden_size
        self.knowledge, self.initial = knowledge, initial
        self.mention = nn.Linear(hidden, hidden, bias=False)
        self.norm = nn.LayerNorm(hidden)
        self.step = nn.Linear(hidden, hidden, bias=False)

        # A generator with its own seed: switching this loss on changes no other draw.
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in (self.mention, self.step):
                weight = torch.randn(hidden, hidden, generator=generator)
                layer.weight.copy_(weight * hidden**-0.5)

    def states(self, states_TH: Tensor, plan: CkaPlan, num_steps: int) -> Tensor:
        """Return the decoder's states of each fact, as G x L x H with L = `num_steps`."""
        mention_GH = range_means(states_TH, plan.head_start_G, plan.head_end_G)
        mention_GH = self.norm(F.gelu(self.mention(mention_GH)))
        relation_GH = self.initial.vectors(plan.facts.relation_G).to(mention_GH.device)
        # Word vectors are small: without the scale the first states would hardly leave 0.
        state_GH = F.rms_norm(relation_GH, relation_GH.shape[-1:])

        states = []
        for _ in range(num_steps):
            state_GH = torch.tanh(self.step(state_GH) * mention_GH)
            states.append(state_GH)
        return torch.stack(states, dim=1)

    def loss_sum(self, hidden_RSH: Tensor, plan: CkaPlan, word_embeddings: nn.Embedding) -> Tensor:
        """Sum over the facts of a plan the mean cross-entropy of their label's tokens.

        The sum is 0 without facts. Gradients go to states, embeddings and both matrices.
        """
        if not len(plan):
            return hidden_RSH.new_zeros((), dtype=torch.float32)

        labels = self.knowledge.label_ids
        length_G = torch.from_numpy(labels.lengths(plan.facts.tail_G)).clamp(max=MAX_DECODED)
        start_G = torch.from_numpy(labels.offsets[plan.facts.tail_G])
        if not length_G.any():
            return hidden_RSH.new_zeros((), dtype=torch.float32)
        place_L = torch.arange(int(length_G.max()))
        is_token_GL = place_L[None, :] < length_G[:, None]
        flat_T = (start_G[:, None] + place_L[None, :])[is_token_GL]
        gold_T = torch.from_numpy(labels.at(flat_T.numpy())).to(hidden_RSH.device)

        with torch.autocast(hidden_RSH.device.type, enabled=False):
            states_TH = hidden_RSH.reshape(-1, hidden_RSH.shape[-1]).float()
            decoded_GLH = self.states(states_TH, plan, len(place_L))
            decoded_TH = decoded_GLH[is_token_GL.to(decoded_GLH.device)]
            losses_T = F.cross_entropy(
                F.linear(decoded_TH, word_embeddings.weight), gold_T, reduction="none"
            )
            # A fact counts once, however long its label is.
            share_T = (1.0 / length_G).repeat_interleave(length_G).to(losses_T.device)
            return (losses_T * share_T).sum()
