"""Rank objects of any number of tokens: another protocol than LAMA's, shown beside it, never in it.

The candidates of a question are all objects of its relation's file. An object of n tokens gets n
masks, and its score is the mean of the log-probabilities of its tokens: the mean, since a sum would
favour short objects (X-FACTR, Jiang et al. 2020, who let the model find tokens freely; mLAMA,
Kassner et al. 2021, who rank the objects of a relation as this does). Two ways to ask:

- `all-masks`: all tokens at once, from a sentence with n masks; they do not know of each other.
- `left-to-right`: token k from a sentence where the tokens before it are filled in.

Limits: the mean favours long names whose ends follow from their beginnings; a model is helped by
being shown how long the answer is; with few candidates a guess is often right, so the score of a
guess stands beside it.

Goes in: a model and rows. Comes out: ranks. `all-masks` costs a sentence per question and length of
an object, `left-to-right` one per question and distinct beginning of an object.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from schemas.array_types import F64, I64
from trelm_train.data.loader import Position, assemble, plan_batches, sentences_from_lists
from trelm_train.evaluate.answers import BATCH
from trelm_train.evaluate.finite import check_finite
from trelm_train.evaluate.lama_report import filtered_means, grouped, means, scores
from trelm_train.evaluate.lama_rows import ProbeRow
from trelm_train.evaluate.prober import Prober

# Legend: Q questions, C candidates, G tokens that are looked up, P masked positions, U distinct
# tokens of all candidates, R packed rows, S tokens per packed row, H hidden size, V vocabulary.

ALL_MASKS, LEFT_TO_RIGHT = "all-masks", "left-to-right"
METHODS = (ALL_MASKS, LEFT_TO_RIGHT)
SCORE = "the mean log-probability of their tokens"
# Means of float32 logits that differ by less are equal, and an equal one counts against the model.
TIE = 1e-5
# Questions whose sentences are in memory together, and positions whose logits are.
QUESTIONS_AT_ONCE, POSITIONS_AT_ONCE = 64, 512
# Candidates have at most this share of the tokens that the model takes: a sentence has room for the
# masks of the longest of them, and one odd label must not silence a relation.
MOST_OF_A_SENTENCE = 0.5
# Objects with more tokens are one group of the report.
MANY_TOKENS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """Hold masks in the place of an object, the first of them filled, and what to look up there."""

    filled: tuple[int, ...]
    num_tokens: int
    # In parallel: the place of a mask, counted from the object's start; a token there; whose it is.
    place_G: I64
    token_G: I64
    candidate_G: I64


def slots_of(candidates: Sequence[tuple[int, ...]], method: str) -> list[Slot]:
    """Return the sentences that are needed to score candidates, given as token ids."""
    wanted: dict[tuple[tuple[int, ...], int], list[tuple[int, int, int]]] = defaultdict(list)
    for number, tokens in enumerate(candidates):
        for place, token in enumerate(tokens):
            filled = tokens[:place] if method == LEFT_TO_RIGHT else ()
            wanted[filled, len(tokens)].append((place, token, number))
    slots = []
    for (filled, num_tokens), entries in wanted.items():
        place_G, token_G, candidate_G = np.asarray(entries, np.int64).T
        slots.append(
            Slot(
                filled=filled,
                num_tokens=num_tokens,
                place_G=place_G,
                token_G=token_G,
                candidate_G=candidate_G,
            )
        )
    return slots


def log_p_of_candidates(
    prober: Prober,
    sentences: Sequence[tuple[list[int], int]],
    candidates: Sequence[tuple[int, ...]],
    method: str,
) -> F64:
    """Compute the sum of the log-probabilities of each candidate's tokens, as Q x C.

    Args:
        prober: holds the model.
        sentences: token ids with one mask, and its place.
        candidates: token ids of each.
        method: one of METHODS.

    Raises:
        NotFiniteError: the model gives NaN or infinite logits.
    """
    slots = slots_of(candidates, method)
    sums_QC = np.zeros((len(sentences), len(candidates)), np.float64)
    for start in range(0, len(sentences), QUESTIONS_AT_ONCE):
        some = sentences[start : start + QUESTIONS_AT_ONCE]
        for question, slot, log_p_G in _ask(prober, some, slots):
            np.add.at(sums_QC[start + question], slot.candidate_G, log_p_G)
    return sums_QC


def _ask(
    prober: Prober, sentences: Sequence[tuple[list[int], int]], slots: Sequence[Slot]
) -> Iterator[tuple[int, Slot, F64]]:
    """Yield the log-probabilities that each slot wants of each sentence: question, slot, as G.

    Raises:
        NotFiniteError: the model gives NaN or infinite logits.
    """
    model, tokenizer = prober.model, prober.tokenizer
    mask_id = tokenizer.mask_token_id
    asked = [(question, slot) for question in range(len(sentences)) for slot in slots]
    texts = list[Any]()
    for question, slot in asked:
        ids, mask = sentences[question]
        masks = [mask_id] * (slot.num_tokens - len(slot.filled))
        texts.append([*ids[:mask], *slot.filled, *masks, *ids[mask + 1 :]])
    packed = sentences_from_lists({"ids": texts})
    used_U = np.unique(np.concatenate([slot.token_G for slot in slots]))

    with model.evaluating(), torch.no_grad():
        for rows in plan_batches(packed.ids.lengths(np.arange(len(texts))), BATCH):
            batch = assemble(packed, rows, Position(), tokenizer.pad_token_id or 0)
            hidden_RSH = model.encode(model.pack(batch))
            of_batch = [asked[number] for number in batch.key_N.tolist()]
            # The masks of a sentence lie side by side.
            counts = np.asarray([slot.num_tokens - len(slot.filled) for _, slot in of_batch])
            first_N = batch.start_N + np.asarray(
                [sentences[question][1] + len(slot.filled) for question, slot in of_batch]
            )
            ends = np.cumsum(counts)
            position_P = np.repeat(first_N - (ends - counts), counts) + np.arange(ends[-1])
            log_p_PU = _log_p_at(
                prober, hidden_RSH.reshape(-1, model.hidden_size), position_P, used_U
            )
            for (question, slot), end, count in zip(of_batch, ends, counts, strict=True):
                row_G = end - count + slot.place_G - len(slot.filled)
                yield question, slot, log_p_PU[row_G, np.searchsorted(used_U, slot.token_G)]


def _log_p_at(prober: Prober, hidden_PH: torch.Tensor, position_P: I64, used_U: I64) -> F64:
    """Compute the log-probabilities of some tokens at some positions, as P x U.

    Raises:
        NotFiniteError: the model gives NaN or infinite logits.
    """
    model = prober.model
    token_U = torch.from_numpy(used_U).to(model.device)
    parts = []
    for start in range(0, len(position_P), POSITIONS_AT_ONCE):
        position = torch.from_numpy(position_P[start : start + POSITIONS_AT_ONCE])
        logits_PV = model.logits(hidden_PH[position.to(model.device)]).float()
        check_finite(model, logits_PV, "the probes of several tokens")
        log_p_PU = logits_PV[:, token_U] - logits_PV.logsumexp(1, keepdim=True)
        parts.append(log_p_PU.double().cpu().numpy())
    return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiTokenAnswers:
    """Hold the ranks of one relation's questions, in parallel."""

    rank_Q: I64
    filtered_rank_Q: I64
    num_others: list[int]
    # Tokens of the right object.
    num_tokens: list[int]
    num_candidates: int


