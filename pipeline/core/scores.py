"""Scores of links against gold links. Pure: gold and links in, counts and ratios out.

In-KB: only gold mentions whose item is in the KB count for recall and accuracy. A mention is right where span and item are.
Rare: the gold item is a candidate, but not the one with the highest prior.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Key = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the linker said of one mention; candidates are (qid, prior), the best first."""

    qid: int | None
    candidates: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold mention. `qid` None is NIL; `in_kb` whether the KB has the item; `band` the item's frequency band."""

    key: Key
    qid: int | None
    in_kb: bool
    band: str


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def gold_rank(gold: Gold, outcome: Outcome) -> tuple[bool, bool]:
    """Whether the gold item is a candidate, and whether it is a rare one (another candidate has a higher prior)."""
    priors = dict(outcome.candidates)
    if gold.qid is None or gold.qid not in priors:
        return False, False
    return True, max(priors.values()) > priors[gold.qid]


def end_to_end(gold: Iterable[Gold], links: Mapping[Key, Outcome]) -> dict[str, Any]:
    """In-KB micro precision, recall and F1 of detected and linked mentions, detection recall, NIL figures."""
    golds = list(gold)
    by_key = {one.key: one for one in golds}
    in_kb = [one for one in golds if one.in_kb]
    predicted = {key: outcome for key, outcome in links.items() if outcome.qid is not None}
    right = sum(1 for one in in_kb if one.key in predicted and predicted[one.key].qid == one.qid)
    nil = [one for one in golds if one.qid is None or not one.in_kb]
    precision, recall = _ratio(right, len(predicted)), _ratio(right, len(in_kb))
    return {
        "gold_mentions": len(golds),
        "gold_in_kb": len(in_kb),
        "predicted": len(predicted),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * right, len(predicted) + len(in_kb)),
        "detection_recall": _ratio(sum(one.key in links for one in golds), len(golds)),
        "wrong_item": sum(1 for key, outcome in predicted.items() if key in by_key and by_key[key].qid != outcome.qid),
        "no_gold_span": sum(1 for key in predicted if key not in by_key),
        "nil_mentions": len(nil),
        "nil_left_unlinked": _ratio(sum(one.key not in predicted for one in nil), len(nil)),
        **_slices(in_kb, links),
    }


def at_gold_spans(gold: Iterable[Gold], links: Mapping[Key, Outcome]) -> dict[str, Any]:
    """Accuracy (NIL decisions count), accuracy of the best candidate, and candidate recall, over in-KB gold spans."""
    golds = list(gold)
    in_kb = [one for one in golds if one.in_kb]
    found = [(one, links.get(one.key, Outcome(None, ()))) for one in in_kb]
    top = sum(1 for one, outcome in found if outcome.candidates and outcome.candidates[0][0] == one.qid)
    return {
        "gold_mentions": len(golds),
        "gold_in_kb": len(in_kb),
        "accuracy": _ratio(sum(outcome.qid == one.qid for one, outcome in found), len(in_kb)),
        "accuracy_best_candidate": _ratio(top, len(in_kb)),
        "candidate_recall": _ratio(sum(gold_rank(one, outcome)[0] for one, outcome in found), len(in_kb)),
        **_slices(in_kb, links),
    }


def _slices(in_kb: list[Gold], links: Mapping[Key, Outcome]) -> dict[str, Any]:
    """Of rare mentions and of each frequency band: how many, which share is right, for which share the item is a candidate."""
    members: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for one in in_kb:
        outcome = links.get(one.key, Outcome(None, ()))
        is_candidate, is_rare = gold_rank(one, outcome)
        for name in (f"band {one.band}", *(("rare",) if is_rare else ())):
            members[name].append((outcome.qid == one.qid, is_candidate))
    return {
        "slices": {
            name: {
                "n": len(found),
                "right": _ratio(sum(right for right, _ in found), len(found)),
                "candidate_recall": _ratio(sum(candidate for _, candidate in found), len(found)),
            }
            for name, found in sorted(members.items())
        }
    }
