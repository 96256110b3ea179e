"""Scores of links against gold links. Pure: gold and links in, counts and ratios out.

In-KB: only gold mentions whose item is in the KB count for recall and accuracy. A mention is right where span and item are.
Slices (frequency bands; rare: the item is a candidate, but not the one that most triples point to) are given with each gold
mention and, by its own item, with each prediction: so a slice has a precision as well as a recall. Every wrong mention has one
class of error. Costs follow the mentions: n log n.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Key = tuple[str, int, int]

CUTOFFS = (1, 5, 20)
ERROR_CLASSES = (
    "not_detected",
    "wrong_span",
    "no_candidate",
    "nil",
    "type",
    "rare",
    "popular",
)  # checked in this order
NIL_LINKED = "nil_linked"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the linker said of one mention: the item (None: NIL), its candidates, the best first, and the item's slices.

    `confidence` is the best candidate's probability, also where the item is NIL; `scores` are those of the candidates;
    `detector` is what found the mention, several joined by +.
    """

    qid: int | None
    candidates: tuple[int, ...] = ()
    slices: tuple[str, ...] = ()
    confidence: float = 0.0
    scores: tuple[float, ...] = ()
    detector: str = ""


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold mention. `qid` None is NIL; `in_kb` whether the KB has the item."""

    key: Key
    qid: int | None
    in_kb: bool
    slices: tuple[str, ...] = ()
    surface: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the KB knows of items: the number of triples that point to each, its coarse type bits (none: unknown)."""

    in_degree: Mapping[int, int]
    types: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class LinkError:
    """A gold mention that is wrong, the class of the error, and the mention at its span, else one that overlaps it."""

    gold: Gold
    name: str
    mention: Key | None


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
    counts = [
        Counter(name for one in found for name in one.slices)
        for found in (right, predicted.values(), in_kb)
    ]
    return {
        "gold_mentions": len(golds),
        "gold_in_kb": len(in_kb),
        **{
            name: value
            for name, value in _prf(len(right), len(predicted), len(in_kb)).items()
            if name != "gold"
        },
        "detection_recall": _ratio(sum(one.key in links for one in golds), len(golds)),
        "wrong_item": sum(
            1
            for key, outcome in predicted.items()
            if key in by_key and by_key[key].qid != outcome.qid
        ),
        "no_gold_span": sum(1 for key in predicted if key not in by_key),
        "nil_mentions": len(nil),
        "nil_left_unlinked": _ratio(sum(one.key not in predicted for one in nil), len(nil)),
        "slices": {
            name: _prf(*(count[name] for count in counts)) for name in sorted(set().union(*counts))
        },
    }


def at_gold_spans(gold: Iterable[Gold], links: Mapping[Key, Outcome]) -> dict[str, Any]:
    """Accuracy (NIL decisions count), accuracy of the best candidate, candidate recall, over in-KB gold spans and slices."""
    golds = list(gold)
    in_kb = [one for one in golds if one.in_kb]
    names = sorted({name for one in in_kb for name in one.slices})
    slices = {
        name: _accuracies([one for one in in_kb if name in one.slices], links) for name in names
    }
    return {"gold_mentions": len(golds), **_accuracies(in_kb, links), "slices": slices}


def _accuracies(golds: list[Gold], links: Mapping[Key, Outcome]) -> dict[str, Any]:
    found = [(one.qid, links.get(one.key, NIL)) for one in golds]
    return {
        "gold_in_kb": len(golds),
        "accuracy": _ratio(sum(outcome.qid == qid for qid, outcome in found), len(golds)),
        "accuracy_best_candidate": _ratio(
            sum(outcome.candidates[:1] == (qid,) for qid, outcome in found), len(golds)
        ),
        "candidate_recall": _ratio(
            sum(qid in outcome.candidates for qid, outcome in found), len(golds)
        ),
    }


def detection(gold: Iterable[Gold], links: Mapping[Key, Outcome]) -> dict[str, Any]:
    """In-KB gold spans found exactly: all, by the first character, by each detector, by it alone; right items among them."""
    in_kb = [one for one in gold if one.in_kb]
    found = [one for one in in_kb if one.key in links]
    wanted, got = (
        Counter(_first_character(one.surface) for one in spans) for spans in (in_kb, found)
    )
    detectors = [frozenset(links[one.key].detector.split("+")) for one in found]
    each = Counter(name for names in detectors for name in names)
    alone = Counter(name for names in detectors if len(names) == 1 for name in names)
    known = {name for outcome in links.values() for name in outcome.detector.split("+")}
    return {
        "span_recall": _ratio(len(found), len(in_kb)),
        "span_recall_by_first_character": {
            name: {"gold": wanted[name], "recall": _ratio(got[name], wanted[name])}
            for name in sorted(wanted)
        },
        "item_accuracy_at_found_spans": _ratio(
            sum(links[one.key].qid == one.qid for one in found), len(found)
        ),
        "detectors": {
            name: {
                "recall": _ratio(each[name], len(in_kb)),
                "recall_only_by_it": _ratio(alone[name], len(in_kb)),
            }
            for name in sorted(known)
        },
    }


