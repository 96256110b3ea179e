"""The file of `evaluate --errors`: every wrong gold mention as a JSON line, with what was said instead and what was at hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.engine import files
from pipeline.index.entity_store import EntityStore
from pipeline.link.evaluation.scores import Key, LinkError, Outcome, place_of
from pipeline.link.gold import GoldDocument

CONTEXT_CHARACTERS = 60
SHOWN_CANDIDATES = 5


def write_errors(
    path: str,
    errors: Iterable[LinkError],
    links: Mapping[Key, Outcome],
    documents: Mapping[str, GoldDocument],
    store: EntityStore,
) -> None:
    """Write one line per error; the file appears whole or not at all."""

    def lines() -> Iterator[bytes]:
        for error in errors:
            outcome = None if error.mention is None else links[error.mention]
            record = _record(error, outcome, documents[error.gold.key[0]].text, store)
            yield json.dumps(record, ensure_ascii=False).encode() + b"\n"

    files.write_stream(path, lines())


def _record(
    error: LinkError, outcome: Outcome | None, text: str, store: EntityStore
) -> dict[str, Any]:
    doc_id, start, end = error.gold.key
    shown = (
        []
        if outcome is None
        else list(zip(outcome.candidates, outcome.scores, strict=True))[:SHOWN_CANDIDATES]
    )
    place = (
        place_of(error.gold.qid, outcome.candidates)
        if outcome is not None and error.gold.qid is not None
        else None
    )
    return {
        "doc_id": doc_id,
        "start": start,
        "end": end,
        "surface": text[start:end],
        "before": text[max(start - CONTEXT_CHARACTERS, 0) : start],
        "after": text[end : end + CONTEXT_CHARACTERS],
        "class": error.name,
        "gold": _item(error.gold.qid, store),
        "linked": _linked(error.mention, outcome, store),
        "rank": None if place is None else place + 1,
        "candidates": [_item(qid, store) | {"score": round(score, 4)} for qid, score in shown],
    }


def _linked(
    mention: Key | None, outcome: Outcome | None, store: EntityStore
) -> dict[str, Any] | None:
    if mention is None or outcome is None:
        return None
    _, start, end = mention
    return {
        "start": start,
        "end": end,
        **_item(outcome.qid, store),
        "confidence": round(outcome.confidence, 4),
    }


def _item(qid: int | None, store: EntityStore) -> dict[str, str | None]:
    """Id and label as written; null for NIL, and the label of an item that the KB does not have."""
    if qid is None:
        return {"qid": None, "label": None}
    row = store.rows(np.array([qid], np.uint32))[0] if 0 < qid < 1 << 32 else -1
    return {"qid": f"Q{qid}", "label": store.label(int(row)) if row >= 0 else None}
