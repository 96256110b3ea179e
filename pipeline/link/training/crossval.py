"""Cross-validate the linker's weights by document, and compute figures of any set of gold mentions.

Pure. Goes in: candidates of gold mentions with features. Comes out: probabilities by weights that
never saw the document, and accuracy, recall, calibration.

Legend: m mentions, c candidates.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.link.candidates import VARIANT
from pipeline.link.disambiguation import Model, contributions, probabilities
from pipeline.link.doubts import DOUBTS
from pipeline.link.evaluation.calibration import (
    expected_calibration_error,
    precision_at_coverage,
    precision_by_count,
)
from pipeline.link.features import GROUPS
from pipeline.link.training.fitting import PENALTIES, Examples, Fitting, fit
from schemas.array_types import F32, I64, U8, U32, Array, Bools, Floats

RECALL_AT = (1, 5, 20)
# Kinds of evidence that a knowledge base or gold may lack, with the features that read it, and the
# share of gold items that must have it, so that its weights are fitted.
KINDS = {
    "types": GROUPS["type"],
    "terms": ("near", "window", "document"),
    "neighbours": ("neighbours", "shared"),
    # Items that another text of the same document names too: gold of first mentions has hardly any.
    "repeats": ("mentioned",),
}
MIN_KNOWN = {"types": 0.8, "terms": 0.8, "neighbours": 0.8, "repeats": 0.1}
# No probability counts as less, since a single sure mistake would outweigh all else.
MIN_PROBABILITY = 1e-4


def fold_of(doc_id: str, folds: int) -> int:
    """Return the fold of a document: the same on every machine and in every run."""
    return zlib.crc32(doc_id.encode()) % folds


@dataclass(kw_only=True, slots=True)
class GoldMentions:
    """Hold gold mentions with their candidates, flat."""

    examples: Examples
    # Shape (c,).
    qids: U32
    # Shape (c,): how each candidate was found.
    matches: U8
    # Shape (c,): how popular the candidate is: triples that point to it, for gold files.
    in_degree: I64
    # Shape (m,): 0 where the item is not in the KB, or NIL.
    gold: U32
    # Length m.
    documents: list[str]
    # Shape (m,): number of the gold file.
    files: I64
    # Shape (m,): a misspelt copy of another mention.
    is_copy: Bools
    # By kind of evidence, the share of gold items among the candidates for which the KB has it.
    known: Mapping[str, float] = field(default_factory=dict)

    def folds(self, count: int) -> I64:
        """Return the fold of each mention, which is that of its document. Shape (m,)."""
        fold_of_document = {
            doc_id: fold_of(doc_id, count) for doc_id in dict.fromkeys(self.documents)
        }
        return np.fromiter(
            (fold_of_document[doc_id] for doc_id in self.documents), np.int64, len(self.documents)
        )


def probability_of(examples: Examples, model: Model) -> F32:
    """Return P(candidate) of all candidates, shape (c,)."""
    scores = np.sum([*contributions(examples.features, model).values()], axis=0) + model.bias
    return probabilities(scores, examples.mentions, examples.num_mentions)


def fitting_for(gold: GoldMentions, names: Sequence[str]) -> Fitting:
    """Return what to fit: what the gold can teach stays free, the penalty is not yet chosen.

    A knowledge base that knows the type of every fifth gold item teaches that an item with a known
    type is the wrong one. So the weights of evidence that it lacks for more than a few gold items
    stay as set by hand. So do those of doubts, since a given span is no doubtful mention.
    """
    kept = [
        name
        for kind, kind_names in KINDS.items()
        if gold.known.get(kind, 1.0) < MIN_KNOWN[kind]
        for name in kind_names
        if name in names
    ]
    kept += [name for name in DOUBTS if name in names]
    return Fitting(names=tuple(names), kept=tuple(kept))


def choose_penalty(gold: GoldMentions, fitting: Fitting, count: int) -> Fitting:
    """Return the fitting with the penalty under which held-out gold is most likely."""
    losses = [
        log_loss(gold, cross_validate(gold, replace(fitting, penalty=penalty), count))
        for penalty in PENALTIES
    ]
    # Of equal ones the strongest, which is the first.
    return replace(fitting, penalty=PENALTIES[int(np.argmin(losses))])


def log_loss(gold: GoldMentions, probability: F32) -> float:
    """Return the mean negative log probability of the gold candidates, or of NIL."""
    mentions, count = gold.examples.mentions, gold.examples.num_mentions
    of_gold = np.bincount(mentions, probability * gold.examples.is_gold, count)
    of_nil = 1.0 - np.bincount(mentions, probability, count)
    has_gold = np.bincount(mentions, gold.examples.is_gold, count) > 0
    truth = np.where(has_gold, of_gold, of_nil)[~gold.is_copy]
    return float(-np.log(np.maximum(truth, MIN_PROBABILITY)).mean())


def cross_validate(gold: GoldMentions, fitting: Fitting, count: int) -> F32:
    """Return P(candidate), that of each fold by weights fitted on the others. Shape (c,).

    Args:
        gold: all mentions.
        fitting: what to fit.
        count: of the folds.
    """
    folds = gold.folds(count)
    probability = np.zeros(len(gold.qids), np.float32)

    # A fold may be empty where there are few documents.
    for fold in range(count):
        is_held_out = folds == fold
        if is_held_out.any() and not is_held_out.all():
            model = fit(gold.examples.of_mentions(~is_held_out), fitting)
            probability[is_held_out[gold.examples.mentions]] = probability_of(
                gold.examples.of_mentions(is_held_out), model
            )
    return probability


def figures(gold: GoldMentions, probability: F32, chosen: Bools) -> dict[str, Any]:
    """Return figures of some mentions.

    All are in-KB, except `calibration_error`, which counts gold that is NIL too. `rare`: the gold
    item is a candidate, but not the one with the highest in-degree (of equals the lowest QID).
    `rare_whole`: the same among the candidates that have the whole name.

    Args:
        gold: all mentions.
        probability: P(candidate), shape (c,).
        chosen: which mentions count, shape (m,).
    """
    best, confidence, rank = _best(gold, probability)
    in_kb = chosen & (gold.gold > 0)
    right = (best == gold.gold) & (gold.gold > 0)
    rare = _rare(gold, np.ones(len(gold.qids), bool)) & in_kb
    rare_whole = _rare(gold, gold.matches <= VARIANT) & in_kb

    # Without a candidate there is no confidence to judge.
    has_any = np.bincount(gold.examples.mentions, minlength=gold.examples.num_mentions) > 0
    judged = chosen & has_any
    precisions = precision_by_count(confidence[in_kb], right[in_kb])
    return {
        "gold_in_kb": int(in_kb.sum()),
        "accuracy": _mean(right[in_kb]),
        "candidate_recall": _mean(rank[in_kb] >= 0),
        **{f"recall_at_{k}": _mean((rank[in_kb] >= 0) & (rank[in_kb] < k)) for k in RECALL_AT},
        "rare": _mean(right[rare]),
        "rare_n": int(rare.sum()),
        "rare_whole": _mean(right[rare_whole]),
        "rare_whole_n": int(rare_whole.sum()),
        "calibration_error": _rounded(
            expected_calibration_error(confidence[judged], right[judged])
        ),
        "calibration_error_in_kb": _rounded(
            expected_calibration_error(confidence[judged & in_kb], right[judged & in_kb])
        ),
        "precision_at_half": _rounded(precision_at_coverage(precisions, int(in_kb.sum()), 50)),
    }


def _best(gold: GoldMentions, probability: F32) -> tuple[U32, Floats, I64]:
    """Return the best candidate of each mention, and how the gold one ranks. Shapes (m,).

    Returns:
        The best candidate (0: none), its probability, and the rank of the gold candidate by
        probability, from 0 (-1: it is no candidate).
    """
    mentions, count = gold.examples.mentions, gold.examples.num_mentions
    popularity = gold.examples.features["popularity"]
    order = np.lexsort((gold.qids, -popularity, -probability, mentions))
    starts = np.searchsorted(mentions, np.arange(count))
    best, confidence, rank = np.zeros(count, np.uint32), np.zeros(count), np.full(count, -1)

    # Where the mention changes, its best candidate stands.
    best_rows = order[np.flatnonzero(np.diff(mentions[order], prepend=-1))]
    best[mentions[best_rows]] = gold.qids[best_rows]
    confidence[mentions[best_rows]] = probability[best_rows]

    ranks = np.arange(len(order)) - starts[mentions[order]]
    is_gold = gold.examples.is_gold[order]
    rank[mentions[order][is_gold]] = ranks[is_gold]
    return best, confidence, rank


def _rare(gold: GoldMentions, among: Bools) -> Bools:
    """Say of each mention whether its gold item is rare among some of the candidates. Shape (m,).

    Args:
        gold: all mentions.
        among: which candidates count, shape (c,).
    """
    mentions, count = gold.examples.mentions, gold.examples.num_mentions
    order = np.lexsort((gold.qids, -gold.in_degree, mentions))
    order = order[among[order]]

    # Of each mention the candidate with the highest in-degree.
    top_rows = order[np.flatnonzero(np.diff(mentions[order], prepend=-1))]
    top, has_gold = np.zeros(count, np.uint32), np.zeros(count, bool)
    top[mentions[top_rows]] = gold.qids[top_rows]
    has_gold[mentions[gold.examples.is_gold & among]] = True
    return has_gold & (top != gold.gold)


def _mean(values: Array) -> float | None:
    return _rounded(float(values.mean())) if len(values) else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
