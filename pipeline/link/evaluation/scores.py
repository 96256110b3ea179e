"""Score links against gold links. Pure: gold and links in, counts and ratios out.

In-KB: only gold mentions whose item is in the KB count for recall and accuracy. A mention is right
if its span and its item are. Slices (frequency bands; rare: the item is a candidate, but not the
one to which most triples point) come with each gold mention and, by its own item, with each
prediction: so a slice has a precision as well as a recall. Every wrong mention has one class of
error. Costs follow the mentions: n log n.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Document, first code point and one past the last.
SpanKey = tuple[str, int, int]

CUTOFFS = (1, 5, 20)
# Checked in this order.
ERROR_CLASSES = (
    "not_detected",
    "wrong_span",
    "no_candidate",
    "nil",
    "type",
    "rare",
    "popular",
)
NIL_LINKED = "nil_linked"


@dataclass(frozen=True, slots=True)
class Prediction:
    """Hold what the linker decided for one mention."""

    # None is NIL.
    qid: int | None
    # The best first.
    candidates: tuple[int, ...] = ()
    # Slices of the item.
    slices: tuple[str, ...] = ()
    # The best candidate's probability, also where the item is NIL.
    confidence: float = 0.0
    # Of the candidates.
    scores: tuple[float, ...] = ()
    # What found the mention; several joined by "+".
    detector: str = ""
    # The recogniser's label of the mention.
    ner_type: str | None = None
    # How the best candidate was found.
    match: str = ""
    # The mention's text.
    surface: str = ""


@dataclass(frozen=True, slots=True)
class Gold:
    """Hold a gold mention."""

    key: SpanKey
    # None is NIL.
    qid: int | None
    # Whether the KB has the item.
    in_kb: bool
    # Slices of the item.
    slices: tuple[str, ...] = ()
    surface: str = ""


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """Hold what the KB knows of items: triples that point to each, and coarse type bits.

    An item without bits has an unknown type.
    """

    in_degree: Mapping[int, int]
    types: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class LinkError:
    """Hold a gold mention that is wrong, and the class of the error."""

    gold: Gold
    name: str
    # The mention at its span, else one that overlaps it.
    mention: SpanKey | None


NIL = Prediction(None)


def _ratio(count: int, total: int) -> float | None:
    return round(count / total, 4) if total else None


def _precision_recall(right: int, predicted: int, gold: int) -> dict[str, float | int | None]:
    return {
        "gold": gold,
        "predicted": predicted,
        "precision": _ratio(right, predicted),
        "recall": _ratio(right, gold),
        "f1": _ratio(2 * right, predicted + gold),
    }


def end_to_end(gold: Iterable[Gold], links: Mapping[SpanKey, Prediction]) -> dict[str, Any]:
    """Score detected and linked mentions: in-KB micro precision, recall and F1, also by slice.

    Adds figures of detection and of NIL.
    """
    golds = list(gold)
    by_key = {mention.key: mention for mention in golds}
    in_kb = [mention for mention in golds if mention.in_kb]
    nil = [mention for mention in golds if not mention.in_kb]
    predicted = {key: link for key, link in links.items() if link.qid is not None}
    right = [
        mention
        for mention in in_kb
        if mention.key in predicted and predicted[mention.key].qid == mention.qid
    ]

    # By slice: right, predicted and gold mentions.
    slice_counts = [
        Counter(name for mention in mentions for name in mention.slices)
        for mentions in (right, predicted.values(), in_kb)
    ]
    slice_names = sorted(set().union(*slice_counts))
    overall = _precision_recall(len(right), len(predicted), len(in_kb))
    num_found = sum(mention.key in links for mention in golds)
    num_nil_unlinked = sum(mention.key not in predicted for mention in nil)
    return {
        "gold_mentions": len(golds),
        "gold_in_kb": len(in_kb),
        **{name: value for name, value in overall.items() if name != "gold"},
        "detection_recall": _ratio(num_found, len(golds)),
        "wrong_item": sum(
            1 for key, link in predicted.items() if key in by_key and by_key[key].qid != link.qid
        ),
        "no_gold_span": sum(1 for key in predicted if key not in by_key),
        "nil_mentions": len(nil),
        "nil_left_unlinked": _ratio(num_nil_unlinked, len(nil)),
        "slices": {
            name: _precision_recall(*(counts[name] for counts in slice_counts))
            for name in slice_names
        },
    }


def at_gold_spans(gold: Iterable[Gold], links: Mapping[SpanKey, Prediction]) -> dict[str, Any]:
    """Score links at in-KB gold spans, in all and by slice.

    Accuracy (NIL decisions count), accuracy of the best candidate, and candidate recall.
    """
    golds = list(gold)
    in_kb = [mention for mention in golds if mention.in_kb]
    names = sorted({name for mention in in_kb for name in mention.slices})
    slices = {
        name: _accuracies([mention for mention in in_kb if name in mention.slices], links)
        for name in names
    }
    return {"gold_mentions": len(golds), **_accuracies(in_kb, links), "slices": slices}


def _accuracies(golds: list[Gold], links: Mapping[SpanKey, Prediction]) -> dict[str, Any]:
    # A gold span without a mention counts as NIL.
    pairs = [(mention.qid, links.get(mention.key, NIL)) for mention in golds]
    num_right = sum(link.qid == qid for qid, link in pairs)
    num_best_right = sum(link.candidates[:1] == (qid,) for qid, link in pairs)
    num_listed = sum(qid in link.candidates for qid, link in pairs)
    return {
        "gold_in_kb": len(golds),
        "accuracy": _ratio(num_right, len(golds)),
        "accuracy_best_candidate": _ratio(num_best_right, len(golds)),
        "candidate_recall": _ratio(num_listed, len(golds)),
    }


def detection(gold: Iterable[Gold], links: Mapping[SpanKey, Prediction]) -> dict[str, Any]:
    """Score how many in-KB gold spans a mention has exactly.

    In all, by the first character, by each detector, and by this detector alone; and how many of
    these mentions have the right item.
    """
    in_kb = [mention for mention in gold if mention.in_kb]
    detected = [mention for mention in in_kb if mention.key in links]
    gold_counts, detected_counts = (
        Counter(_first_character(mention.surface) for mention in mentions)
        for mentions in (in_kb, detected)
    )

    # A mention that several detectors found counts for each of them.
    detectors = [frozenset(links[mention.key].detector.split("+")) for mention in detected]
    each = Counter(name for names in detectors for name in names)
    alone = Counter(name for names in detectors if len(names) == 1 for name in names)
    detector_names = {name for link in links.values() for name in link.detector.split("+")}
    num_right = sum(links[mention.key].qid == mention.qid for mention in detected)
    return {
        "span_recall": _ratio(len(detected), len(in_kb)),
        "span_recall_by_first_character": {
            name: {
                "gold": gold_counts[name],
                "recall": _ratio(detected_counts[name], gold_counts[name]),
            }
            for name in sorted(gold_counts)
        },
        "item_accuracy_at_found_spans": _ratio(num_right, len(detected)),
        "detectors": {
            name: {
                "recall": _ratio(each[name], len(in_kb)),
                "recall_only_by_it": _ratio(alone[name], len(in_kb)),
            }
            for name in sorted(detector_names)
        },
    }


def _first_character(surface: str) -> str:
    character = surface[:1]
    # Some letters, such as "ǅ", have a title case that is not upper case.
    if character.isupper() or character.istitle():
        return "capital"
    if character.isdigit():
        return "digit"
    return "lower case" if character.islower() else "other"


def candidate_recall(
    gold: Iterable[Gold], links: Mapping[SpanKey, Prediction], top_k: int
) -> dict[str, float | None]:
    """Return the share of in-KB gold mentions whose item is among the first candidates.

    For the first 1, 5, 20 and all candidates of the mention at exactly this span. None for a number
    above `top_k`, since the table lists no more candidates than that.
    """
    in_kb = [mention for mention in gold if mention.in_kb]
    count_of_rank = Counter(
        rank_of(mention.qid, links.get(mention.key, NIL).candidates) for mention in in_kb
    )

    # Rank None: the item is no candidate, or no mention has the span.
    recalls = {
        str(cutoff): _ratio(sum(count_of_rank[rank] for rank in range(cutoff)), len(in_kb))
        if cutoff <= top_k
        else None
        for cutoff in CUTOFFS
    }
    return recalls | {"all": _ratio(len(in_kb) - count_of_rank[None], len(in_kb))}


def rank_of(qid: int | None, candidates: Sequence[int]) -> int | None:
    """Return the rank of an item among candidates, from 0; None where it is none of them."""
    return next((rank for rank, candidate in enumerate(candidates) if candidate == qid), None)


def is_rare(qid: int | None, candidates: Sequence[int], in_degree: Mapping[int, int]) -> bool:
    """Say whether an item is a candidate, but not the one to which most triples point.

    Of equals, the lowest QID counts as that one.
    """
    if qid not in candidates:
        return False
    return qid != min(candidates, key=lambda candidate: (-in_degree.get(candidate, 0), candidate))


def find_errors(
    gold: Iterable[Gold], links: Mapping[SpanKey, Prediction], facts: ItemFacts
) -> Iterator[LinkError]:
    """Yield every wrong in-KB gold mention with the first of ERROR_CLASSES that fits.

    And with NIL_LINKED every gold mention that is linked though its item is not in the KB.
    """
    finder = OverlapFinder(links)
    for mention in gold:
        link_key = mention.key if mention.key in links else finder.overlapping(mention.key)

        # Gold outside the KB is right where no mention has exactly its span.
        if link_key is None or link_key != mention.key:
            undetected = "not_detected" if link_key is None else "wrong_span"
            name = undetected if mention.in_kb else None
        else:
            name = _class_at_span(mention, links[link_key], facts)
        if name is not None:
            yield LinkError(mention, name, link_key)


def _class_at_span(mention: Gold, link: Prediction, facts: ItemFacts) -> str | None:
    """Return the class of error of a gold mention with a link at its span; None if it is right."""
    if not mention.in_kb:
        return None if link.qid is None else NIL_LINKED
    if mention.qid is None or mention.qid == link.qid:
        return None
    if mention.qid not in link.candidates:
        return "no_candidate"
    if link.qid is None:
        return "nil"

    # Two types differ only if both are known and share no bit.
    chosen_types, gold_types = facts.types.get(link.qid, 0), facts.types.get(mention.qid, 0)
    if chosen_types and gold_types and not chosen_types & gold_types:
        return "type"
    return "rare" if is_rare(mention.qid, link.candidates, facts.in_degree) else "popular"


def count_errors(errors: Iterable[LinkError], gold: Iterable[Gold]) -> dict[str, Any]:
    """Count errors by class, with their share of the wrong and of all in-KB mentions.

    `nil_linked` is apart: it concerns gold that is not in the KB.
    """
    counts = Counter(error.name for error in errors)
    gold_counts = Counter(mention.in_kb for mention in gold)
    num_wrong = sum(counts[name] for name in ERROR_CLASSES)

    # All classes appear, also those without an error, so that files of two runs compare.
    return {
        "wrong_in_kb": num_wrong,
        "classes": {
            name: {
                "count": counts[name],
                "share": _ratio(counts[name], num_wrong),
                "share_of_gold": _ratio(counts[name], gold_counts[True]),
            }
            for name in ERROR_CLASSES
        },
        NIL_LINKED: {
            "count": counts[NIL_LINKED],
            "share_of_gold": _ratio(counts[NIL_LINKED], gold_counts[False]),
        },
    }


class OverlapFinder:
    """Find a mention that overlaps a span, in logarithmic time.

    The mentions may overlap each other.
    """

    def __init__(self, keys: Iterable[SpanKey]) -> None:
        # By document, ascending by start. `_furthest` holds, of all mentions that start here or
        # before, the one that ends last.
        self._starts: dict[str, list[int]] = {}
        self._furthest: dict[str, list[SpanKey]] = {}
        for key in sorted(keys):
            doc_id, start, end = key
            self._starts.setdefault(doc_id, []).append(start)
            furthest = self._furthest.setdefault(doc_id, [])
            furthest.append(key if not furthest or end > furthest[-1][2] else furthest[-1])

    def overlapping(self, span: SpanKey) -> SpanKey | None:
        """Return one of the mentions that overlap the span, or None."""
        doc_id, start, end = span
        num_starting_before = bisect_left(self._starts.get(doc_id, []), end)
        if not num_starting_before:
            return None
        furthest = self._furthest[doc_id][num_starting_before - 1]
        return furthest if furthest[2] > start else None
