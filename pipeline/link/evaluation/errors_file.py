"""Write the file of `evaluate --errors`: every wrong gold mention as a JSON line.

A line says what was linked instead, and which candidates there were.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.engine import files
from pipeline.index.entity_store import EntityStore
from pipeline.link.evaluation.scores import LinkError, Prediction, SpanKey, rank_of
from pipeline.link.gold import GoldDocument
from schemas.ids import item_id

# On each side of the mention: enough to see why a link is wrong.
CONTEXT_CHARACTERS = 60
SHOWN_CANDIDATES = 5


def write_errors(
    path: str,
    errors: Iterable[LinkError],
    links: Mapping[SpanKey, Prediction],
    documents: Mapping[str, GoldDocument],
    store: EntityStore,
) -> None:
    """Write one line per error; the file appears whole or not at all."""

    def lines() -> Iterator[bytes]:
        for error in errors:
            link = None if error.mention is None else links[error.mention]
            record = _record(error, link, documents[error.gold.key[0]].text, store)
            yield json.dumps(record, ensure_ascii=False).encode() + b"\n"

    files.write_stream(path, lines())


def _record(
    error: LinkError, link: Prediction | None, text: str, store: EntityStore
) -> dict[str, Any]:
    """Return the record of one error; `link` is that of the mention at or over the gold span."""
    doc_id, start, end = error.gold.key
    scored = [] if link is None else list(zip(link.candidates, link.scores, strict=True))
    rank = (
        rank_of(error.gold.qid, link.candidates)
        if link is not None and error.gold.qid is not None
        else None
    )

    # Ranks count from 1 in the file.
    return {
        "doc_id": doc_id,
        "start": start,
        "end": end,
        "surface": text[start:end],
        "before": text[max(start - CONTEXT_CHARACTERS, 0) : start],
        "after": text[end : end + CONTEXT_CHARACTERS],
        "class": error.name,
        "gold": _item(error.gold.qid, store),
        "linked": _linked(error.mention, link, store),
        "rank": None if rank is None else rank + 1,
        "candidates": [
            _item(qid, store) | {"score": round(score, 4)}
            for qid, score in scored[:SHOWN_CANDIDATES]
        ],
    }


def _linked(
    mention: SpanKey | None, link: Prediction | None, store: EntityStore
) -> dict[str, Any] | None:
    if mention is None or link is None:
        return None
    _, start, end = mention
    return {
        "start": start,
        "end": end,
        **_item(link.qid, store),
        "confidence": round(link.confidence, 4),
    }


def _item(qid: int | None, store: EntityStore) -> dict[str, str | None]:
    """Return id and label as the file has them.

    Both are null for NIL, and the label for an item that the KB does not have.
    """
    if qid is None:
        return {"qid": None, "label": None}
    # Gold files may hold numbers that are no 32-bit ids.
    row = store.rows(np.array([qid], np.uint32))[0] if 0 < qid < 1 << 32 else -1
    return {"qid": item_id(qid), "label": store.label(int(row)) if row >= 0 else None}