def _first_character(surface: str) -> str:
    first = surface[:1]
    if first.isupper() or first.istitle():
        return "capital"
    if first.isdigit():
        return "digit"
    return "lower case" if first.islower() else "other"


def candidate_recall(
    gold: Iterable[Gold], links: Mapping[Key, Outcome], top_k: int
) -> dict[str, float | None]:
    """Share of in-KB gold mentions whose item is among the first 1, 5, 20 and all candidates listed at exactly that span.

    None where a row lists at most `top_k` candidates, fewer than were asked for.
    """
    in_kb = [one for one in gold if one.in_kb]
    places = Counter(place_of(one.qid, links.get(one.key, NIL).candidates) for one in in_kb)
    recalls = {
        str(cutoff): _ratio(sum(places[place] for place in range(cutoff)), len(in_kb))
        if cutoff <= top_k
        else None
        for cutoff in CUTOFFS
    }
    return recalls | {"all": _ratio(len(in_kb) - places[None], len(in_kb))}


def place_of(qid: int | None, candidates: Sequence[int]) -> int | None:
    """Place of an item among candidates, from 0; None where it is none of them."""
    return next((place for place, candidate in enumerate(candidates) if candidate == qid), None)


def is_rare(qid: int | None, candidates: Sequence[int], in_degree: Mapping[int, int]) -> bool:
    """Whether an item is a candidate, but not the one that most triples point to (of equals, the lowest QID)."""
    if qid not in candidates:
        return False
    return qid != min(candidates, key=lambda candidate: (-in_degree.get(candidate, 0), candidate))


def find_errors(
    gold: Iterable[Gold], links: Mapping[Key, Outcome], facts: Facts
) -> Iterator[LinkError]:
    """Every wrong in-KB gold mention with the first of ERROR_CLASSES that fits; NIL_LINKED: linked though not in the KB."""
    mentions = Mentions(links)
    for one in gold:
        mention = one.key if one.key in links else mentions.overlapping(one.key)
        if mention is None or mention != one.key:
            name = ("not_detected" if mention is None else "wrong_span") if one.in_kb else None
        else:
            name = _class_at_span(one, links[mention], facts)
        if name is not None:
            yield LinkError(one, name, mention)


def _class_at_span(one: Gold, outcome: Outcome, facts: Facts) -> str | None:
    if not one.in_kb:
        return None if outcome.qid is None else NIL_LINKED
    if one.qid is None or one.qid == outcome.qid:
        return None
    if one.qid not in outcome.candidates:
        return "no_candidate"
    if outcome.qid is None:
        return "nil"
    chosen, wanted = facts.types.get(outcome.qid, 0), facts.types.get(one.qid, 0)
    if chosen and wanted and not chosen & wanted:
        return "type"
    return "rare" if is_rare(one.qid, outcome.candidates, facts.in_degree) else "popular"


def count_errors(errors: Iterable[LinkError], gold: Iterable[Gold]) -> dict[str, Any]:
    """Errors by class: how many, their share of the wrong in-KB mentions and of all in-KB mentions; `nil_linked` apart."""
    counts = Counter(error.name for error in errors)
    in_kb = Counter(one.in_kb for one in gold)
    wrong = sum(counts[name] for name in ERROR_CLASSES)
    return {
        "wrong_in_kb": wrong,
        "classes": {
            name: {
                "count": counts[name],
                "share": _ratio(counts[name], wrong),
                "share_of_gold": _ratio(counts[name], in_kb[True]),
            }
            for name in ERROR_CLASSES
        },
        NIL_LINKED: {
            "count": counts[NIL_LINKED],
            "share_of_gold": _ratio(counts[NIL_LINKED], in_kb[False]),
        },
    }


class Mentions:
    """Finds a mention that overlaps a span, in logarithmic time, whether mentions overlap each other or not."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._starts: dict[str, list[int]] = {}
        self._furthest: dict[
            str, list[Key]
        ] = {}  # of all that start here or before: the one that ends last
        for key in sorted(keys):
            self._starts.setdefault(key[0], []).append(key[1])
            furthest = self._furthest.setdefault(key[0], [])
            furthest.append(key if not furthest or key[2] > furthest[-1][2] else furthest[-1])

    def overlapping(self, span: Key) -> Key | None:
        """One of the mentions that overlap the span, or None."""
        doc_id, start, end = span
        before = bisect_left(self._starts.get(doc_id, []), end)
        if not before:
            return None
        found = self._furthest[doc_id][before - 1]
        return found if found[2] > start else None
