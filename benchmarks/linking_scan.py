"""Run the limit of fuzzy search: compare every name of the KB with the misspelt one by `rapidfuzz`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA

from benchmarks.linking_clock import Clock
from benchmarks.linking_names import Names, names_of
from benchmarks.linking_tables import read_items, read_jsonl
from pipeline.index.name_keys import normalise

QUERIES = 200  # at a time: the rows of a matrix
ONE_EDIT = 100.0


def scan(out: Path, run: str, spans: str, cutoff: float) -> dict[str, Any]:  # noqa: ARG001
    """Find the most similar known name of each name of a gold file; return its most pointed-to
    item, or nothing.

    The best is one edit, else the highest ratio from the cutoff.
    """
    names = names_of(read_items(run))
    keys, clock = list(names), Clock()
    found = [_best(row, keys, names) for row in _scores(_queries(spans), keys, cutoff)]
    return {**clock.taken(), "found": found}


def _queries(path: str) -> list[str]:
    places = [(line["text"], line["mentions"][0]) for line in read_jsonl(path)]
    return [normalise(text[mention["start"] : mention["end"]]) for text, mention in places]


def _scores(queries: list[str], keys: list[str], cutoff: float) -> Iterator[np.ndarray]:
    for first in range(0, len(queries), QUERIES):
        batch = queries[first : first + QUERIES]
        ratios = process.cdist(
            batch, keys, scorer=fuzz.ratio, score_cutoff=cutoff, dtype=np.float32, workers=1
        )
        edits = process.cdist(
            batch, keys, scorer=OSA.distance, score_cutoff=1, dtype=np.uint8, workers=1
        )
        yield from np.where(edits <= 1, ONE_EDIT + ratios, ratios)


def _best(scores: np.ndarray, keys: list[str], names: Names) -> list[Any] | None:
    best = int(scores.argmax())
    return [names[keys[best]][0], names[keys[best]]] if scores[best] > 0 else None
