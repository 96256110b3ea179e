"""Find coarse types that statements imply, for items whose classes say nothing.

What a place of birth points to is a place, and what has one is a person. Goes in: subjects,
predicates and objects of triples. Comes out: items with type bits. Wikidata states the class of
nearly every item; a cut of it, or a knowledge base of one's own, often does not.
"""

from __future__ import annotations

import numpy as np

from pipeline.index.entity_types import GROUP, LANGUAGE, ORGANISATION, PERSON, PLACE, WORK
from schemas.array_types import U8, U32

# Properties whose values are of one type; then those that only items of one type have. Properties
# that fit several types (location, genre, founder) are left out.
VALUE_TYPES = {
    LANGUAGE: (37, 103, 364, 407, 1412, 2936, 6886),
    GROUP: (140, 172),
    PLACE: (17, 19, 20, 27, 30, 36, 47, 119, 131, 190, 495, 551, 937, 1376),
    PERSON: (6, 22, 25, 26, 35, 40, 50, 57, 58, 86, 161, 162, 169, 184, 185, 488, 1037, 3373),
    ORGANISATION: (54, 69, 102, 108, 264, 355, 449, 463, 749),
}
OWNER_TYPES = {
    PERSON: (19, 20, 21, 22, 25, 26, 27, 39, 69, 102, 103, 106, 119, 184, 185, 413, 451, 551, 937,
             1412, 3373),
    PLACE: (30, 36, 47, 190, 1376),
    WORK: (50, 57, 58, 86, 161, 162, 364, 449),
}  # fmt: skip


def implied_types(subjects: U32, predicates: U32, objects: U32) -> tuple[U32, U8]:
    """Return the items of triples that have an implied type, and their type bits, sorted by item.

    Args:
        subjects: of the triples, shape (n,).
        predicates: properties, shape (n,).
        objects: items, shape (n,).
    """
    items, bits = [np.empty(0, np.uint32)], [np.empty(0, np.uint8)]
    for types, ends in ((VALUE_TYPES, objects), (OWNER_TYPES, subjects)):
        for bit, properties in types.items():
            chosen = np.unique(ends[np.isin(predicates, properties)])
            items.append(chosen)
            bits.append(np.full(len(chosen), bit, np.uint8))
    return united_types(np.concatenate(items), np.concatenate(bits))


def united_types(items: U32, bits: U8) -> tuple[U32, U8]:
    """Return each item once, sorted, with the bits of all its rows."""
    distinct, positions = np.unique(items, return_inverse=True)
    united = np.zeros(len(distinct), np.uint8)
    np.bitwise_or.at(united, positions, bits)
    return distinct, united
