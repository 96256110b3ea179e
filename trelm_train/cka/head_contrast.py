"""Compare a hidden tail with other tails where the masked LM predicts it, through its own head.

The true tail of a fact and its negatives are scored at the hidden mention: the sum of the logits of
a candidate's tokens at the mention's positions. The normaliser of the softmax over the vocabulary
is the same for all candidates, so this is their difference in log-probability. The loss is InfoNCE
(van den Oord et al. 2018) at temperature 1. A candidate whose name has another number of tokens
than the mention has no place there, and one with the mention's own words is no other answer; both
are left out. A fact for which none is left adds 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from schemas.array_types import I64, Bools
from trelm_train.cka.loss import info_nce_sum
from trelm_train.cka.plan import CkaPlan
from trelm_train.data.arrays import expand
from trelm_train.data.knowledge import Knowledge
from trelm_train.model.masked_lm import MaskedLm

# Legend: G facts that serve in a step, N candidates (the true one first), T hidden tokens of all
# facts, Q (fact, candidate, token) triples, R rows, S tokens per row, H hidden size, V vocabulary.


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathering:
    """Say which logit belongs to which candidate.

    A fact whose hidden tail has the two tokens 7 and 8 takes, for a candidate with the tokens 5 and
    6, the logit of 5 at the first position and that of 6 at the second.
    """

    # Row among the T hidden tokens, token, and cell of G x N, counted flat.
    row_Q: I64
    token_Q: I64
    cell_Q: I64
    fits_GN: Bools


def gathering(plan: CkaPlan, knowledge: Knowledge, gold_RS: I64) -> Gathering:
    """Plan which logits are summed for each candidate; `gold_RS` are the ids before masking."""
    length_G = plan.tail_end_G - plan.tail_start_G
    first_G = np.cumsum(length_G) - length_G
    tail_GN = plan.tail_U[plan.tail_index_GC]
    fits_GN = plan.valid_GN & (knowledge.label_ids.lengths(tail_GN) == length_G[:, None])
    # The true tail has the words of the text, whatever its label is.
    fits_GN[:, 0] = True

    fact_C, column_C = np.nonzero(fits_GN)
    length_C = length_G[fact_C]
    is_true_Q = np.repeat(column_C == 0, length_C)
    label_C = np.where(column_C == 0, 0, knowledge.label_ids.offsets[tail_GN[fact_C, column_C]])
    # The cells of true tails read some other token here; it is replaced below.
    last = len(knowledge.label_ids.values) - 1
    token_Q = knowledge.label_ids.at(np.minimum(expand(label_C, length_C), last))
    true_Q = gold_RS.reshape(-1)[expand(plan.tail_start_G[fact_C], length_C)]
    cell_Q = np.repeat(fact_C * fits_GN.shape[1] + column_C, length_C)

    # The text may call the tail by a name that is the label of another one: equal words get equal
    # scores, and nothing tells them apart.
    differs_GN = np.bincount(cell_Q, weights=token_Q != true_Q, minlength=fits_GN.size) > 0
    fits_GN[:, 1:] &= differs_GN.reshape(fits_GN.shape)[:, 1:]
    return Gathering(
        row_Q=expand(first_G[fact_C], length_C),
        token_Q=np.where(is_true_Q, true_Q, token_Q),
        cell_Q=cell_Q,
        fits_GN=fits_GN,
    )


def head_contrast_sum(
    model: MaskedLm, hidden_RSH: Tensor, plan: CkaPlan, knowledge: Knowledge, gold_RS: I64
) -> Tensor:
    """Sum InfoNCE over the facts of a plan, with gradients to the states and the LM head.

    The sum is 0 without facts.
    """
    if not len(plan):
        return hidden_RSH.new_zeros((), dtype=torch.float32)

    device = hidden_RSH.device
    chosen = gathering(plan, knowledge, gold_RS)
    position_T = torch.from_numpy(
        expand(plan.tail_start_G, plan.tail_end_G - plan.tail_start_G)
    ).to(device)
    row_Q, token_Q, cell_Q = (
        torch.from_numpy(values).to(device)
        for values in (chosen.row_Q, chosen.token_Q, chosen.cell_Q)
    )

    with torch.autocast(device.type, enabled=False):
        hidden_TH = hidden_RSH.reshape(-1, hidden_RSH.shape[-1])[position_T].float()
        logits_TV = model.logits(hidden_TH)
        scores = torch.zeros(chosen.fits_GN.size, device=device)
        scores = scores.index_add(0, cell_Q, logits_TV[row_Q, token_Q])
        fits_GN = torch.from_numpy(chosen.fits_GN).to(device)
        return info_nce_sum(scores.view(fits_GN.shape), fits_GN)