def ask_relation(
    prober: Prober,
    rows: Sequence[ProbeRow],
    objects: Sequence[str],
    right: Mapping[str, Sequence[str]],
    method: str,
    excluded: Counter[str],
) -> MultiTokenAnswers | None:
    """Rank the objects of a relation for each of its rows; None where fewer than two can be ranked.

    Args:
        prober: holds the model.
        rows: that count before their object is tokenised.
        objects: of the relation, those of the rows among them.
        right: objects by subject.
        method: one of METHODS.
        excluded: gets the reasons of what is left out.

    Raises:
        NotFiniteError: the model gives NaN or infinite logits.
    """
    number_of: dict[tuple[int, ...], int] = {}
    most = int(prober.model.max_tokens * MOST_OF_A_SENTENCE)
    tokens_of = {label: _tokens(prober, label) for label in objects}
    too_long = {label for label, tokens in tokens_of.items() if len(tokens) > most}
    tokens_of |= dict.fromkeys(too_long, ())
    for tokens in tokens_of.values():
        # Objects that read the same to the model are one candidate.
        if tokens:
            number_of.setdefault(tokens, len(number_of))
    if len(number_of) < 2:
        excluded["relation_with_fewer_than_two_candidates"] += len(rows)
        return None

    longest = max(map(len, number_of))
    asked, sentences = list[ProbeRow](), list[tuple[list[int], int]]()
    for row in rows:
        if row.obj_label in too_long:
            sentence: tuple[list[int], int] | str = "object_too_long"
        elif tokens_of[row.obj_label]:
            sentence = _sentence(prober, row, longest)
        else:
            sentence = "object_unknown"
        if isinstance(sentence, str):
            excluded[sentence] += 1
        else:
            asked.append(row)
            sentences.append(sentence)
    if not asked:
        return None

    sums_QC = log_p_of_candidates(prober, sentences, list(number_of), method)
    candidates_of = [
        # The right one first, then the others that are right for its subject.
        _numbers([row.obj_label, *right.get(row.subject, ())], tokens_of, number_of)
        for row in asked
    ]
    return _ranked(sums_QC, [len(tokens) for tokens in number_of], candidates_of)


