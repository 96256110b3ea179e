"""Keep the knowledge-augmented memory bank: two notes per entity.

The idea is that of TRELM (Yan et al. 2024), after Taking Notes on the Fly (Wu et al. 2021). The
local note is the mean of the last hidden states around a mention,
`M_local <- (1 - gamma) M_local + gamma window mean`. The global note is the mean of the mention's
own states over all occurrences. A reader gets `M = beta M_global + (1 - beta) M_local`.

A step reads before it writes. All d occurrences of an entity in a step, over its micro-batches and
ranks, are averaged first, then `old (1 - gamma)^d + mean (1 - (1 - gamma)^d)`: the weight of d
updates. Occurrences are put in one order before they are added, so that neither their order nor
their split changes a bit. Until a second sentence has written, a row keeps its source sentence,
which reads it as unseen. Notes are stored as float16 (`bank_store`) and computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.array_types import I64, Bools
from schemas.errors import ConfigError
from trelm_train.config import MemoryConfig
from trelm_train.data.arrays import expand
from trelm_train.data.loader import Batch
from trelm_train.memory.bank_store import make_store

# Legend: B rows of the bank, U distinct rows of a step, O occurrences of a step, T flat tokens or
# written rows, H hidden size; a 2 beside H stands for the local and the global note.

# A source is a sentence key + 1, so that memory full of zeros is an empty bank.
NEVER = 0
# The source of a row that more than one sentence has written.
MANY = -1
CPU = torch.device("cpu")
# Rows that `load` copies at once.
PIECE = 65_536


@dataclass(frozen=True, kw_only=True, slots=True)
class Notes:
    """Hold what a step, or a share of one, writes: one entry per occurrence of an entity.

    Row 0 is written by sentences 7 and 8, with hidden size 1. Its local note becomes
    .9 * 1 + .1 * 3 = 1.2 (to the last bit of a float16), its global note (2 + 6) / 2 = 4:

    >>> bank, zero = MemoryBank(1, 1, MemoryConfig(decay=0.1, global_share=0.5)), np.asarray([0])
    >>> for sentence, around, inside in ((7, 1.0, 2.0), (8, 3.0, 6.0)):
    ...     name = dict(row_O=zero, sentence_O=zero + sentence, epoch_O=zero, start_O=zero + 4)
    ...     bank.write(Notes(**name, value_O2H=torch.tensor([[[around], [inside]]])))
    >>> bank.store.gather(zero).tolist(), round(bank.read(zero).item(), 3)
    ([[[1.2001953125], [4.0]]], 2.6)

    Row, sentence key, epoch and first token name an occurrence: no two of a step have all four
    alike. The epoch is needed because a step at the border of two epochs may hold a sentence twice.
    """

    row_O: I64
    # Sentence keys.
    sentence_O: I64
    epoch_O: I64
    # First token of the mention, counted within the sentence.
    start_O: I64
    # float32.
    value_O2H: Tensor

    def to_tensors(self) -> tuple[Tensor, Tensor]:
        """Return names as O x 4 int64 and values as O x 2 x H float32: what ranks exchange."""
        names = np.stack([self.row_O, self.sentence_O, self.epoch_O, self.start_O], axis=1)
        return torch.from_numpy(names), self.value_O2H

    @staticmethod
    def from_tensors(names_O4: Tensor, value_O2H: Tensor) -> Notes:
        """Build notes from what `to_tensors` returned."""
        row, sentence, epoch, start = np.ascontiguousarray(names_O4.cpu().numpy().T)
        return Notes(
            row_O=row, sentence_O=sentence, epoch_O=epoch, start_O=start, value_O2H=value_O2H
        )


class NoteRows(Protocol):
    """Give rows of T x 2 x H notes by slice: a tensor, or a slice of a file."""

    def __getitem__(self, rows: slice) -> Tensor: ...


def join_notes(pieces: Sequence[Notes]) -> Notes:
    """Join the notes of a step's micro-batches or ranks, in any order.

    There is at least one piece; it may be empty.
    """
    tensors = [piece.to_tensors() for piece in pieces]
    names = torch.cat([names for names, _ in tensors])
    return Notes.from_tensors(names, torch.cat([values for _, values in tensors]))


class MemoryBank:
    """Keep notes, counts and sources of every row.

    Args:
        num_rows: Rows; they exist for entities that may be injected.
        hidden_size: H.
        config: Weights, and where the notes lie.
        folder: Where the file goes if there is one; not needed for small banks.
        device: Where the notes go with storage `device`.

    Raises:
        ConfigError: the folder cannot be written, or does not support sparse files.
        TrelmError: not enough memory or disk.
    """

    def __init__(
        self,
        num_rows: int,
        hidden_size: int,
        config: MemoryConfig,
        *,
        folder: Path | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.config, self.num_rows, self.hidden_size = config, num_rows, hidden_size
        self.store = make_store(config, num_rows, hidden_size, folder=folder, device=device)
        self._forget()

    def _forget(self) -> None:
        self.count_B: I64 = np.zeros(self.num_rows, np.int64)
        self.source_B: I64 = np.zeros(self.num_rows, np.int64)

    def __len__(self) -> int:
        return self.num_rows

    def readable(self, row_O: I64, sentence_O: I64) -> Bools:
        """Say where a sentence may read a row: it is written, and not by this sentence alone."""
        if not self.num_rows:
            return np.zeros(len(row_O), np.bool_)

        source_O = self.source_B[np.maximum(row_O, 0)]
        # The source of a row is one sentence until a second one writes: that sentence alone must
        # not read its own note, or the note would give the answer away.
        is_readable: Bools = (row_O >= 0) & (source_O != NEVER) & (source_O != sentence_O + 1)
        return is_readable

    def read(self, row_O: I64) -> Tensor:
        """Return M(e) = beta M_global + (1 - beta) M_local, O x H float32, where the notes lie."""
        note_O2H = self.store.gather(row_O).float()
        return torch.lerp(note_O2H[:, 0], note_O2H[:, 1], self.config.global_share)

    def write(self, notes: Notes) -> None:
        """Update the bank by all occurrences of a step at once.

        Raises:
            TrelmError: the disk is full.
        """
        if not len(notes.row_O):
            return

        # One order for any split of the step, so that sums are the same to the last bit.
        order = np.lexsort((notes.start_O, notes.epoch_O, notes.sentence_O, notes.row_O))
        row_U, first_U, times_U = np.unique(
            notes.row_O[order], return_index=True, return_counts=True
        )
        mean_U2H = _group_means(notes.value_O2H, order, first_U)

        # Weight of the mean against the old note: d updates at once for the local note, a running
        # mean for the global one. A new row takes the mean as it is.
        old_count_U = self.count_B[row_U]
        local_U = 1 - (1 - self.config.decay) ** times_U.astype(np.float64)
        weight_U2 = np.stack(
            [np.where(old_count_U > 0, local_U, 1.0), times_U / (old_count_U + times_U)], axis=1
        )
        weight_U21 = torch.from_numpy(weight_U2.astype(np.float32))[:, :, None].to(mean_U2H.device)

        is_written_U = old_count_U > 0
        if is_written_U.any():
            # A new row has weight 1, so that the past of any other row will do for it: on some
            # filesystems reading a hole takes room.
            past_U = np.where(is_written_U, row_U, row_U[is_written_U.argmax()])
            past_U2H = self.store.gather(past_U).to(mean_U2H.device).float()
            mean_U2H = torch.lerp(past_U2H, mean_U2H, weight_U21)

        self.store.put(row_U, mean_U2H.half())
        self.count_B[row_U] = old_count_U + times_U
        self._set_sources(row_U, notes.sentence_O[order], first_U, times_U)

    def _set_sources(self, row_U: I64, sentence_O: I64, first_U: I64, times_U: I64) -> None:
        """Remember the one sentence that wrote a row, or that there were several."""
        # Sentences are sorted within a row, so its ends say whether there is only one.
        lowest, highest = sentence_O[first_U] + 1, sentence_O[first_U + times_U - 1] + 1
        old = self.source_B[row_U]
        is_single = (lowest == highest) & ((old == NEVER) | (old == lowest))
        self.source_B[row_U] = np.where(is_single, lowest, MANY)

    def state(self) -> dict[str, Tensor]:
        """Copy the rows that were written.

        Returns:
            by name: row numbers (T), note (T x 2 x H float16), count and source (T).
        """
        # A count above 0 marks a row that was written.
        row_T = np.flatnonzero(self.count_B)
        return {
            "row": torch.from_numpy(row_T),
            "note": self.store.gather(row_T).cpu(),
            "count": torch.from_numpy(self.count_B[row_T]),
            "source": torch.from_numpy(self.source_B[row_T]),
        }

    def load(self, tensors: dict[str, Tensor], notes: NoteRows | None = None) -> None:
        """Replace everything that was written here by a saved bank.

        Args:
            tensors: What `state` returned.
            notes: Its notes where they are not among the tensors: read piece by piece.

        Raises:
            ConfigError: the saved bank is of another size, or a note in it is not finite.
            TrelmError: the disk is full.
        """
        row_T = tensors["row"].cpu().numpy()
        all_notes = tensors["note"] if notes is None else notes
        # An empty slice shows the hidden size without reading anything.
        hidden_size = int(all_notes[:0].shape[-1])
        largest_row = int(row_T.max(initial=-1))
        if hidden_size != self.hidden_size or largest_row >= self.num_rows:
            raise ConfigError(
                f"memory bank of hidden size {hidden_size} with rows up to {largest_row}, "
                f"but this model and these shards need size {self.hidden_size} and fewer than "
                f"{self.num_rows} rows; give a checkpoint of this model and these shards"
            )

        self._forget()
        self.store.clear()
        for start in range(0, len(row_T), PIECE):
            note_n2H = all_notes[start : start + PIECE]
            if not bool(note_n2H.isfinite().all()):
                raise ConfigError(
                    f"memory bank: a note of rows {start} to {start + len(note_n2H) - 1} holds NaN "
                    "or infinite numbers; give an earlier checkpoint"
                )
            self.store.put(row_T[start : start + PIECE], note_n2H)
        self.count_B[row_T] = tensors["count"].cpu().numpy()
        self.source_B[row_T] = tensors["source"].cpu().numpy()


def _group_means(value_O2H: Tensor, order_O: I64, first_U: I64) -> Tensor:
    """Average each run of `order_O` that starts at `first_U`, added in that order, as U x 2 x H."""
    flat_OX = value_O2H.flatten(1)
    order, offsets = (
        torch.from_numpy(numbers).to(flat_OX.device) for numbers in (order_O, first_U)
    )
    mean_UX = F.embedding_bag(order, flat_OX, offsets, mode="mean")
    return mean_UX.view(len(first_U), *value_O2H.shape[1:])


def range_means(states_TH: Tensor, start_O: I64, end_O: I64) -> Tensor:
    """Average the states in each half-open flat range, as O x H; no range is empty."""
    lengths = end_O - start_O
    offsets = torch.from_numpy(np.cumsum(lengths) - lengths)
    flat = torch.from_numpy(expand(start_O, lengths))

    device = states_TH.device
    return F.embedding_bag(flat.to(device), states_TH, offsets.to(device), mode="mean")


def note_window(batch: Batch, span_O: I64, width: int) -> tuple[I64, I64]:
    """Return [l - k, r + k) of each mention, cut to the non-special tokens of its sentence."""
    sentence = batch.span_sentence_P[span_O]
    start: I64 = np.maximum(batch.span_start_P[span_O] - width, batch.start_N[sentence] + 1)
    end: I64 = np.minimum(batch.span_end_P[span_O] + width, batch.end_N[sentence] - 1)
    return start, end


@torch.no_grad()
def take_notes(batch: Batch, hidden_RSH: Tensor, bank_row_P: I64, width: int) -> Notes:
    """Take notes of every mention that has a row, from the states of the forward pass.

    The values stay on the device of the states. `bank_row_P` is -1 for a mention without a row.
    """
    span_O = np.flatnonzero(bank_row_P >= 0)
    states_TH = hidden_RSH.detach().reshape(-1, hidden_RSH.shape[-1]).float()

    # All windows, then all mentions, in one call: 2 O ranges.
    start, end = note_window(batch, span_O, width)
    span_start, span_end = batch.span_start_P[span_O], batch.span_end_P[span_O]
    value_XH = range_means(
        states_TH, np.concatenate([start, span_start]), np.concatenate([end, span_end])
    )

    sentence = batch.span_sentence_P[span_O]
    return Notes(
        row_O=bank_row_P[span_O],
        sentence_O=batch.key_N[sentence],
        epoch_O=np.full(len(span_O), batch.position.epoch, np.int64),
        start_O=span_start - batch.start_N[sentence],
        value_O2H=value_XH.view(2, len(span_O), value_XH.shape[1]).transpose(0, 1).contiguous(),
    )
