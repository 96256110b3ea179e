"""Hold token id sequences as one flat array, and cut them into batches of equal length.

A batch holds sequences of one length only, so nothing is padded and nothing masked. What an encoder
returns for a sequence then does not depend on which other sequences share its batch, to the last
bit; in bfloat16 no padded batch gives this. The price is smaller batches where few sequences have
the same length; with some thousand sequences this price is small.

Legend: N sequences, D distinct sequences, T tokens of all sequences, B sequences of a batch, n
their length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from pipeline.arrays.runs import offsets_of, spread
from schemas.array_types import F64, I64, Array, Floats, Ints

# Batching changes the last bits of a cosine, so code that selects by a cosine rounds it first.
COSINE_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Sequences:
    """Hold many sequences of token ids without special tokens.

    Sequence i is ids[offsets[i]:offsets[i + 1]].
    """

    # Shape (T,).
    ids: Ints
    # Shape (N + 1,).
    offsets: I64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of(cls, sequences: Sequence[Ints]) -> Sequences:
        """Return the sequences given as one array of ids each."""
        lengths = np.array([len(ids) for ids in sequences], np.int64)
        # The empty array gives the dtype where there are no sequences.
        ids = np.concatenate([np.empty(0, np.int64), *sequences])
        return cls(ids, offsets_of(lengths))

    @property
    def lengths(self) -> I64:
        """Return the number of tokens of each sequence, shape (N,)."""
        return np.diff(self.offsets)

    def take(self, rows: I64) -> Sequences:
        """Return some of the sequences, in the order of `rows`."""
        lengths = self.lengths[rows]
        return Sequences(self.ids[spread(self.offsets[rows], lengths)], offsets_of(lengths))

    def matrix(self, rows: I64) -> Ints:
        """Return the ids of sequences of one length, shape (B, n)."""
        length = int(self.lengths[rows[0]])
        return self.ids[self.offsets[rows][:, None] + np.arange(length)]

    def distinct(self) -> tuple[I64, I64]:
        """Find equal sequences.

        Returns:
            The row of the first of every different sequence, shape (D,); and for each sequence
            which of those D is equal to it, shape (N,).
        """
        # A sequence's bytes are its key: hashing them is cheaper than sorting sequences.
        data, width = self.ids.tobytes(), self.ids.itemsize
        byte_bounds = (self.offsets * width).tolist()

        number_of_bytes: dict[bytes, int] = {}
        numbers = np.array(
            [
                number_of_bytes.setdefault(data[low:high], len(number_of_bytes))
                for low, high in zip(byte_bounds, byte_bounds[1:], strict=False)
            ],
            np.int64,
        )
        return np.unique(numbers, return_index=True)[1], numbers

    def longest_first(self) -> I64:
        """Return the rows that are not empty, the longest first."""
        lengths = self.lengths
        order = np.argsort(-lengths, kind="stable")
        # Empty rows are at the end of the order.
        return order[: int(np.count_nonzero(lengths))]

    def batches(self, budget: int, extra: int) -> Iterator[I64]:
        """Yield rows of one length each, the longest first; every row that is not empty once.

        Args:
            budget: tokens of a batch, but at least one row goes into each.
            extra: tokens that each sequence gets in addition: the special ones.
        """
        lengths, order = self.lengths, self.longest_first()
        length_changes = np.flatnonzero(np.diff(lengths[order])) + 1
        for rows in np.split(order, length_changes):
            if len(rows):
                rows_per_batch = max(budget // (int(lengths[rows[0]]) + extra), 1)
                num_batches = -(-len(rows) // rows_per_batch)
                # Batches of nearly equal size, so that the last one is not a small remainder.
                yield from np.array_split(rows, num_batches)


@overload
def window(length: int, span: tuple[int, int], width: int) -> tuple[int, int]: ...
@overload
def window(length: I64, span: tuple[I64, I64], width: int) -> tuple[I64, I64]: ...
def window(length: int | I64, span: tuple[Any, Any], width: int) -> tuple[Any, Any]:
    """Return the first token and one past the last of a part of a sentence around a span.

    The span is in the middle where the ends of the sentence allow it.

    Args:
        length: tokens of the sentence: an int, or an array with one value per sentence.
        span: first token and one past the last, as `length`.
        width: tokens of the part, at most.
    """
    middle = (span[0] + span[1]) // 2
    start = np.clip(middle - width // 2, 0, np.maximum(length - width, 0))
    return start, np.minimum(start + width, length)


def cosines(originals: Floats, variants: Floats) -> F64:
    """Return the row-wise cosines of two (n, d) arrays, shape (n,); 0 where a vector is zero.

    A zero vector is a sentence of which no token is left: all its meaning is gone.

    Raises:
        ValueError: a vector is not finite; it would pass for one without meaning.
    """
    left, right = originals.astype(np.float64), variants.astype(np.float64)
    norms: Array = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    if not np.isfinite(norms).all():
        raise ValueError("vectors hold NaN or infinite numbers")
    products = np.sum(left * right, axis=1)
    return np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
