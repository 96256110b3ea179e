"""Work with runs of values (CSR): row i has the values[offsets[i]:offsets[i + 1]].

All vectorised: no Python code runs per row, except in `first_of_overlapping` where spans overlap.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np

from schemas.array_types import I64, U32, Array, Bools


def spread(starts: Array, sizes: Array) -> I64:
    """Return the positions of all values of some runs, run after run.

    So starts[0], starts[0] + 1, …, then starts[1], … Indexing the values with the result copies
    these runs, in this order.

    Args:
        starts: position of the first value of each run, shape (n,).
        sizes: number of values of each run, shape (n,).
    """
    total = int(sizes.sum())
    # Within run i the position grows in step with the count of values written so far; what has to
    # be added to this count is constant per run.
    values_before = np.cumsum(sizes) - sizes
    positions: I64 = np.repeat(starts - values_before, sizes) + np.arange(total)
    return positions


def offsets_of(sizes: Array) -> I64:
    """Return the offsets of runs of these sizes: one more than there are runs."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def runs_of(values: Iterable[Iterable[int]]) -> tuple[I64, U32]:
    """Return the offsets and the values of runs given as Python collections.

    Memory: 12 bytes per value, since each collection is copied as it is read.
    """
    flat, ends = array("I"), array("q", [0])
    for run in values:
        flat.extend(run)
        ends.append(len(flat))
    return np.array(ends, np.int64), np.array(flat, np.uint32)


def owners_of(offsets: Array) -> I64:
    """Return, for each value, the row of its run."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def first_per_owner(owners: Array, limit: int) -> Bools:
    """Say of each row whether it is among the first `limit` rows of its owner.

    Args:
        owners: the owner of each row, ascending, shape (n,).
        limit: how many rows of each owner to accept.
    """
    # Row at which each owner begins, shape (owners,).
    starts = (
        np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
        if len(owners)
        else owners
    )

    # A row's number less the row at which its owner begins: its rank within the owner, from 0.
    sizes = np.diff(starts, append=len(owners))
    accepted: Bools = np.arange(len(owners)) - np.repeat(starts, sizes) < limit
    return accepted


def first_of_overlapping(starts: Array, ends: Array) -> Bools:
    """Say of each half-open span whether it stays when overlaps are resolved from left to right.

    A span stays if it begins where, or after, the last span that stays ends.

    Args:
        starts: ascending, shape (n,).
        ends: each after its start, shape (n,).
    """
    # True where a span begins a group: it touches no span before it, so it stays.
    reach = np.maximum.accumulate(ends)
    opens_group = np.append(True, starts[1:] >= reach[:-1])[: len(starts)]
    stays = opens_group.copy()

    # Only groups of several spans need a loop, and they are rare.
    group_starts = np.flatnonzero(opens_group)
    sizes = np.diff(group_starts, append=len(starts))
    is_several = sizes > 1
    for group, size in zip(
        group_starts[is_several].tolist(), sizes[is_several].tolist(), strict=True
    ):
        end = ends[group]
        for row in range(group + 1, group + size):
            if starts[row] >= end:
                stays[row], end = True, ends[row]
    return stays
