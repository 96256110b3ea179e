"""Facts among the entities of a window, against the plain way."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards import facts
from pipeline.shards.facts import FactIndex, facts_between
from pipeline.shards.knowledge_lookup import make_lookup
from tests.pipeline.shards import naive_shards

QIDS = np.array(
    [50, 7, 31, 9, 12, 80], np.uint32
)  # of the rows 0 to 5: another order than the rows'
RELATIONS = st.integers(90, 93)
FACTS = st.sets(
    st.tuples(st.integers(0, 5), RELATIONS, st.integers(0, 5)).filter(
        lambda fact: fact[0] != fact[2]
    )
)


def index_of(triples: set[tuple[int, int, int]]) -> FactIndex:
    heads, relations, tails = np.array(sorted(triples), np.int64).reshape(-1, 3).T
    none = np.zeros(len(QIDS))
    return make_lookup(QIDS, none, none, [(heads, relations, tails)]).facts


@given(
    FACTS,
    st.lists(st.lists(st.integers(0, 5), max_size=7), max_size=5),
    st.sampled_from([1, 5, 1 << 20]),
)
def test_facts_equal_the_plain_way(triples, windows: list[list[int]], max_pairs: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facts, "MAX_PAIRS", max_pairs)
        found = facts_between(
            np.repeat(np.arange(len(windows)), [len(rows) for rows in windows]),
            np.array([row for rows in windows for row in rows], np.int64),
            index_of(triples),
        )
    tails: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for head, relation, tail in sorted(triples, key=lambda fact: (fact[1], QIDS[fact[2]])):
        tails[head].append((relation, tail))
    wanted, first = [], 0
    for rows in windows:
        wanted += [(first + head, relation, first + tail)
                   for head, relation, tail in zip(*naive_shards.facts_between(rows, tails), strict=True)]  # fmt: skip
        first += len(rows)
    assert (
        list(zip(found.head.tolist(), found.relation.tolist(), found.tail.tolist(), strict=True))
        == wanted
    )


def test_a_window_with_thousands_of_entities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs are made some at a time."""
    count = 3000
    lookup = make_lookup(
        np.arange(count), np.zeros(count), np.zeros(count),
        [(np.arange(count - 1), np.full(count - 1, 5000), np.arange(1, count))],
    )  # fmt: skip
    found = facts_between(np.zeros(count, np.int64), np.arange(count), lookup.facts)
    assert found.head.tolist() == list(range(count - 1))
    assert (found.tail - found.head == 1).all()


def test_rows_of_items() -> None:
    none = np.zeros(len(QIDS))
    lookup = make_lookup(QIDS, none, none, [])
    assert lookup.rows_of(np.array([7, 8, 80, 81, 1])).tolist() == [1, -1, 5, -1, -1]
    assert lookup.rows_of(np.empty(0, np.uint32)).tolist() == []
    empty = make_lookup(np.empty(0, np.uint32), none[:0], none[:0], [])
    assert empty.rows_of(np.array([7])).tolist() == [-1]
