"""Neighbours and merged items: pure array work over triples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.arrays.runs import first_per_owner
from schemas.array_types import Array

MAX_NEIGHBOURS = 32


@dataclass(frozen=True, slots=True)
class Pairs:
    """Parallel arrays: `other` is one triple away from `one`."""

    one: Array  # uint32
    other: Array  # uint32
    is_incoming: Array  # uint8: the triple is `other`'s statement


def both_ways(subjects: Array, objects: Array) -> Pairs:
    """Triples as pairs, once from each end; nothing is its own neighbour."""
    kept = subjects != objects
    subjects, objects = subjects[kept], objects[kept]
    directions = np.repeat(np.array([0, 1], np.uint8), len(subjects))
    return Pairs(
        np.concatenate([subjects, objects]), np.concatenate([objects, subjects]), directions
    )


def nearest(pairs: Pairs) -> Pairs:
    """The MAX_NEIGHBOURS best neighbours of each, by item: its own statements go first, then the lower QID.

    An item's own statements describe it; Wikidata gave low numbers to what many Wikipedias write of. The order is
    total, so the best of the best of parts are the best of the whole, however the triples were split.
    """
    order = np.lexsort((pairs.is_incoming, pairs.other, pairs.one))
    one, other, is_incoming = pairs.one[order], pairs.other[order], pairs.is_incoming[order]
    if len(one):
        distinct = np.concatenate([[True], (one[1:] != one[:-1]) | (other[1:] != other[:-1])])
        one, other, is_incoming = one[distinct], other[distinct], is_incoming[distinct]
    order = np.lexsort((other, is_incoming, one))
    kept = order[first_per_owner(one[order], MAX_NEIGHBOURS)]
    return Pairs(one[kept], other[kept], is_incoming[kept])
