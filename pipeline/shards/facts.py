"""Facts among the entities of a window: every ordered pair is looked up in the sorted pairs of the knowledge base. Pure.

Goes in: the windows and knowledge rows of all spans. Comes out: span of the head, relation, span of the tail. Costs one binary
search per pair; memory for `MAX_PAIRS` pairs at a time (a window of 8,192 tokens may have millions).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.arrays.runs import spread
from schemas.array_types import Array

MAX_PAIRS = 1 << 21
_HIGH = np.uint64(32)


@dataclass(frozen=True, kw_only=True, slots=True)
class FactIndex:
    """Facts between linked entities, sorted by head and tail; relations of a pair ascend."""

    pairs: Array  # uint64 (facts,): head row << 32 | tail row
    relations: Array  # uint32 (facts,): row
    qids: Array  # uint32: item of each knowledge row, which orders the facts of a head


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Facts of all windows; spans are counted over all windows, ascending by head."""

    head: Array  # int64 (n,)
    relation: Array  # uint32 (n,)
    tail: Array  # int64 (n,)


def pair_keys(heads: Array, tails: Array) -> Array:
    """Pairs of rows as one number each."""
    return (heads.astype(np.uint64) << _HIGH) | tails.astype(np.uint64)


def facts_between(windows: Array, rows: Array, index: FactIndex) -> Facts:
    """Facts whose both ends are in one window; an entity's first mention stands for it.

    Of one head they are in the order of relation, then QID of the tail.

    Args:
        windows: of each span, ascending, shape (spans,).
        rows: knowledge row of each span's entity, shape (spans,).
        index: all facts.
    """
    _, first = np.unique(pair_keys(windows, rows), return_index=True)
    first.sort()
    found = [
        _look_up(first[heads], first[tails], rows, index) for heads, tails in _pairs(windows[first])
    ]
    head, relation, tail = (np.concatenate([part[column] for part in found]) for column in range(3))
    order = np.lexsort((index.qids[rows[tail]], relation, head))
    return Facts(head=head[order], relation=relation[order], tail=tail[order])


def _pairs(windows: Array) -> Iterator[tuple[Array, Array]]:
    """All ordered pairs of different places in one window, so many at a time (at least one pass)."""
    starts = np.searchsorted(windows, windows, side="left")
    sizes = np.searchsorted(windows, windows, side="right") - starts
    passes = np.cumsum(sizes) // MAX_PAIRS
    for number in range(int(passes[-1]) + 1 if len(passes) else 1):
        heads = np.flatnonzero(passes == number)
        tails = spread(starts[heads], sizes[heads])
        heads = np.repeat(heads, sizes[heads])
        yield heads[heads != tails], tails[heads != tails]


def _look_up(
    heads: Array, tails: Array, rows: Array, index: FactIndex
) -> tuple[Array, Array, Array]:
    keys = pair_keys(rows[heads], rows[tails])
    low = np.searchsorted(index.pairs, keys, side="left")
    sizes = np.searchsorted(index.pairs, keys, side="right") - low
    return np.repeat(heads, sizes), index.relations[spread(low, sizes)], np.repeat(tails, sizes)
