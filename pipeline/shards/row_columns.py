"""Lay rows of `examples` out as flat columns: tokens, words and spans, cut at the bounds of rows.

Goes in: tokens of all rows laid end to end, spans counted over all of them, and the bounds. Comes
out: an Arrow column per list column of `examples`.

Shapes: T tokens of all rows, W rows (windows), P spans. W1 stands for W + 1: the bounds of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from schemas import EXAMPLES
from schemas.array_types import F32, I64, U16, U32, Array, Bools, Ints
from schemas.table import list_of

KEY = "shuffle_key"
KEYED_SCHEMA = pa.schema([*EXAMPLES.schema, pa.field(KEY, pa.uint64(), nullable=False)])
# The opening one and the closing one of each row.
SPECIAL_TOKENS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSpans:
    """Hold linked mentions as half-open ranges of token numbers, counted over all sentences.

    They are in order, and no two share a token. All shapes (P,).
    """

    start: I64
    end: I64
    entity_row: I64
    frequency: I64
    cosine: F32
    confidence: F32
    policies: U16

    def take(self, selection: Bools | I64) -> TokenSpans:
        """Return some of the spans, by a mask or by numbers."""
        return TokenSpans(
            start=self.start[selection],
            end=self.end[selection],
            entity_row=self.entity_row[selection],
            frequency=self.frequency[selection],
            cosine=self.cosine[selection],
            confidence=self.confidence[selection],
            policies=self.policies[selection],
        )


def framed(ids_T: U32, bounds_W1: I64, frame: tuple[int, int]) -> pa.Array:
    """Return each window's ids between the opening and the closing special token."""
    offsets_W1 = bounds_W1 + SPECIAL_TOKENS * np.arange(len(bounds_W1))
    values = np.empty(int(offsets_W1[-1]), np.uint32)
    is_inner = np.ones(len(values), np.bool_)

    # The two special tokens take the ends of each row, the ids all other positions.
    opening, closing = frame
    for positions_W, token in ((offsets_W1[:-1], opening), (offsets_W1[1:] - 1, closing)):
        values[positions_W] = token
        is_inner[positions_W] = False
    values[is_inner] = ids_T
    return lists(offsets_W1, values, pa.uint32())


def word_starts(starts_word_T: Bools, bounds_W1: I64) -> pa.Array:
    """Return the positions in each row at which a word starts.

    A window that begins within a word begins one.
    """
    is_start_T = starts_word_T.copy()
    is_start_T[bounds_W1[:-1]] = True

    # Position 0 of a row is the opening special token: hence the 1.
    starts = np.flatnonzero(is_start_T)
    offsets_W1 = np.searchsorted(starts, bounds_W1)
    positions = starts - np.repeat(bounds_W1[:-1], np.diff(offsets_W1)) + 1
    return lists(offsets_W1, positions, pa.uint16())


def span_columns(spans: TokenSpans, bounds_W1: I64) -> dict[str, pa.Array]:
    """Return the columns of spans; their tokens are counted within the row."""
    offsets_W1 = np.searchsorted(spans.start, bounds_W1)
    # Position 0 of a row is the opening special token: hence the 1.
    shift_P = np.repeat(bounds_W1[:-1], np.diff(offsets_W1)) - 1
    return {
        "span_start": lists(offsets_W1, spans.start - shift_P, pa.uint16()),
        "span_end": lists(offsets_W1, spans.end - shift_P, pa.uint16()),
        "span_entity_row": lists(offsets_W1, spans.entity_row, pa.uint32()),
        "span_frequency": lists(offsets_W1, spans.frequency, pa.uint32()),
        "span_cosine": lists(offsets_W1, spans.cosine, pa.float32()),
        "span_policies": lists(offsets_W1, spans.policies, pa.uint16()),
    }


def lists(offsets: Ints, values: Array, kind: pa.DataType) -> pa.Array:
    """Return a column of lists: the list of row i is values[offsets[i]:offsets[i + 1]]."""
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(values, kind), type=list_of(kind)
    )
