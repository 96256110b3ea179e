"""Which sentences share a row, and which rows a batch: a pure function of their lengths and of random bits.

Layout `packed` fills rows of `max_tokens` with several sentences; a longer sentence has a row of its own. It is best-fit
packing, longest first, done on the histogram of lengths (how many sentences of each length there are) instead of on
the sentences: equal rows are filled together, so it takes a few hundred steps where there are thousands of sentences.
Layout `buckets` has one sentence per row. In both, rows of about the same width share a batch, of at most `batch_tokens`
with padding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from schemas.array_types import I64, U64
from trelm_train.data.arrays import expand, grouped, order_by_bits, remixed
from trelm_train.errors import ConfigError

# Legend: N sentences, R rows, B batches; Q and C are R + 1 and B + 1 borders.

PACKED, BUCKETS = "packed", "buckets"
LAYOUTS = (PACKED, BUCKETS)
WINDOW_ROWS = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How sentences become batches."""

    max_tokens: int
    batch_tokens: int
    limit: int  # of the model's positions
    layout: str = PACKED
    window_rows: int = (
        0  # sentences that are shuffled and packed together, at least; 0: enough for little padding
    )

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout is {self.layout!r}; wanted {' or '.join(LAYOUTS)}")
        for name, least in (("max_tokens", 1), ("batch_tokens", 1), ("window_rows", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; wanted {least} or more")

    @property
    def rows_per_window(self) -> int:
        """`window_rows`, or what it stands for: buckets of a large batch need many sentences to be of one length."""
        if self.window_rows:
            return self.window_rows
        return (
            max(WINDOW_ROWS, 3 * self.batch_tokens // 2) if self.layout == BUCKETS else WINDOW_ROWS
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingPlan:
    """Sentences in the order of their rows, and where rows and batches begin."""

    sentence_N: I64
    row_begin_Q: I64  # row r holds sentence_N[row_begin_Q[r] : row_begin_Q[r + 1]]
    batch_begin_C: I64  # batch b holds the rows batch_begin_C[b] to batch_begin_C[b + 1] - 1

    @property
    def num_batches(self) -> int:
        """How many batches."""
        return len(self.batch_begin_C) - 1

    def batches(self, low: int, high: int) -> PackingPlan:
        """Some consecutive batches."""
        rows = self.row_begin_Q[self.batch_begin_C[low] : self.batch_begin_C[high] + 1]
        return PackingPlan(
            sentence_N=self.sentence_N[rows[0] : rows[-1]],
            row_begin_Q=rows - rows[0],
            batch_begin_C=self.batch_begin_C[low : high + 1] - self.batch_begin_C[low],
        )

    def renumbered(self, row_N: I64) -> PackingPlan:
        """The same with other numbers of the sentences: `row_N[number]` instead of `number`."""
        return replace(self, sentence_N=row_N[self.sentence_N])

    def lists(self) -> list[list[list[int]]]:
        """Batches of rows of sentences."""
        borders = self.row_begin_Q.tolist()
        rows = [
            self.sentence_N[low:high].tolist()
            for low, high in zip(borders[:-1], borders[1:], strict=True)
        ]
        ends = self.batch_begin_C.tolist()
        return [rows[low:high] for low, high in zip(ends[:-1], ends[1:], strict=True)]


def make_packing_plan(lengths_N: I64, packing: Packing, bits_N: U64 | None = None) -> PackingPlan:
    """Every sentence once.

    Args:
        lengths_N: tokens of each sentence.
        packing: widths and layout.
        bits_N: random bits of each sentence, which decide on all that lengths leave open: who shares a row, the order
            of rows and of batches. None: the order in which they come, the widest batches first.
    """
    order_N = _longest_first(lengths_N, bits_N)
    num_single = len(order_N)
    if packing.layout == PACKED:
        num_single = int(np.count_nonzero(lengths_N > packing.max_tokens))
    single = _bucketed(order_N[:num_single], lengths_N, packing)
    packed = _packed(order_N[num_single:], lengths_N, packing, bits_N)
    plan = _joined(single, packed)
    if bits_N is None:
        return plan
    first_B = plan.sentence_N[plan.row_begin_Q[plan.batch_begin_C[:-1]]]
    return _in_order(plan, order_by_bits(remixed(bits_N[first_B], 2)))


def pack(lengths: I64, capacity: int) -> list[list[int]]:
    """Rows of at most `capacity` tokens; a sentence longer than that gets a row of its own."""
    packing = Packing(max_tokens=capacity, batch_tokens=capacity, limit=capacity)
    return [row for batch in plan_batches(lengths, packing) for row in batch]


def plan_batches(lengths: I64, packing: Packing) -> list[list[list[int]]]:
    """Batches of rows as lists of sentence numbers, unshuffled."""
    return make_packing_plan(lengths, packing).lists()


def fill_rows(counts: I64, capacity: int) -> tuple[I64, int]:
    """Best-fit packing of a histogram.

    Args:
        counts: how many sentences have 0, 1, … tokens; none more than the capacity.
        capacity: tokens per row.

    Returns:
        the row of each sentence, the longest sentences first; and the number of rows.
    """
    room_to_rows: list[list[tuple[int, int]]] = [
        [] for _ in range(capacity + 1)
    ]  # ranges: first row, how many
    with_rows = 0  # bit r: there are rows with room for r more tokens
    steps: list[tuple[int, int, int]] = []
    num_rows = 0
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            fitting = with_rows >> length
            if fitting:
                room = (
                    length + (fitting & -fitting).bit_length() - 1
                )  # the smallest that is large enough
                first, rows = room_to_rows[room].pop()
            else:
                room, first, rows = capacity, num_rows, left
            each = min(room // length, left) if length else left
            filled = min(rows, left // each)
            if not fitting:
                num_rows += filled
            elif filled < rows:
                room_to_rows[room].append((first + filled, rows - filled))
            elif not room_to_rows[room]:
                with_rows ^= 1 << room
            room_to_rows[room - each * length].append((first, filled))
            with_rows |= 1 << (room - each * length)
            steps.append((first, filled, each))
            left -= filled * each
    first_K, filled_K, each_K = np.asarray(steps, np.int64).reshape(-1, 3).T
    return np.repeat(expand(first_K, filled_K), np.repeat(each_K, filled_K)), num_rows


def _longest_first(lengths_N: I64, bits_N: U64 | None) -> I64:
    shortness_N = lengths_N.max(initial=0) - lengths_N
    if bits_N is None:
        return grouped(shortness_N)
    order_N = order_by_bits(bits_N)
    return order_N[grouped(shortness_N[order_N])]


def _packed(order_N: I64, lengths_N: I64, packing: Packing, bits_N: U64 | None) -> PackingPlan:
    """Full rows, shuffled, in batches of about equally many."""
    row_N, num_rows = fill_rows(np.bincount(lengths_N[order_N]), packing.max_tokens)
    sentence_N = order_N[grouped(row_N)]
    row_begin_Q = _borders(np.bincount(row_N, minlength=num_rows))
    per_batch = max(1, packing.batch_tokens // packing.max_tokens)
    num_batches = -(-num_rows // per_batch)
    plan = PackingPlan(
        sentence_N=sentence_N,
        row_begin_Q=row_begin_Q,
        batch_begin_C=np.arange(num_rows + 1, dtype=np.int64),
    )
    if bits_N is not None:
        plan = _in_order(plan, order_by_bits(remixed(bits_N[sentence_N[row_begin_Q[:-1]]], 1)))
    borders = np.arange(num_batches + 1, dtype=np.int64) * num_rows // max(1, num_batches)
    return PackingPlan(
        sentence_N=plan.sentence_N, row_begin_Q=plan.row_begin_Q, batch_begin_C=borders
    )


def _bucketed(order_N: I64, lengths_N: I64, packing: Packing) -> PackingPlan:
    """Rows of one sentence, longest first, as many to a batch as its first row's width lets in."""
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
    return PackingPlan(
        sentence_N=np.concatenate([left.sentence_N, right.sentence_N]),
        row_begin_Q=np.concatenate(
            [left.row_begin_Q, right.row_begin_Q[1:] + left.row_begin_Q[-1]]
        ),
        batch_begin_C=np.concatenate(
            [left.batch_begin_C, right.batch_begin_C[1:] + left.batch_begin_C[-1]]
        ),
    )


def _in_order(plan: PackingPlan, order_B: I64) -> PackingPlan:
    """The same batches in another order."""
    rows_B = np.diff(plan.batch_begin_C)[order_B]
    row_R = expand(plan.batch_begin_C[order_B], rows_B)
    sentences_R = np.diff(plan.row_begin_Q)[row_R]
    return PackingPlan(
        sentence_N=plan.sentence_N[expand(plan.row_begin_Q[row_R], sentences_R)],
        row_begin_Q=_borders(sentences_R),
        batch_begin_C=_borders(rows_B),
    )


def _borders(sizes: I64) -> I64:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
