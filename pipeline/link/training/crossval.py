"""Cross-validation of the linker's weights by document, and the figures of any set of gold mentions. Pure.

Goes in: candidates of gold mentions with features. Comes out: probabilities by weights that never saw the document, and
accuracy, recall, calibration. Legend: m mentions, c candidates.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.link.candidates import VARIANT
from pipeline.link.disambiguation import Model, contributions, probabilities
from pipeline.link.evaluation.calibration import (
    expected_calibration_error,
    precision_at_coverage,
    precision_by_count,
)
from pipeline.link.training.fitting import Examples, fit
from schemas.array_types import Array

RECALL_AT = (1, 5, 20)


def fold_of(doc_id: str, folds: int) -> int:
    """The fold of a document: the same on every machine and in every run."""
    return zlib.crc32(doc_id.encode()) % folds


@dataclass(kw_only=True, slots=True)
class GoldMentions:
    """Gold mentions with their candidates, flat."""

    examples: Examples
    qids: Array  # uint32 (c,)
    matches: Array  # uint8 (c,)
    in_degree: Array  # int64 (c,): triples that point to the candidate
    gold: Array  # uint32 (m,): 0 where the item is not in the KB, or NIL
    documents: list[str]  # (m,)
    files: Array  # int64 (m,): number of the gold file
    is_copy: Array  # bool (m,): a misspelt copy of another

    def folds(self, count: int) -> Array:
        """Fold of each mention: that of its document. int64 (m,)."""
        numbers = {doc_id: fold_of(doc_id, count) for doc_id in dict.fromkeys(self.documents)}
        return np.fromiter(
            (numbers[doc_id] for doc_id in self.documents), np.int64, len(self.documents)
        )


def probability_of(examples: Examples, model: Model) -> Array:
    """P(candidate) of all candidates. Shape (c,)."""
    scores = np.sum([*contributions(examples.features, model).values()], axis=0) + model.bias
    return probabilities(scores, examples.mentions, examples.num_mentions)


def cross_validate(gold: GoldMentions, names: Sequence[str], count: int) -> Array:
    """P(candidate), each fold's by weights that were fitted on the others. Shape (c,)."""
    folds = gold.folds(count)
    probability = np.zeros(len(gold.qids), np.float32)
    for fold in range(count):
        held_out = folds == fold
        if held_out.any() and not held_out.all():
            model = fit(gold.examples.of(~held_out), names)
            probability[held_out[gold.examples.mentions]] = probability_of(
                gold.examples.of(held_out), model
            )
    return probability


def figures(gold: GoldMentions, probability: Array, chosen: Array) -> dict[str, Any]:
    """Figures of some mentions (bool (m,)); all in-KB but `calibration_error`, which counts gold that is NIL too.

    rare: gold is a candidate but not the one with the highest in-degree (ties: lowest QID); rare_whole: the same among the
    candidates that have the whole name.
    """
    mentions, count = gold.examples.mentions, gold.examples.num_mentions
    best, confidence, place = _best(gold, probability)
    in_kb = chosen & (gold.gold > 0)
    right = (best == gold.gold) & (gold.gold > 0)
    has_any = np.bincount(mentions, minlength=count) > 0
    rare = _rare(gold, np.ones(len(gold.qids), bool)) & in_kb
    rare_whole = _rare(gold, gold.matches <= VARIANT) & in_kb
    precisions = precision_by_count(confidence[in_kb], right[in_kb])
    judged = chosen & has_any
    return {
        "gold_in_kb": int(in_kb.sum()),
        "accuracy": _mean(right[in_kb]),
        "candidate_recall": _mean(place[in_kb] >= 0),
        **{f"recall_at_{k}": _mean((place[in_kb] >= 0) & (place[in_kb] < k)) for k in RECALL_AT},
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


def _best(gold: GoldMentions, probability: Array) -> tuple[Array, Array, Array]:
    """Per mention: its best candidate (0: none), that one's probability, the gold one's place by probability (-1: none)."""
    mentions, count = gold.examples.mentions, gold.examples.num_mentions
    popularity = gold.examples.features["popularity"]
    order = np.lexsort((gold.qids, -popularity, -probability, mentions))
    starts = np.searchsorted(mentions, np.arange(count))
    best, confidence, place = np.zeros(count, np.uint32), np.zeros(count), np.full(count, -1)
    firsts = order[np.flatnonzero(np.diff(mentions[order], prepend=-1))]
    best[mentions[firsts]], confidence[mentions[firsts]] = gold.qids[firsts], probability[firsts]
    ranks = np.arange(len(order)) - starts[mentions[order]]
    is_gold = gold.examples.is_gold[order]
    place[mentions[order][is_gold]] = ranks[is_gold]
    return best, confidence, place


def _rare(gold: GoldMentions, among: Array) -> Array:
    """Mentions whose gold is among some candidates, but not the one with the highest in-degree."""
    mentions, count = gold.examples.mentions, gold.examples.num_mentions
    order = np.lexsort((gold.qids, -gold.in_degree, mentions))
    order = order[among[order]]
    firsts = order[np.flatnonzero(np.diff(mentions[order], prepend=-1))]
    top, has_gold = np.zeros(count, np.uint32), np.zeros(count, bool)
    top[mentions[firsts]] = gold.qids[firsts]
    has_gold[mentions[gold.examples.is_gold & among]] = True
    return has_gold & (top != gold.gold)


def _mean(values: Array) -> float | None:
    return _rounded(float(values.mean())) if len(values) else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
