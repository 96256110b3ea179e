"""Find the facts among the entities of a window. Pure.

Every ordered pair of entities is looked up in the knowledge base.
Goes in: the windows and knowledge rows of all spans. Comes out: span of the head, relation, span of
the tail. Costs one binary search per pair; memory for `MAX_PAIRS` pairs at a time (a window of
8,192 tokens may have millions).

Shapes: P spans, E distinct entities of a window (over all windows), F facts of the knowledge base,
N facts in windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.arrays.runs import spread
from schemas.array_types import I64, U32, U64, Ints

MAX_PAIRS = 1 << 21
_HIGH = np.uint64(32)


@dataclass(frozen=True, kw_only=True, slots=True)
class FactIndex:
    """Hold the facts between linked entities, sorted by head, tail and relation."""

    # Shape (F,): head row << 32 | tail row.
    pairs: U64
    # Shape (F,): row of the relation.
    relations: U32
    # The item of each knowledge row: it orders the facts of a head.
    qids: U32


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowFacts:
    """Hold the facts of all windows, ascending by head. Shapes (N,).

    Spans are counted over all windows.
    """

    head: I64
    relation: U32
    tail: I64


def pair_keys(heads: Ints, tails: Ints) -> U64:
    """Return pairs of rows as one number each, same shape."""
    return (heads.astype(np.uint64) << _HIGH) | tails.astype(np.uint64)


def facts_between(windows_P: Ints, rows_P: Ints, index: FactIndex) -> WindowFacts:
    """Return the facts whose both ends are in one window; an entity's first mention stands for it.

    The facts of one head are in the order of relation, then QID of the tail.

    Args:
        windows_P: the window of each span, ascending.
        rows_P: the knowledge row of each span's entity.
        index: all facts.
    """
    # The first span of each entity in each window, in the order of the spans.
    _, spans_E = np.unique(pair_keys(windows_P, rows_P), return_index=True)
    spans_E.sort()

    batches = [
        _look_up(spans_E[heads], spans_E[tails], rows_P, index)
        for heads, tails in _pairs(windows_P[spans_E])
    ]
    head_N, relation_N, tail_N = (
        np.concatenate([batch[column] for batch in batches]) for column in range(3)
    )

    order = np.lexsort((index.qids[rows_P[tail_N]], relation_N, head_N))
    return WindowFacts(head=head_N[order], relation=relation_N[order], tail=tail_N[order])


def _pairs(windows_E: Ints) -> Iterator[tuple[I64, I64]]:
    """Yield all ordered pairs of different indices with the same window, about MAX_PAIRS at a time.

    There is at least one batch, which may be empty.
    """
    starts_E = np.searchsorted(windows_E, windows_E, side="left")
    sizes_E = np.searchsorted(windows_E, windows_E, side="right") - starts_E

    # An index has as many pairs as its window has members: batches are ranges of the running total.
    batch_E = np.cumsum(sizes_E) // MAX_PAIRS
    num_batches = int(batch_E[-1]) + 1 if len(batch_E) else 1
    for number in range(num_batches):
        members = np.flatnonzero(batch_E == number)
        tails = spread(starts_E[members], sizes_E[members])
        heads = np.repeat(members, sizes_E[members])
        yield heads[heads != tails], tails[heads != tails]


def _look_up(heads: I64, tails: I64, rows_P: Ints, index: FactIndex) -> tuple[I64, U32, I64]:
    """Return head span, relation and tail span of every fact between pairs of spans."""
    keys = pair_keys(rows_P[heads], rows_P[tails])
    low = np.searchsorted(index.pairs, keys, side="left")
    sizes = np.searchsorted(index.pairs, keys, side="right") - low

    # A pair has as many facts as relations; most pairs have none.
    return np.repeat(heads, sizes), index.relations[spread(low, sizes)], np.repeat(tails, sizes)
