"""Find coarse types of entities, and say how well a recogniser's label agrees with a type.

A type is a bit; an entity may have several. Goes in: values of instance_of (P31) and the graph of
subclass_of (P279). Comes out: one byte per entity.
"""

from __future__ import annotations

import numpy as np

from schemas.array_types import F32, U8, U32

# A NAME is a given name or a surname as such: "Rachel" in a text is a person, not this item.
PERSON, ORGANISATION, PLACE, WORK, EVENT, GROUP, LANGUAGE, NAME = (1 << bit for bit in range(8))

# Where the climb through subclass_of ends. Wikidata's upper ontology is uneven: several roots per
# type are needed.
ROOTS: dict[int, int] = {
    **dict.fromkeys(
        (5, 215627, 95074, 15632617, 22988604, 178885, 4271324),
        PERSON,
    ),
    **dict.fromkeys(
        (43229, 4830453, 783794, 891723, 6881511, 476028, 12973014, 847017, 215380, 2088357,
         7278, 3918, 38723, 11032, 327333, 16334295, 2385804, 163740, 4438121, 1331793, 245065,
         41298, 18127, 46970, 431289, 15265344, 1616075),
        ORGANISATION,
    ),
    **dict.fromkeys(
        (2221906, 515, 1549591, 6256, 3624078, 486972, 532, 3957, 4022, 23397, 8502, 23442, 5107,
         35657, 82794, 41176, 811979, 12280, 1248784, 6999, 7275, 10864048, 15284, 1093829,
         1637706, 5119, 165, 9430, 34442, 1907114, 39614, 23413, 16970, 33506, 483110, 3455524,
         131681, 46831, 484170, 17343829, 3336843, 27096213, 618123, 271669),
        PLACE,
    ),
    **dict.fromkeys(
        (11424, 571, 7725634, 482994, 7366, 5398426, 17537576, 838948, 2424752, 7397, 7889,
         1002697, 3305213, 134556, 2431196, 386724, 8261, 25379, 1344, 24862, 15416, 47461344,
         35127, 9143, 49084, 5633421, 105543609),
        WORK,
    ),
    **dict.fromkeys(
        (1656682, 1190554, 198, 178561, 180684, 27020041, 16510064, 18608583, 1318941, 132241,
         3839081),
        EVENT,
    ),
    **dict.fromkeys(
        (41710, 33829, 9174, 2472587, 1530022, 231002, 4392985, 6266),
        GROUP,
    ),
    **dict.fromkeys((34770, 33742, 315, 20162172, 25295, 33384), LANGUAGE),
    **dict.fromkeys((202444, 101352), NAME),
}  # fmt: skip
MAX_CLIMB = 12
NUM_TYPES = 8

_LABEL_TYPES: dict[str, dict[int, float]] = {
    "PERSON": {PERSON: 1.0, ORGANISATION: 0.2, GROUP: 0.2},
    "ORG": {ORGANISATION: 1.0, PLACE: 0.4, WORK: 0.5, GROUP: 0.4},
    "GPE": {PLACE: 1.0, ORGANISATION: 0.2},
    "LOC": {PLACE: 1.0},
    "FAC": {PLACE: 1.0, ORGANISATION: 0.6},
    # A nationality is a people, the country, or a party; a language has a label of its own.
    "NORP": {GROUP: 1.0, PLACE: 0.6, ORGANISATION: 0.6, LANGUAGE: 0.1},
    "LANGUAGE": {LANGUAGE: 1.0, GROUP: 0.2, PLACE: 0.1},
    "WORK_OF_ART": {WORK: 1.0, PERSON: 0.2},
    "PRODUCT": {WORK: 1.0, ORGANISATION: 0.5},
    "LAW": {WORK: 1.0},
    "EVENT": {EVENT: 1.0, WORK: 0.3},
    # CoNLL-style labels of other spaCy pipelines.
    "PER": {PERSON: 1.0, ORGANISATION: 0.2, GROUP: 0.2},
    "MISC": {GROUP: 1.0, WORK: 1.0, EVENT: 1.0, LANGUAGE: 1.0},
}
# Agreement where either the label or the type is unknown.
UNKNOWN = 0.5
NUMERIC_LABELS = frozenset({"DATE", "TIME", "PERCENT", "MONEY", "QUANTITY", "ORDINAL", "CARDINAL"})


def class_types(children: U32, parents: U32) -> tuple[U32, U8]:
    """Return the type bits of all classes of a subclass_of graph.

    A class has the types of the nearest roots above it; several roots at the same distance unite. A
    root is above itself. The climb goes level by level over all edges, so a cycle ends, and the
    cost follows the edges: 5 million in seconds, 60 bytes each.

    Args:
        children: the class at the lower end of each edge, shape (edges,).
        parents: the class at its upper end.

    Returns:
        The classes, sorted, and a byte each.
    """
    roots = np.fromiter(ROOTS, np.uint32, len(ROOTS))
    classes = np.unique(np.concatenate([children, parents, roots]))
    # Edges by row of `classes` from here on.
    below, above = np.searchsorted(classes, children), np.searchsorted(classes, parents)

    bits = np.zeros(len(classes), np.uint8)
    bits[np.searchsorted(classes, roots)] = np.fromiter(ROOTS.values(), np.uint8, len(ROOTS))
    frontier = bits > 0
    for _ in range(MAX_CLIMB - 1):
        # Edges from a class that got its types in the last step down to one that has none yet.
        edges = frontier[above] & (bits[below] == 0)
        if not edges.any():
            break
        reached = np.zeros_like(bits)
        np.bitwise_or.at(reached, below[edges], bits[above[edges]])
        frontier = reached > 0
        bits |= reached
    return classes, bits


def type_table(label: str | None) -> F32:
    """Return the agreement of a recogniser's label with each of the 256 sets of type bits.

    0 to 1, shape (256,); UNKNOWN where the label or the type is unknown.
    """
    scores = np.full(1 << NUM_TYPES, UNKNOWN, np.float32)
    agreement = _LABEL_TYPES.get(label or "")
    if agreement is None:
        return scores

    # An entity with several types agrees as well as the best of them. No bits at all: unknown.
    for bits in range(1, 1 << NUM_TYPES):
        scores[bits] = max(
            agreement.get(1 << bit, 0.0) for bit in range(NUM_TYPES) if bits & (1 << bit)
        )
    return scores
