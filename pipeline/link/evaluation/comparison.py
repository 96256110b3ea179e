"""Compare links with gold: what the KB knows of their items, slices, errors.

Of the KB only the items of gold and links are kept. The triples are counted in one scan, with
bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.database.kb_lookups import in_degrees, matching, redirects_of
from pipeline.engine.tables import RunPaths
from pipeline.index.entity_store import EntityStore
from pipeline.link.evaluation.scores import (
    NIL,
    Gold,
    ItemFacts,
    LinkError,
    Prediction,
    SpanKey,
    find_errors,
    is_rare,
)
from pipeline.link.gold import GoldDocument
from schemas import ENTITY_FREQUENCY

# The band of an item to which the run has no link.
NOT_LINKED = "not linked"


@dataclass(frozen=True, slots=True)
class Compared:
    """Hold gold and links of the same documents, with the slices of their items, and the errors."""

    golds: list[Gold]
    links: dict[SpanKey, Prediction]
    errors: list[LinkError]


def items_of(golds: Iterable[Gold], links: Mapping[SpanKey, Prediction]) -> set[int]:
    """Return all items about which something must be known."""
    qids = {
        qid for link in links.values() for qid in (*link.candidates, link.qid) if qid is not None
    }
    return qids | {mention.qid for mention in golds if mention.in_kb and mention.qid is not None}


def facts_of(paths: RunPaths, store: EntityStore, qids: set[int]) -> ItemFacts:
    """Return what the KB knows of items."""
    return ItemFacts(in_degrees(paths, qids), types_of(store, qids))


def within_kb(
    golds: Sequence[Gold], links: Mapping[SpanKey, Prediction], store: EntityStore
) -> tuple[list[Gold], dict[SpanKey, Prediction]]:
    """Return gold and links without what lies outside the KB.

    That is gold whose item the KB lacks (NIL included), the links at exactly its spans, and links
    to items that the KB lacks.
    """
    outside = {mention.key for mention in golds if not mention.in_kb}
    stored = types_of(store, {link.qid for link in links.values() if link.qid is not None})
    inside = {
        key: link
        for key, link in links.items()
        if key not in outside and (link.qid is None or link.qid in stored)
    }
    return [mention for mention in golds if mention.in_kb], inside


def in_annotated_lines(
    links: Mapping[SpanKey, Prediction], documents: Mapping[str, GoldDocument]
) -> dict[SpanKey, Prediction]:
    """Return the links in the lines from the first to the last gold mention of each document.

    For gold that annotates only a part of each text, without saying which. A document without gold
    mentions has no such lines.
    """
    lines_of = {}
    for doc_id, document in documents.items():
        if document.mentions:
            first = min(mention.start for mention in document.mentions)
            last = max(mention.end for mention in document.mentions)
            line_end = document.text.find("\n", last)
            lines_of[doc_id] = (
                document.text.rfind("\n", 0, first) + 1,
                line_end if line_end >= 0 else len(document.text),
            )
    nowhere = (0, 0)
    return {
        key: link
        for key, link in links.items()
        if lines_of.get(key[0], nowhere)[0] <= key[1] and key[2] <= lines_of.get(key[0], nowhere)[1]
    }


def compare(
    golds: Sequence[Gold],
    links: Mapping[SpanKey, Prediction],
    facts: ItemFacts,
    bands: Mapping[int, str] | None = None,
) -> Compared:
    """Return gold and links with the slices of their items, and the errors.

    Args:
        golds: the gold mentions.
        links: of the same documents.
        facts: of all their items.
        bands: frequency band of each linked item; None without statistics.
    """

    # The same item may be rare at one mention and not at another: it depends on the candidates.
    def slices(qid: int | None, candidates: tuple[int, ...]) -> tuple[str, ...]:
        if qid is None:
            return ()
        rare = ("rare",) if is_rare(qid, candidates, facts.in_degree) else ()
        return rare if bands is None else (f"band {bands.get(qid, NOT_LINKED)}", *rare)

    sliced_links = {
        key: replace(link, slices=slices(link.qid, link.candidates)) for key, link in links.items()
    }
    sliced_golds = [
        replace(mention, slices=slices(mention.qid, links.get(mention.key, NIL).candidates))
        if mention.in_kb
        else mention
        for mention in golds
    ]
    return Compared(
        sliced_golds, sliced_links, list(find_errors(sliced_golds, sliced_links, facts))
    )


def golds_of(paths: RunPaths, documents: Iterable[GoldDocument], store: EntityStore) -> list[Gold]:
    """Return the gold mentions, their items as they are called in the KB now."""
    mentions = [(document, mention) for document in documents for mention in document.mentions]
    current_qid = redirects_of(
        paths, {mention.qid for _, mention in mentions if mention.qid is not None}
    )
    # Only items of the KB have an entry.
    types = types_of(store, set(current_qid.values()))

    golds = []
    for document, mention in mentions:
        qid = None if mention.qid is None else current_qid[mention.qid]
        key = (document.doc_id, mention.start, mention.end)
        surface = document.text[mention.start : mention.end]
        golds.append(Gold(key, qid, qid in types, surface=surface))
    return golds


def types_of(store: EntityStore, qids: set[int]) -> dict[int, int]:
    """Return the coarse type bits of the items that the KB has, and of no other."""
    # Gold files may hold numbers that are no 32-bit ids.
    sorted_qids = np.array(sorted(qid for qid in qids if 0 < qid < 1 << 32), np.uint32)
    rows = store.rows(sorted_qids)
    is_stored = rows >= 0
    types = store.types(rows[is_stored])
    return dict(zip(sorted_qids[is_stored].tolist(), types.tolist(), strict=True))


def bands_of(paths: RunPaths, qids: Iterable[int]) -> dict[int, str] | None:
    """Return the frequency bands of the items that the run has linked.

    None where the run has no statistics.
    """
    if paths.manifest("stats") is None:
        return None
    bands: dict[int, str] = {}
    part_paths = paths.files("stats", ENTITY_FREQUENCY)
    for rows in matching(part_paths, ENTITY_FREQUENCY, ("qid", "band"), sorted(qids)):
        bands.update(
            zip(rows.column("qid").to_pylist(), rows.column("band").to_pylist(), strict=True)
        )
    return bands
