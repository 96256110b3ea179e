"""Look names of the KB up by their normalised key, for the baseline and for every peer; score all
of them alike.

A key's items stand most pointed-to first, the lowest id first where that is equal: the baseline
takes the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import ratio
from benchmarks.linking_tables import Found, Item, read_jsonl
from pipeline.index.name_keys import normalise
from pipeline.link.gold import parse_qid

Place = tuple[str, int, int]  # document, start, end
Names = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Gold:
    """Hold a gold mention whose item is in the KB."""

    place: Place
    surface: str
    qid: int


def names_of(items: Sequence[Item]) -> Names:
    """Return the items by every key that names them."""
    by_key: dict[str, set[int]] = {}
    for item in items:
        for surface in item.surfaces:
            if key := normalise(surface):
                by_key.setdefault(key, set()).add(item.qid)
    pointed_to = {item.qid: item.pointed_to for item in items}
    return {
        key: sorted(qids, key=lambda qid: (-pointed_to[qid], qid)) for key, qids in by_key.items()
    }


def read_gold(path: str, items: Sequence[Item]) -> tuple[list[Gold], int]:
    """Return the gold mentions whose items are in the KB, and the number of all."""
    known = {item.qid for item in items}
    golds, num_all = [], 0
    for document in read_jsonl(path):
        for mention in document["mentions"]:
            num_all += 1
            start, end, qid = mention["start"], mention["end"], parse_qid(mention["qid"])
            if qid is not None and qid in known:
                golds.append(
                    Gold((document["doc_id"], start, end), document["text"][start:end], qid)
                )
    return golds, num_all


def baseline(golds: Sequence[Gold], names: Names) -> dict[Place, Found]:
    """Link by exact look-up of the normalised name: the most pointed-to item."""
    found = {}
    for gold in golds:
        qids = names.get(normalise(gold.surface), [])
        found[gold.place] = Found(qids[0] if qids else None, tuple(qids))
    return found


def is_rare(gold: Gold, names: Names, pointed_to: Mapping[int, int]) -> bool:
    """Say whether the item bears the name, but another that bears it is pointed to more often."""
    qids = names.get(normalise(gold.surface), [])
    return gold.qid in qids and pointed_to[gold.qid] < pointed_to[qids[0]]


def scores(
    golds: Sequence[Gold], found: Mapping[Place, Found], rare: Sequence[Gold]
) -> dict[str, Any]:
    """Score links at gold spans: accuracy, candidate recall, and accuracy of the rare mentions.

    A share of no mentions is None.
    """

    def accuracy(mentions: Sequence[Gold]) -> float | None:
        linked = [gold for gold in mentions if gold.place in found]
        return ratio(sum(found[gold.place].qid == gold.qid for gold in linked), len(mentions))

    listed = sum(gold.qid in found[gold.place].candidates for gold in golds if gold.place in found)
    return {
        "accuracy": accuracy(golds),
        "candidate_recall": ratio(listed, len(golds)),
        "rare": accuracy(rare),
    }
