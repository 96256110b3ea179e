"""Scores of links against gold links. Pure: gold and links in, counts and ratios out.

In-KB: only gold mentions whose item is in the KB count for recall and accuracy. A mention is right where span and item are.
Slices (frequency bands; rare: the item is a candidate of its name, but not the one with the highest prior) are given with
each gold mention and, by its own item, with each prediction: so a slice has a precision as well as a recall.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Key = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the linker said of one mention: the item (None: NIL), its candidates, the best first, and the item's slices."""

    qid: int | None
    candidates: tuple[int, ...] = ()
    slices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold mention. `qid` None is NIL; `in_kb` whether the KB has the item."""

    key: Key
    qid: int | None
    in_kb: bool
    slices: tuple[str, ...] = ()


NIL = Outcome(None)


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _prf(right: int, predicted: int, gold: int) -> dict[str, float | int | None]:
    return {
        "gold": gold,
        "predicted": predicted,
        "precision": _ratio(right, predicted),
        "recall": _ratio(right, gold),
        "f1": _ratio(2 * right, predicted + gold),
    }


def end_to_end(gold: Iterable[Gold], links: Mapping[Key, Outcome]) -> dict[str, Any]:
    """In-KB micro precision, recall and F1 of detected and linked mentions, also by slice; detection and NIL figures."""
    golds = list(gold)
    by_key = {one.key: one for one in golds}
    in_kb = [one for one in golds if one.in_kb]
    predicted = {key: outcome for key, outcome in links.items() if outcome.qid is not None}
    right = [one for one in in_kb if one.key in predicted and predicted[one.key].qid == one.qid]
    nil = [one for one in golds if not one.in_kb]
    counts = [Counter(name for one in found for name in one.slices) for found in (right, predicted.values(), in_kb)]
    return {
        "gold_mentions": len(golds),
        "gold_in_kb": len(in_kb),
        **{name: value for name, value in _prf(len(right), len(predicted), len(in_kb)).items() if name != "gold"},
        "detection_recall": _ratio(sum(one.key in links for one in golds), len(golds)),
        "wrong_item": sum(1 for key, outcome in predicted.items() if key in by_key and by_key[key].qid != outcome.qid),
        "no_gold_span": sum(1 for key in predicted if key not in by_key),
        "nil_mentions": len(nil),
        "nil_left_unlinked": _ratio(sum(one.key not in predicted for one in nil), len(nil)),
        "slices": {name: _prf(*(count[name] for count in counts)) for name in sorted(set().union(*counts))},
    }


def at_gold_spans(gold: Iterable[Gold], links: Mapping[Key, Outcome]) -> dict[str, Any]:
    """Accuracy (NIL decisions count), accuracy of the best candidate, candidate recall, over in-KB gold spans and slices."""
    golds = list(gold)
    in_kb = [one for one in golds if one.in_kb]
    names = sorted({name for one in in_kb for name in one.slices})
    slices = {name: _accuracies([one for one in in_kb if name in one.slices], links) for name in names}
    return {"gold_mentions": len(golds), **_accuracies(in_kb, links), "slices": slices}


def _accuracies(golds: list[Gold], links: Mapping[Key, Outcome]) -> dict[str, Any]:
    found = [(one.qid, links.get(one.key, NIL)) for one in golds]
    return {
        "gold_in_kb": len(golds),
        "accuracy": _ratio(sum(outcome.qid == qid for qid, outcome in found), len(golds)),
        "accuracy_best_candidate": _ratio(sum(outcome.candidates[:1] == (qid,) for qid, outcome in found), len(golds)),
        "candidate_recall": _ratio(sum(qid in outcome.candidates for qid, outcome in found), len(golds)),
    }
