"""Sequences in flat arrays: batches hold each row once and stay within their budget, equal rows are
found.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.encoder.sequences import Sequences

ROWS = st.lists(st.lists(st.integers(0, 3), max_size=7), max_size=40)


def made(rows: list[list[int]]) -> Sequences:
    return Sequences.of([np.array(row, np.int64) for row in rows])


def listed(sequences: Sequences) -> list[list[int]]:
    bounds = zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)
    return [sequences.ids[low:high].tolist() for low, high in bounds]


@given(ROWS, st.integers(1, 40), st.integers(0, 3))
def test_batches_hold_every_row_once_within_the_budget(
    rows: list[list[int]], budget: int, extra: int
) -> None:
    sequences = made(rows)
    batches = [batch.tolist() for batch in sequences.batches(budget, extra)]
    assert sorted(row for batch in batches for row in batch) == [
        number for number, row in enumerate(rows) if row
    ]
    lengths = [[len(rows[number]) for number in batch] for batch in batches]
    for found in lengths:
        assert len(set(found)) == 1
        assert len(found) == 1 or len(found) * (found[0] + extra) <= budget
    firsts = [found[0] for found in lengths]
    assert firsts == sorted(firsts, reverse=True)
    for length in set(firsts):  # no more batches than needed, and none much smaller than the others
        sizes = [len(found) for found in lengths if found[0] == length]
        assert len(sizes) == -(-sum(sizes) // max(budget // (length + extra), 1))
        assert max(sizes) - min(sizes) <= 1


@given(ROWS)
def test_equal_rows_are_found(rows: list[list[int]]) -> None:
    sequences = made(rows)
    first, like = sequences.distinct()
    assert listed(sequences) == rows
    assert listed(sequences.take(first[like])) == rows
    assert len(first) == len({tuple(row) for row in rows})
    assert first.tolist() == [rows.index(rows[number]) for number in first]


@given(ROWS, st.data())
def test_rows_in_any_order(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5)) if rows else []
    sequences = made(rows)
    taken = sequences.take(np.array(chosen, np.int64))
    assert listed(taken) == [rows[number] for number in chosen]
    assert len(taken) == len(chosen)
    for batch in sequences.batches(8, 0):
        assert sequences.matrix(batch).tolist() == [rows[number] for number in batch]
