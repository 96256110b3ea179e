"""Rows of the alias index: united, ordered, cut; runs and neighbours, each against a plain
reference.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.arrays.runs import first_per_owner, offsets_of, owners_of, runs_of, spread
from pipeline.index.name_keys import SOURCE_BITS, index_keys
from pipeline.index.neighbours import (
    MAX_NEIGHBOURS,
    NeighbourPairs,
    best_neighbours,
    pairs_both_ways,
)
from pipeline.index.postings import PostingRows, best_per_key, posting_rows, unite
from schemas import ALIASES

ROW = st.tuples(
    st.integers(0, 3), st.integers(1, 3), st.sampled_from([1, 2, 16]), st.integers(0, 5)
)


def rows_of(values) -> PostingRows:
    columns = list(zip(*values, strict=True)) if values else [(), (), (), ()]
    kinds = (np.uint32, np.uint32, np.uint8, np.uint64)
    return PostingRows(
        *(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True))
    )


def listed(rows: PostingRows) -> list[tuple[int, ...]]:
    return list(
        zip(
            *(column.tolist() for column in (rows.keys, rows.qids, rows.flags, rows.counts)),
            strict=True,
        )
    )


def joined(*parts: PostingRows) -> PostingRows:
    return PostingRows(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in PostingRows.__slots__)
    )


@given(st.lists(ROW, max_size=20), st.integers(0, 20), st.randoms())
def test_uniting_is_the_same_in_any_order_and_any_split(values, cut: int, random) -> None:
    wanted: dict[tuple[int, int], list[int]] = {}
    for key, qid, flags, count in values:
        found = wanted.setdefault((key, qid), [0, 0])
        found[0] |= flags
        found[1] += count
    random.shuffle(values)
    parts = [unite(rows_of(values[:cut])), rows_of(values[cut:])]
    assert listed(unite(joined(*parts))) == [
        (*pair, *found) for pair, found in sorted(wanted.items())
    ]


@given(st.lists(ROW, max_size=30, unique_by=lambda row: row[:2]), st.integers(1, 4))
def test_the_best_of_each_key(values, limit: int) -> None:
    popularity = {1: 5, 2: 5, 3: 50}
    rows = rows_of(values)
    found, _ = best_per_key(
        rows, np.array([popularity[qid] for qid in rows.qids.tolist()], np.uint32), limit
    )
    wanted = sorted(values, key=lambda row: (row[0], -row[3], -popularity[row[1]], row[1]))
    kept = [
        row
        for place, row in enumerate(wanted)
        if [other[0] for other in wanted[:place]].count(row[0]) < limit
    ]
    assert listed(found) == kept


ALIAS = st.tuples(
    st.sampled_from(["Paris", "PARIS", "Paris (Texas)", "Málaga", "malaga", "...", "é (x)", ""]),
    st.integers(1, 2),
    st.sampled_from(sorted(SOURCE_BITS)),
    st.integers(1, 9),
)


@given(st.lists(ALIAS, max_size=12))
def test_partial_rows_equal_a_loop(values) -> None:
    """Sources are united, only anchors count."""
    wanted: dict[tuple[str, int], list[int]] = {}
    for surface, qid, source, count in values:
        for key in index_keys(surface, source):
            found = wanted.setdefault((key, qid), [0, 0])
            found[0] |= SOURCE_BITS[source]
            found[1] += count if source == "anchor" else 0
    keys, rows = posting_rows(ALIASES.from_rows(values))
    texts = keys.to_pylist()
    assert {(texts[key], qid): [flags, count] for key, qid, flags, count in listed(rows)} == wanted
    assert len(rows.keys) == len(wanted)


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=6))
def test_runs(values: list[list[int]]) -> None:
    offsets, flat = runs_of(map(sorted, values))
    assert [flat[low:high].tolist() for low, high in zip(offsets, offsets[1:], strict=False)] == [
        sorted(part) for part in values
    ]
    owners = owners_of(offsets)
    assert owners.tolist() == [row for row, part in enumerate(values) for _ in part]
    assert owners[first_per_owner(owners, 2)].tolist() == [
        row for row, part in enumerate(values) for _ in part[:2]
    ]
    backwards = spread(offsets[:-1][::-1], np.diff(offsets)[::-1])
    assert flat[backwards].tolist() == [
        value for part in reversed(values) for value in sorted(part)
    ]
    assert offsets_of(np.diff(offsets)).tolist() == offsets.tolist()


TRIPLE = st.tuples(st.integers(1, 60), st.integers(1, 60))


@given(st.lists(TRIPLE, max_size=120), st.integers(1, 200))
def test_the_best_neighbours_do_not_depend_on_the_split(triples, cut: int) -> None:
    hub = [(7, other) for other in range(100, 100 + cut % 50)] + [
        (other, 7) for other in range(200, 200 + cut % 41)
    ]
    triples = triples + hub
    best: dict[int, dict[int, int]] = {}
    for subject, target in triples:
        if subject != target:
            best.setdefault(subject, {})[target] = 0
            best.setdefault(target, {}).setdefault(subject, 1)
    wanted = {
        one: [other for _, other in sorted((incoming, other) for other, incoming in found.items())][
            :MAX_NEIGHBOURS
        ]
        for one, found in best.items()
    }
    pairs = np.array(triples, np.uint32).reshape(-1, 2)
    parts = [
        best_neighbours(pairs_both_ways(part[:, 0], part[:, 1]))
        for part in (pairs[:cut], pairs[cut:])
    ]
    found = best_neighbours(
        NeighbourPairs(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in NeighbourPairs.__slots__
            )
        )
    )
    assert {
        one: found.neighbour[found.item == one].tolist() for one in np.unique(found.item).tolist()
    } == wanted
