"""The knowledge-augmented memory bank: two notes per entity (TRELM, Yan et al. 2024, after Taking Notes on the Fly).

Local note: mean of the last hidden states around a mention, `M_local <- (1 - gamma) M_local + gamma window mean`.
Global note: mean of the mention's own states over all occurrences. `M = beta M_global + (1 - beta) M_local`.

A step reads before it writes. All d occurrences of an entity in a step are averaged first, then `old (1 - gamma)^d +
mean (1 - (1 - gamma)^d)`: the weight of d updates, in any order. Until a second sentence has written, a row keeps its
source sentence, which reads it as unseen. Stored as float16 in main memory (4 H bytes per row), computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trelm_train.arrays import I64, Bools, expand
from trelm_train.config import MemoryConfig
from trelm_train.errors import ConfigError
from trelm_train.loader import Batch

# Legend: B rows of the bank, U distinct rows of a step, O occurrences of a step, H hidden size.

MANY = -2  # more than one sentence has written
NEVER = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Notes:
    """What one step writes: one entry per occurrence."""

    row_O: I64
    sentence_O: I64  # keys
    local_OH: Tensor
    global_OH: Tensor


class MemoryBank:
    """Notes, counts and sources of every row."""

    def __init__(self, num_rows: int, hidden_size: int, config: MemoryConfig) -> None:
        self.config = config
        self.local_BH = torch.zeros(num_rows, hidden_size, dtype=torch.float16)
        self.global_BH = torch.zeros(num_rows, hidden_size, dtype=torch.float16)
        self.count_B = torch.zeros(num_rows, dtype=torch.int64)
        self.source_B = torch.full((num_rows,), NEVER, dtype=torch.int64)

    def seen(self, row_O: I64, sentence_O: I64) -> Bools:
        """Where a sentence may read a row: written, and not by this sentence alone."""
        rows = np.maximum(row_O, 0)
        source = self.source_B.numpy()[rows] if len(self.source_B) else np.full(len(rows), NEVER)
        readable: Bools = (row_O >= 0) & (source != NEVER) & (source != sentence_O)
        return readable

    def read(self, row_O: I64) -> Tensor:
        """M(e) = beta M_global + (1 - beta) M_local, in float32."""
        rows = torch.from_numpy(row_O)
        beta = self.config.global_share
        return beta * self.global_BH[rows].float() + (1 - beta) * self.local_BH[rows].float()

    def write(self, notes: Notes) -> None:
        """One step's update; the result does not depend on the order of the occurrences."""
        if not len(notes.row_O):
            return
        order = np.lexsort((notes.sentence_O, notes.row_O))
        rows, first, times = np.unique(notes.row_O[order], return_index=True, return_counts=True)
        index_U = torch.from_numpy(rows)
        times_U = torch.from_numpy(times)
        group_O = torch.from_numpy(np.repeat(np.arange(len(rows)), times))
        shuffled = torch.from_numpy(order)
        local_UH = _means(notes.local_OH.float()[shuffled], group_O, times_U)
        global_UH = _means(notes.global_OH.float()[shuffled], group_O, times_U)
        old_count_U = self.count_B[index_U]
        kept_U1 = torch.where(old_count_U > 0, (1 - self.config.decay) ** times_U.float(), 0.0)[:, None]
        share_U1 = (times_U / (old_count_U + times_U)).float()[:, None]
        old_local_UH, old_global_UH = self.local_BH[index_U].float(), self.global_BH[index_U].float()
        self.local_BH[index_U] = (old_local_UH * kept_U1 + local_UH * (1 - kept_U1)).half()
        self.global_BH[index_U] = (old_global_UH + (global_UH - old_global_UH) * share_U1).half()
        self.count_B[index_U] = old_count_U + times_U
        self._set_sources(rows, notes.sentence_O[order], first, times)

    def _set_sources(self, rows_U: I64, sentence_O: I64, first_U: I64, times_U: I64) -> None:
        lowest, highest = sentence_O[first_U], sentence_O[first_U + times_U - 1]  # sorted within a row
        old = self.source_B.numpy()[rows_U]
        single = (lowest == highest) & ((old == NEVER) | (old == lowest))
        self.source_B[torch.from_numpy(rows_U)] = torch.from_numpy(np.where(single, lowest, MANY))

    def state(self) -> dict[str, Tensor]:
        """All tensors, by name."""
        return {"local": self.local_BH, "global": self.global_BH, "count": self.count_B, "source": self.source_B}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up a saved bank.

        Raises:
            ConfigError: it has another size.
        """
        if tensors["local"].shape != self.local_BH.shape:
            raise ConfigError(
                f"memory bank of shape {tuple(tensors['local'].shape)}, wanted {tuple(self.local_BH.shape)}"
            )
        self.local_BH, self.global_BH = tensors["local"].clone(), tensors["global"].clone()
        self.count_B, self.source_B = tensors["count"].clone(), tensors["source"].clone()


def _means(values_OH: Tensor, group_O: Tensor, times_U: Tensor) -> Tensor:
    sums_UH = torch.zeros(len(times_U), values_OH.shape[1]).index_add_(0, group_O, values_OH)
    return sums_UH / times_U[:, None]


def range_means(states_TH: Tensor, start_O: I64, end_O: I64) -> Tensor:
    """Mean of the states in each half-open flat range, as O x H; no range is empty."""
    lengths = end_O - start_O
    offsets = torch.from_numpy(np.cumsum(lengths) - lengths)
    flat = torch.from_numpy(expand(start_O, lengths))
    return F.embedding_bag(flat.to(states_TH.device), states_TH, offsets.to(states_TH.device), mode="mean")


def window(batch: Batch, span_O: I64, width: int) -> tuple[I64, I64]:
    """[l - k, r + k) of each mention, cut to the non-special tokens of its own sentence."""
    sentence = batch.span_sentence_P[span_O]
    start: I64 = np.maximum(batch.span_start_P[span_O] - width, batch.start_N[sentence] + 1)
    end: I64 = np.minimum(batch.span_end_P[span_O] + width, batch.end_N[sentence] - 1)
    return start, end


def take_notes(batch: Batch, hidden_RSH: Tensor, bank_row_P: I64, width: int) -> Notes:
    """Notes of every mention that has a row, from the states of the forward already done."""
    span_O = np.flatnonzero(bank_row_P >= 0)
    states_TH = hidden_RSH.detach().reshape(-1, hidden_RSH.shape[-1]).float().cpu()
    start, end = window(batch, span_O, width)
    return Notes(
        row_O=bank_row_P[span_O],
        sentence_O=batch.key_N[batch.span_sentence_P[span_O]],
        local_OH=range_means(states_TH, start, end),
        global_OH=range_means(states_TH, batch.span_start_P[span_O], batch.span_end_P[span_O]),
    )
