"""Token id sequences as one flat array, and how they are cut into batches of equal length.

A batch holds sequences of one length only, so nothing is padded and nothing masked: what an encoder makes of a sequence does
then not depend on which others share its batch, to the last bit, which in bfloat16 no padded batch gives. It costs smaller
batches where few sequences have the same length; enough of them (some thousand) make that cost small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.arrays.runs import offsets_of, spread

COSINE_DECIMALS = 4  # batching changes the last bits: whoever selects by a cosine rounds it first

Span = tuple[Any, Any]  # ints, or arrays of them


@dataclass(frozen=True, slots=True)
class Sequences:
    """Sequence i is ids[offsets[i]:offsets[i + 1]]; no special tokens."""

    ids: np.ndarray  # integers (T,)
    offsets: np.ndarray  # int64 (N + 1,)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of(cls, sequences: Sequence[np.ndarray]) -> Sequences:
        """From one array of ids per sequence."""
        lengths = np.array([len(ids) for ids in sequences], np.int64)
        ids = np.concatenate([np.empty(0, np.int64), *sequences])
        return cls(ids, offsets_of(lengths))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64 (N,)."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Sequences:
        """Some of them, in the order asked for."""
        lengths = self.lengths[rows]
        return Sequences(self.ids[spread(self.offsets[rows], lengths)], offsets_of(lengths))

    def matrix(self, rows: np.ndarray) -> np.ndarray:
        """Ids of sequences of one length, (B, n)."""
        length = int(self.lengths[rows[0]])
        return self.ids[self.offsets[rows][:, None] + np.arange(length)]

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The first row of every different sequence, and for each row which of those is like it: int64 (D,), (N,)."""
        data, width = self.ids.tobytes(), self.ids.itemsize
        bounds = (self.offsets * width).tolist()
        seen: dict[bytes, int] = {}
        like = [
            seen.setdefault(data[low:high], len(seen))
            for low, high in zip(bounds, bounds[1:], strict=False)
        ]
        numbers = np.array(like, np.int64)
        return np.unique(numbers, return_index=True)[1], numbers

    def batches(self, budget: int, extra: int) -> Iterator[np.ndarray]:
        """Rows of one length each, the longest first; every row that is not empty is in one batch.

        Args:
            budget: tokens of a batch, at least one row each.
            extra: tokens that each sequence gets beside its own: the special ones.
        """
        lengths = self.lengths
        order = np.argsort(-lengths, kind="stable")
        order = order[: int(np.count_nonzero(lengths))]
        for rows in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
            if len(rows):
                fitting = max(budget // (int(lengths[rows[0]]) + extra), 1)
                yield from np.array_split(rows, -(-len(rows) // fitting))


def window(length: Any, span: Span, width: int) -> Span:  # noqa: ANN401 - as Span
    """At most `width` tokens of a sentence of `length`, with the span in the middle where the ends allow."""
    middle = (span[0] + span[1]) // 2
    start = np.clip(middle - width // 2, 0, np.maximum(length - width, 0))
    return start, np.minimum(start + width, length)


def cosines(originals: np.ndarray, variants: np.ndarray) -> np.ndarray:
    """Row-wise cosines of two (n, d) arrays, float64 (n,); 0 where a vector is zero.

    A zero vector is a sentence of which nothing is left: all its meaning is gone.
    """
    left, right = originals.astype(np.float64), variants.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products = np.sum(left * right, axis=1)
    return np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
