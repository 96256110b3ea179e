"""Runs of values (CSR): row i owns values[offsets[i]:offsets[i + 1]]. Vectorised, no Python per row."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np

from schemas.array_types import Array


def spread(starts: Array, sizes: Array) -> Array:
    """Places of all values of some runs, run after run: starts[0], starts[0] + 1, …, starts[1], …"""
    total = int(sizes.sum())
    return np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(total)


def offsets_of(sizes: Array) -> Array:
    """Offsets of runs of these sizes, int64, one more than there are runs."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def runs_of(values: Iterable[Iterable[int]]) -> tuple[Array, Array]:
    """Offsets and values (uint32) of runs. Memory: 12 bytes per value, whatever the runs were."""
    flat, ends = array("I"), array("q", [0])
    for run in values:
        flat.extend(run)
        ends.append(len(flat))
    return np.array(ends, np.int64), np.array(flat, np.uint32)


def owners_of(offsets: Array) -> Array:
    """The row that owns each value."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def first_per_owner(owners: Array, limit: int) -> Array:
    """Which of these rows, sorted by owner, are among the first so many of their owner."""
    starts = (
        np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
        if len(owners)
        else owners
    )
    return np.arange(len(owners)) - np.repeat(starts, np.diff(starts, append=len(owners))) < limit


def first_come(starts: Array, ends: Array) -> Array:
    """Which half-open spans stay where they overlap: each that begins after all that stay before it. Bool (n,).

    Args:
        starts: ascending, shape (n,).
        ends: each after its start, shape (n,).
    """
    reach = np.maximum.accumulate(ends)
    apart = np.append(True, starts[1:] >= reach[:-1])[
        : len(starts)
    ]  # begins a group of spans that hang together
    stays = apart.copy()
    first = np.flatnonzero(apart)
    sizes = np.diff(first, append=len(starts))
    for group, size in zip(first[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        end = ends[group]
        for place in range(group + 1, group + size):
            if starts[place] >= end:
                stays[place], end = True, ends[place]
    return stays
