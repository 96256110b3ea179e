"""Ask a model cloze questions: rank the gold token among candidates, and name the best answers.

A tie counts against the model: the rank is 1 + the number of better candidates + the number of
others with an equal logit. A model that knows nothing and gives every candidate the same logit is
therefore last, not first. Numbers that are not finite are an error.

A filtered rank (Bordes et al. 2013) leaves the other right answers out of the candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from schemas.array_types import F32, I64
from trelm_train.data.loader import Packing, Position, assemble, plan_batches, sentences_from_lists
from trelm_train.evaluate.finite import check_finite
from trelm_train.model.masked_lm import MaskedLm

# Fixed, so that scores do not depend on the settings of a run.
BATCH = Packing(max_tokens=128, batch_tokens=4096, limit=512)

# Legend: R packed rows, S tokens per packed row, H hidden size, M questions, V vocabulary,
# C candidates, K best answers, O other right answers of all questions.


@dataclass(frozen=True, kw_only=True, slots=True)
class Cloze:
    """Hold token ids with a mask at `mask_position`, and the gold token."""

    ids: list[int]
    mask_position: int
    gold: int
    # Candidates that are right as well; the gold token is none of them.
    others: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Hold what a model answered to questions, in their order."""

    # Of the gold token among the candidates, from 1.
    rank_M: I64
    # The same without the questions' other right answers.
    filtered_rank_M: I64
    others: list[tuple[int, ...]]
    # Probabilities are those of the whole vocabulary.
    p_gold_M: F32
    # The best candidates, best first; equal ones by id.
    top_id_MK: I64
    top_p_MK: F32


def ranks_of(logits_MC: Tensor, gold_M1: Tensor) -> Tensor:
    """Rank gold logits among those of all candidates (the gold one is a candidate), as M.

    The rank is 1 + better candidates + other candidates that are equal.
    """
    # The gold candidate is among those that are not worse than itself: it is the 1.
    return (logits_MC >= gold_M1).sum(1)


def num_not_worse(logits_MV: Tensor, gold_M1: Tensor, others: list[tuple[int, ...]]) -> Tensor:
    """Count the other right answers that are better than the gold token or equal to it, as M."""
    question_O = [row for row, tokens in enumerate(others) for _ in tokens]
    token_O = [token for tokens in others for token in tokens]
    counts_M = torch.zeros(len(others), dtype=torch.int64, device=logits_MV.device)
    if not token_O:
        return counts_M
    rows_O = torch.tensor(question_O, device=logits_MV.device)
    is_O = logits_MV[rows_O, torch.tensor(token_O, device=logits_MV.device)] >= gold_M1[rows_O, 0]
    return counts_M.index_add(0, rows_O, is_O.long())


def ask(
    model: MaskedLm, pad_id: int, candidates: I64, questions: Sequence[Cloze], num_top: int = 0
) -> Answers:
    """Answer every question, with the `num_top` best candidates of each, or all of them where
    there are fewer.

    `candidates` are token ids in ascending order, with every gold token among them.

    Raises:
        NotFiniteError: the model gives NaN or infinite logits.
    """
    num_top = min(num_top, len(candidates))
    answers = Answers(
        rank_M=np.zeros(len(questions), np.int64),
        filtered_rank_M=np.zeros(len(questions), np.int64),
        others=[question.others for question in questions],
        p_gold_M=np.zeros(len(questions), np.float32),
        top_id_MK=np.zeros((len(questions), num_top), np.int64),
        top_p_MK=np.zeros((len(questions), num_top), np.float32),
    )

    def put(number_M: I64, logits_MV: Tensor) -> None:
        golds = [questions[number].gold for number in number_M.tolist()]
        gold_M = torch.tensor(golds, device=logits_MV.device)
        _put(answers, number_M, logits_MV, gold_M, candidates)

    pass_logits(model, pad_id, questions, put)
    return answers


def pass_logits(
    model: MaskedLm, pad_id: int, questions: Sequence[Cloze], take: Callable[[I64, Tensor], None]
) -> None:
    """Call `take` with the logits at the masks, batch by batch: numbers of questions, and M x V.

    Raises:
        NotFiniteError: the model gives NaN or infinite logits.
    """
    sentences = sentences_from_lists({"ids": [question.ids for question in questions]})

    with model.evaluating(), torch.no_grad():
        for rows in plan_batches(sentences.ids.lengths(np.arange(len(questions))), BATCH):
            batch = assemble(sentences, rows, Position(), pad_id)
            hidden_RSH = model.encode(model.pack(batch))

            # A batch has its questions in another order: `number_M` says which ones.
            number_M = batch.key_N
            mask_positions = [questions[number].mask_position for number in number_M.tolist()]
            position_M = torch.from_numpy(batch.start_N + np.asarray(mask_positions))
            hidden_MH = hidden_RSH.reshape(-1, model.hidden_size)[position_M]
            logits_MV = model.logits(hidden_MH).float()
            check_finite(model, logits_MV, "the probes")
            take(number_M, logits_MV)


def _put(
    answers: Answers, number_M: I64, logits_MV: Tensor, gold_M: Tensor, candidates: I64
) -> None:
    """Write the answers of a batch to their places."""
    candidate_C = torch.from_numpy(candidates).to(logits_MV.device)
    logits_MC = logits_MV[:, candidate_C]
    gold_M1 = logits_MV.gather(1, gold_M[:, None])
    # Over the whole vocabulary: a probability must not grow because candidates were left out.
    normaliser_M1 = logits_MV.logsumexp(1, keepdim=True)
    rank_M = ranks_of(logits_MC, gold_M1)
    others = [answers.others[number] for number in number_M.tolist()]
    answers.rank_M[number_M] = rank_M.cpu().numpy()
    answers.filtered_rank_M[number_M] = (
        (rank_M - num_not_worse(logits_MV, gold_M1, others)).cpu().numpy()
    )
    answers.p_gold_M[number_M] = (gold_M1 - normaliser_M1).exp()[:, 0].cpu().numpy()

    num_top = answers.top_id_MK.shape[1]
    if num_top:
        # A stable sort: equal candidates stay in the order of their ids, on any device.
        best_MC = logits_MC.sort(dim=1, descending=True, stable=True)
        top_MK, place_MK = best_MC.values[:, :num_top], best_MC.indices[:, :num_top]
        answers.top_id_MK[number_M] = candidate_C[place_MK].cpu().numpy()
        answers.top_p_MK[number_M] = (top_MK - normaliser_M1).exp().cpu().numpy()
