"""Coarse types of classes against a climb from each, and agreement with a recogniser's labels."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.index.entity_types import (
    MAX_CLIMB,
    NAME,
    ORGANISATION,
    PERSON,
    PLACE,
    ROOTS,
    class_types,
    type_table,
)


def types_of(parents: dict[int, list[int]]) -> dict[int, int]:
    edges = np.array(
        [(child, above) for child in parents for above in parents[child]], np.uint32
    ).reshape(-1, 2)
    classes, bits = class_types(edges[:, 0], edges[:, 1])
    return dict(zip(classes.tolist(), bits.tolist(), strict=True))


def climbed(class_qid: int, parents: dict[int, list[int]]) -> int:
    """Breadth first from one class: the plain way."""
    seen, level = {class_qid}, [class_qid]
    for _ in range(MAX_CLIMB):
        bits = 0
        for qid in level:
            bits |= ROOTS.get(qid, 0)
        if bits or not level:
            return bits
        level = list({above for qid in level for above in parents.get(qid, [])} - seen)
        seen |= set(level)
    return 0


CLASS = st.sampled_from([*range(100, 112), 5, 515, 43229, 95074])


@given(st.lists(st.tuples(CLASS, CLASS), max_size=25))
def test_types_of_all_classes_are_those_of_each(edges: list[tuple[int, int]]) -> None:
    parents: dict[int, list[int]] = {}
    for child, above in edges:
        parents.setdefault(child, []).append(above)
    for qid, bits in types_of(parents).items():
        assert bits == climbed(qid, parents)


def test_types_of_long_chains() -> None:
    parents = {1000 + place: [1001 + place] for place in range(14)} | {1014: [515]}
    for qid, bits in types_of(parents).items():
        assert bits == climbed(qid, parents), qid


def test_types() -> None:
    classes = types_of({999: [1000], 1000: [6256]})
    assert (classes[515], classes[999], classes[1000]) == (PLACE, PLACE, PLACE)
    assert types_of({7: [8], 8: [7]})[7] == 0  # a cycle ends
    table = type_table("PERSON")
    assert table[PERSON] == 1.0
    assert table[PLACE] == 0.0
    assert table[PERSON | PLACE] == 1.0
    assert table[0] == 0.5
    assert type_table("ORG")[ORGANISATION] == 1.0


def test_a_given_name_or_surname_is_no_person() -> None:
    classes = types_of({12308941: [202444], 101352: [82799]})
    assert (classes[12308941], classes[101352]) == (NAME, NAME)
    assert type_table("PERSON")[NAME] == 0.0
    assert len(type_table("PERSON")) == 256
