"""Two arrays read as one: as if they had been concatenated."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.arrays.joined import JoinedArray


@given(st.integers(0, 5), st.integers(0, 5), st.data())
def test_as_if_concatenated(num_first: int, num_second: int, data: st.DataObject) -> None:
    first = np.arange(num_first, dtype=np.uint32)
    second = np.arange(100, 100 + num_second, dtype=np.uint32)
    joined, whole = JoinedArray(first, second), np.concatenate([first, second])
    assert len(joined) == len(whole)

    bounds = st.one_of(st.none(), st.integers(0, len(whole) + 2))
    part = slice(data.draw(bounds), data.draw(bounds))
    assert joined[part].tolist() == whole[part].tolist()

    rows = data.draw(st.lists(st.integers(0, len(whole) - 1))) if len(whole) else []
    chosen = joined[np.array(rows, np.int64)]
    assert chosen.tolist() == whole[np.array(rows, np.int64)].tolist()
    assert chosen.dtype == np.uint32
