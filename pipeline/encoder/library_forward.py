"""Run an encoder by the library's own forward pass (transformers). Imports torch, lazily.

A batch holds sequences of one length: nothing is padded, nothing masked.

In bfloat16 the matrix products, and the values between two of them, are bfloat16; the residual
stream, its layer norms and the mean stay float32.

Legend: B sequences of a batch, n their length, d the width of the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.encoder.sequences import Sequences
from pipeline.encoder.tokenizer import NUM_SPECIAL
from schemas.array_types import F32, I64

# How a vector is made of the states: of all tokens, of the first one, or of all but special ones.
Pooling = Literal["mean", "cls", "words"]


@dataclass(frozen=True)
class LibraryForward:
    """Run a model as transformers does. Threads may share it."""

    model: Any
    # Ids of the opening and the closing special token.
    frame: tuple[int, int]
    device: str
    # Whether products are bfloat16.
    is_half: bool
    pooling: Pooling

    def batches(self, sequences: Sequences, budget: int) -> Iterator[I64]:
        """Yield rows of `sequences` of one length each, about `budget` tokens of them."""
        return sequences.batches(budget, NUM_SPECIAL)

    def means(self, sequences: Sequences, batch: I64, budget: int) -> F32:  # noqa: ARG002
        """Return the vector of each sequence of a batch from the last layer's states, shape (B, d).

        Batch and budget as in `batches`.
        """
        import torch

        ids_Bn = sequences.matrix(batch)
        framed = np.empty((len(ids_Bn), ids_Bn.shape[1] + NUM_SPECIAL), np.int64)
        framed[:, 0], framed[:, -1] = self.frame
        framed[:, 1:-1] = ids_Bn

        # Both contexts hold for this thread only, so each thread enters them.
        with torch.inference_mode(), self.number_format():
            states = self.model(
                input_ids=torch.from_numpy(framed).to(self.device)
            ).last_hidden_state
            match self.pooling:
                case "cls":
                    vectors = states[:, 0]
                case "mean":
                    vectors = states.float().mean(1)
                case "words":
                    vectors = states[:, 1:-1].float().mean(1)
            return np.asarray(vectors.float().cpu().numpy())

    def number_format(self) -> contextlib.AbstractContextManager[object]:
        """Return the context in which products have the wanted format."""
        import torch

        if not self.is_half:
            return contextlib.nullcontext()
        return torch.autocast(self.device, torch.bfloat16)