def _numbers(
    labels: Sequence[str],
    tokens_of: Mapping[str, tuple[int, ...]],
    number_of: Mapping[tuple[int, ...], int],
) -> list[int]:
    """Return the numbers of the candidates that some labels are, each once, in their order."""
    tokens = [tokens_of[label] for label in labels]
    return list(dict.fromkeys(number_of[one] for one in tokens if one))


def _ranked(
    sums_QC: F64, num_tokens: Sequence[int], right_of: Sequence[Sequence[int]]
) -> MultiTokenAnswers:
    """Rank candidates by their means; of each question's right candidates the first is asked for."""
    mean_QC = sums_QC / np.asarray(num_tokens)
    gold_Q = np.asarray([right[0] for right in right_of])
    gold_Q1 = mean_QC[np.arange(len(gold_Q)), gold_Q][:, None]
    is_not_worse_QC = mean_QC >= gold_Q1 - TIE
    rank_Q = is_not_worse_QC.sum(1)
    num_others_not_worse = [
        int(is_not_worse_QC[question, list(right[1:])].sum())
        for question, right in enumerate(right_of)
    ]
    return MultiTokenAnswers(
        rank_Q=rank_Q,
        filtered_rank_Q=rank_Q - np.asarray(num_others_not_worse),
        num_others=[len(right) - 1 for right in right_of],
        num_tokens=[num_tokens[gold] for gold in gold_Q.tolist()],
        num_candidates=len(num_tokens),
    )


def _tokens(prober: Prober, label: str) -> tuple[int, ...]:
    """Return the tokens of an object; none where the model lacks one of them."""
    tokens = tuple(prober.tokens(label))
    return () if prober.tokenizer.unk_token_id in tokens else tokens


def _sentence(prober: Prober, row: ProbeRow, longest: int) -> tuple[list[int], int] | str:
    """Return token ids with one mask and its place, or why the row cannot be asked."""
    asked = prober.with_mask(row)
    if isinstance(asked, str):
        return asked
    # With as many masks as the longest candidate needs.
    return "too_long" if len(asked[0]) - 1 + longest > prober.model.max_tokens else asked


def ask_multi_token(
    prober: Prober,
    rows: Mapping[str, Sequence[ProbeRow]],
    objects: Mapping[str, Sequence[str]],
    right: Mapping[str, Mapping[str, Sequence[str]]],
    method: str,
) -> dict[str, Any]:
    """Score a model by this protocol.

    Args:
        prober: holds the model.
        rows: that count, by relation.
        objects: of each relation.
        right: objects of each relation by subject.
        method: one of METHODS.

    Raises:
        NotFiniteError: the model gives NaN or infinite logits.
    """
    excluded: Counter[str] = Counter()
    answers = {
        name: one
        for name, of_relation in rows.items()
        if (one := ask_relation(prober, of_relation, objects[name], right[name], method, excluded))
    }
    ranks = {name: one.rank_Q for name, one in answers.items()}
    tokens = {
        name: [
            str(count) if count < MANY_TOKENS else f"{MANY_TOKENS} or more"
            for count in one.num_tokens
        ]
        for name, one in answers.items()
    }
    chances = [1 / one.num_candidates for one in answers.values()]
    return {
        "method": method,
        "score": SCORE,
        **means(ranks),
        # Of a guess among the candidates.
        "chance_p_at_1": float(np.mean(chances)) if chances else None,
        "filtered": filtered_means(
            {name: one.filtered_rank_Q for name, one in answers.items()},
            {name: one.num_others for name, one in answers.items()},
        ),
        "relations": {
            name: {
                "n": len(one.rank_Q),
                "num_candidates": one.num_candidates,
                "num_of_several_tokens": sum(count > 1 for count in one.num_tokens),
                **scores(one.rank_Q),
            }
            for name, one in answers.items()
        },
        "groups": {"tokens": grouped(ranks, tokens)},
        "excluded": dict(sorted(excluded.items())),
    }
