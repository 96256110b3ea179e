"""Decide which sentences share a row, and which rows share a batch.

The answer is a pure function of the lengths of the sentences and of random bits.

Layout `packed` fills rows of `max_tokens` with several sentences; a longer sentence has a row to
itself. It is best-fit packing, longest sentence first, done on the histogram of lengths (how many
sentences of each length there are) instead of on the sentences: equal rows are filled together, so
it takes a few hundred steps where there are thousands of sentences. Layout `buckets` has one
sentence per row. In both, rows of about the same width share a batch, of at most `batch_tokens`
with padding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from schemas.array_types import I64, U64
from schemas.errors import ConfigError
from trelm_train.data.arrays import expand, grouped, order_by_bits, remixed

# Legend: N sentences, R rows, B batches; Q and C are R + 1 and B + 1 borders, K filling steps.

PACKED, BUCKETS = "packed", "buckets"
LAYOUTS = (PACKED, BUCKETS)
WINDOW_ROWS = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """Say how sentences become batches.

    Raises:
        ConfigError: an unknown layout, or a size out of range.
    """

    max_tokens: int
    batch_tokens: int
    # Positions that the model has.
    limit: int
    layout: str = PACKED
    # Sentences that are shuffled and packed together, at least; 0: enough for little padding.
    window_rows: int = 0

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout is {self.layout!r}; wanted {' or '.join(LAYOUTS)}")
        for name, least in (("max_tokens", 1), ("batch_tokens", 1), ("window_rows", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; wanted {least} or more")

    @property
    def rows_per_window(self) -> int:
        """Return `window_rows`, or what its 0 stands for.

        Buckets of a large batch need many sentences to be of one length.
        """
        if self.window_rows:
            return self.window_rows
        if self.layout == BUCKETS:
            return max(WINDOW_ROWS, 3 * self.batch_tokens // 2)
        return WINDOW_ROWS


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingPlan:
    """Hold sentences in the order of their rows, and where rows and batches begin.

    Row r holds `sentence_N[row_begin_Q[r] : row_begin_Q[r + 1]]`. Batch b holds the rows
    `batch_begin_C[b]` to `batch_begin_C[b + 1] - 1`.
    """

    sentence_N: I64
    row_begin_Q: I64
    batch_begin_C: I64

    @property
    def num_batches(self) -> int:
        """Return the number of batches."""
        return len(self.batch_begin_C) - 1

    def batches(self, low: int, high: int) -> PackingPlan:
        """Return the plan of batches `low` to `high - 1` alone."""
        # One border more than rows: the last one ends the last row.
        row_begin = self.row_begin_Q[self.batch_begin_C[low] : self.batch_begin_C[high] + 1]
        return PackingPlan(
            sentence_N=self.sentence_N[row_begin[0] : row_begin[-1]],
            row_begin_Q=row_begin - row_begin[0],
            batch_begin_C=self.batch_begin_C[low : high + 1] - self.batch_begin_C[low],
        )

    def renumbered(self, row_N: I64) -> PackingPlan:
        """Return the same plan with `row_N[number]` instead of each sentence `number`."""
        return replace(self, sentence_N=row_N[self.sentence_N])

    def lists(self) -> list[list[list[int]]]:
        """Return batches of rows of sentence numbers, as plain lists."""
        borders = self.row_begin_Q.tolist()
        rows = [
            self.sentence_N[low:high].tolist()
            for low, high in zip(borders[:-1], borders[1:], strict=True)
        ]

        borders = self.batch_begin_C.tolist()
        return [rows[low:high] for low, high in zip(borders[:-1], borders[1:], strict=True)]


def make_packing_plan(lengths_N: I64, packing: Packing, bits_N: U64 | None = None) -> PackingPlan:
    """Put every sentence into a row and every row into a batch, once each.

    Args:
        lengths_N: tokens of each sentence.
        packing: widths and layout.
        bits_N: random bits of each sentence. They decide what the lengths leave open: which
            sentences share a row, the order of rows and the order of batches. None: sentences keep
            their order, and the widest batches come before narrower ones.
    """
    # Sentences that are too long for packing come first in this order, so a count separates them.
    order_N = _longest_first(lengths_N, bits_N)
    num_single = len(order_N)
    if packing.layout == PACKED:
        num_single = int(np.count_nonzero(lengths_N > packing.max_tokens))

    single = _bucketed(order_N[:num_single], lengths_N, packing)
    packed = _packed(order_N[num_single:], lengths_N, packing, bits_N)
    plan = _joined(single, packed)
    if bits_N is None:
        return plan

    # The first sentence of a batch lends it random bits: batches are shuffled by these.
    leader_B = plan.sentence_N[plan.row_begin_Q[plan.batch_begin_C[:-1]]]
    return _in_order(plan, order_by_bits(remixed(bits_N[leader_B], 2)))


def pack(lengths: I64, capacity: int) -> list[list[int]]:
    """Return rows of at most `capacity` tokens; a longer sentence gets a row to itself."""
    packing = Packing(max_tokens=capacity, batch_tokens=capacity, limit=capacity)
    return [row for batch in plan_batches(lengths, packing) for row in batch]


def plan_batches(lengths: I64, packing: Packing) -> list[list[list[int]]]:
    """Return batches of rows as lists of sentence numbers, unshuffled."""
    return make_packing_plan(lengths, packing).lists()


def fill_rows(counts: I64, capacity: int) -> tuple[I64, int]:
    """Pack a histogram of lengths by best fit.

    Args:
        counts: how many sentences have 0, 1, … tokens; none has more than the capacity.
        capacity: tokens per row.

    Returns:
        the row of each sentence, the longest sentences first; and the number of rows.
    """
    # Under each room (tokens still free): ranges of equal rows, as (first row, how many).
    room_to_rows: list[list[tuple[int, int]]] = [[] for _ in range(capacity + 1)]
    # Bit r is set where there are rows with room for r more tokens.
    rooms = 0
    # What was done: (first row, rows filled, sentences put into each).
    steps: list[tuple[int, int, int]] = []
    num_rows = 0

    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            fitting = rooms >> length
            if fitting:
                # Best fit: the lowest bit set is the smallest room that is large enough.
                room = length + (fitting & -fitting).bit_length() - 1
                first_row, available = room_to_rows[room].pop()
            else:
                room, first_row, available = capacity, num_rows, left

            # A row takes as many sentences of this length as its room allows; sentences of length 0
            # all go into one row.
            each = min(room // length, left) if length else left
            # A whole number of equal rows is filled at once. What is left over is less than `each`
            # per row and goes into the next step.
            filled = min(available, left // each)

            # Rows of the range that were not needed go back to it.
            if not fitting:
                num_rows += filled
            elif filled < available:
                room_to_rows[room].append((first_row + filled, available - filled))
            elif not room_to_rows[room]:
                rooms ^= 1 << room

            room_to_rows[room - each * length].append((first_row, filled))
            rooms |= 1 << (room - each * length)
            steps.append((first_row, filled, each))
            left -= filled * each

    first_row_K, filled_K, each_K = np.asarray(steps, np.int64).reshape(-1, 3).T
    # Steps are in order of falling length, so these are rows of sentences longest first.
    row_of_step = expand(first_row_K, filled_K)
    return np.repeat(row_of_step, np.repeat(each_K, filled_K)), num_rows


def _longest_first(lengths_N: I64, bits_N: U64 | None) -> I64:
    """Sort sentences by falling length; those of one length by their random bits."""
    # `grouped` sorts upwards, and numbers must not be negative.
    shortness_N = lengths_N.max(initial=0) - lengths_N
    if bits_N is None:
        return grouped(shortness_N)

    # The sort by length is stable, so the random order stays within each length.
    order_N = order_by_bits(bits_N)
    return order_N[grouped(shortness_N[order_N])]


def _packed(order_N: I64, lengths_N: I64, packing: Packing, bits_N: U64 | None) -> PackingPlan:
    """Fill rows, shuffle them, and cut them into batches of about equally many."""
    row_N, num_rows = fill_rows(np.bincount(lengths_N[order_N]), packing.max_tokens)
    sentence_N = order_N[grouped(row_N)]
    row_begin_Q = _borders(np.bincount(row_N, minlength=num_rows))

    # Each row is a batch for a moment, so that rows can be put in another order.
    plan = PackingPlan(
        sentence_N=sentence_N,
        row_begin_Q=row_begin_Q,
        batch_begin_C=np.arange(num_rows + 1, dtype=np.int64),
    )
    if bits_N is not None:
        leader_R = sentence_N[row_begin_Q[:-1]]
        plan = _in_order(plan, order_by_bits(remixed(bits_N[leader_R], 1)))

    per_batch = max(1, packing.batch_tokens // packing.max_tokens)
    num_batches = -(-num_rows // per_batch)
    # Spread evenly: the last batch would be nearly empty otherwise.
    borders = np.arange(num_batches + 1, dtype=np.int64) * num_rows // max(1, num_batches)
    return replace(plan, batch_begin_C=borders)


def _bucketed(order_N: I64, lengths_N: I64, packing: Packing) -> PackingPlan:
    """Give each sentence a row, longest first, and fill batches up to `batch_tokens`.

    The first row of a batch is its widest, so it decides how many rows the batch takes.
    """
    length_N = lengths_N[order_N]
    borders = [0]
    while borders[-1] < len(order_N):
        per_batch = max(1, packing.batch_tokens // max(1, int(length_N[borders[-1]])))
        borders.append(min(len(order_N), borders[-1] + per_batch))

    return PackingPlan(
        sentence_N=order_N,
        row_begin_Q=np.arange(len(order_N) + 1, dtype=np.int64),
        batch_begin_C=np.asarray(borders, np.int64),
    )


def _joined(left: PackingPlan, right: PackingPlan) -> PackingPlan:
    """Return one plan with the batches of both."""
    row_begin_Q = [left.row_begin_Q, right.row_begin_Q[1:] + left.row_begin_Q[-1]]
    batch_begin_C = [left.batch_begin_C, right.batch_begin_C[1:] + left.batch_begin_C[-1]]
    return PackingPlan(
        sentence_N=np.concatenate([left.sentence_N, right.sentence_N]),
        row_begin_Q=np.concatenate(row_begin_Q),
        batch_begin_C=np.concatenate(batch_begin_C),
    )


def _in_order(plan: PackingPlan, order_B: I64) -> PackingPlan:
    """Return the same batches in another order."""
    rows_B = np.diff(plan.batch_begin_C)[order_B]
    # Old numbers of the rows in the new order, then the sentences of these rows.
    row_R = expand(plan.batch_begin_C[order_B], rows_B)
    sentences_R = np.diff(plan.row_begin_Q)[row_R]

    return PackingPlan(
        sentence_N=plan.sentence_N[expand(plan.row_begin_Q[row_R], sentences_R)],
        row_begin_Q=_borders(sentences_R),
        batch_begin_C=_borders(rows_B),
    )


def _borders(sizes: I64) -> I64:
    """Return 0 and the running sums: where consecutive groups of these sizes begin and end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
