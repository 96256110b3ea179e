"""Find the neighbours of items: pure array work over triples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.arrays.runs import first_per_owner
from schemas.array_types import U8, U32

# Of an item. Without a limit a country would have millions of them.
MAX_NEIGHBOURS = 32


@dataclass(frozen=True, slots=True)
class NeighbourPairs:
    """Hold pairs of items that one triple connects, as parallel arrays."""

    item: U32
    neighbour: U32
    # 1 where the triple is a statement of the neighbour, 0 where it is one of the item.
    is_incoming: U8


def pairs_both_ways(subjects: U32, objects: U32) -> NeighbourPairs:
    """Return triples as pairs, once from each end; nothing is its own neighbour."""
    is_pair = subjects != objects
    subjects, objects = subjects[is_pair], objects[is_pair]

    directions = np.repeat(np.array([0, 1], np.uint8), len(subjects))
    return NeighbourPairs(
        np.concatenate([subjects, objects]), np.concatenate([objects, subjects]), directions
    )


def best_neighbours(pairs: NeighbourPairs) -> NeighbourPairs:
    """Return the MAX_NEIGHBOURS best neighbours of each item, sorted by item.

    An item's own statements come before those of others, since they describe it; then the lower QID
    comes first, since Wikidata gave low numbers to what many Wikipedias write about. The order is
    total, so the best of the best of several batches are the best of the whole, however the triples
    were split.
    """
    order = np.lexsort((pairs.is_incoming, pairs.neighbour, pairs.item))
    items, neighbours = pairs.item[order], pairs.neighbour[order]
    is_incoming = pairs.is_incoming[order]

    # Repeats of a pair are beside each other now, the item's own statement before the others.
    if len(items):
        is_new = (items[1:] != items[:-1]) | (neighbours[1:] != neighbours[:-1])
        distinct = np.concatenate([[True], is_new])
        items, neighbours = items[distinct], neighbours[distinct]
        is_incoming = is_incoming[distinct]

    order = np.lexsort((neighbours, is_incoming, items))
    best = order[first_per_owner(items[order], MAX_NEIGHBOURS)]
    return NeighbourPairs(items[best], neighbours[best], is_incoming[best])
