"""Types that statements imply, by hand and against a plain loop."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.index.entity_types import LANGUAGE, PERSON, PLACE
from pipeline.index.implied_types import OWNER_TYPES, VALUE_TYPES, implied_types, united_types

BORN_IN, SPEAKS, PART_OF = 19, 1412, 361


def arrays(triples: list[tuple[int, int, int]]) -> list[np.ndarray]:
    return [np.array([triple[end] for triple in triples], np.uint32) for end in range(3)]


def test_by_hand() -> None:
    items, bits = implied_types(*arrays([(1, BORN_IN, 2), (1, SPEAKS, 3), (4, PART_OF, 5)]))
    assert dict(zip(items.tolist(), bits.tolist(), strict=True)) == {
        1: PERSON,
        2: PLACE,
        3: LANGUAGE,
    }


TRIPLES = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from([19, 36, 50, 140, 361, 1412]), st.integers(1, 9))
)


@given(TRIPLES)
def test_as_a_plain_loop(triples: list[tuple[int, int, int]]) -> None:
    wanted: dict[int, int] = defaultdict(int)
    for subject, predicate, value in triples:
        for types, item in ((OWNER_TYPES, subject), (VALUE_TYPES, value)):
            for bit, properties in types.items():
                if predicate in properties:
                    wanted[item] |= bit
    items, bits = implied_types(*arrays(triples))
    assert dict(zip(items.tolist(), bits.tolist(), strict=True)) == wanted


@given(TRIPLES, st.integers(0, 20))
def test_the_cut_into_units_does_not_matter(triples: list[tuple[int, int, int]], cut: int) -> None:
    parts = [implied_types(*arrays(part)) for part in (triples[:cut], triples[cut:])]
    united = united_types(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    whole = implied_types(*arrays(triples))
    assert [column.tolist() for column in united] == [column.tolist() for column in whole]
