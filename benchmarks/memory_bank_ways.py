"""Ways to keep a bank of notes, each run in a process of its own: ours, a plain tensor, and a loop
over mentions.

A run makes a bank, then takes steps: gather the notes of the step's mentions, update them; some
rows turn up again and again, as entities do. Then a checkpoint is written and taken up. Times are
processor time, medians over the steps.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trelm_train.config import MemoryConfig
from trelm_train.memory.memory_bank import MemoryBank, Notes

# Legend: B rows of the bank, O mentions of a step, H hidden size; the 2 are the local and the
# global note.

Result = dict[str, Any]
DECAY = 0.1
REPEATED = 0.5  # share of the mentions whose rows come from the thousand most frequent


def steps(num_rows: int, hidden_size: int, mentions: int, count: int) -> Iterator[Notes]:
    """What each step writes."""
    rng = np.random.default_rng(0)
    values = torch.randn(mentions, 2, hidden_size, generator=torch.Generator().manual_seed(0))
    often = rng.integers(0, num_rows, min(1000, num_rows))
    for _ in range(count):
        rows = np.where(
            rng.random(mentions) < REPEATED,
            rng.choice(often, mentions),
            rng.integers(0, num_rows, mentions),
        )
        names = np.stack(
            [rows, rng.integers(0, 10**6, mentions), 0 * rows, rng.integers(0, 30, mentions)],
            axis=1,
        )
        yield Notes.from_tensors(torch.from_numpy(names), values)


def timed(call: Any) -> float:  # noqa: ANN401
    """Processor seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def _result(gather: list[float], update: list[float], **more: Any) -> Result:  # noqa: ANN401
    """Return medians over the steps after the first quarter; `seconds` are processor time too."""
    warm = len(gather) // 4
    step_s = statistics.median(
        gather_s + update_s for gather_s, update_s in zip(gather[warm:], update[warm:], strict=True)
    )
    return {
        "gather_ms": 1000 * statistics.median(gather[warm:]),
        "update_ms": 1000 * statistics.median(update[warm:]),
        "seconds": step_s,
        "cpu_seconds": step_s,
        **more,
    }


def ours(
    out: Path, storage: str, num_rows: int, hidden_size: int, mentions: int, count: int
) -> Result:
    """`MemoryBank` in main memory or in a sparse file."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    bank = MemoryBank(num_rows, hidden_size, MemoryConfig(storage=storage), folder=out)
    create_s = time.perf_counter() - start
    gather, update = [], []
    for notes in steps(num_rows, hidden_size, mentions, count):

        def read(notes: Notes = notes) -> None:
            bank.readable(notes.row_O, notes.sentence_O)
            bank.read(notes.row_O)

        gather.append(timed(read))
        update.append(timed(lambda notes=notes: bank.write(notes)))
    start = time.perf_counter()
    save_file(bank.state(), out / "bank.safetensors")
    save_s = time.perf_counter() - start
    start = time.perf_counter()
    bank.load(load_file(out / "bank.safetensors"))
    return _result(
        gather, update, create_s=create_s, save_s=save_s, load_s=time.perf_counter() - start,
        disk_mb=bank.store.disk_bytes / 1e6, checkpoint_mb=(out / "bank.safetensors").stat().st_size / 1e6,
        rows=int((bank.count_B > 0).sum()),
    )  # fmt: skip


class Plain:
    """Two tensors, a count and a source, all allocated."""

    def __init__(self, num_rows: int, hidden_size: int) -> None:
        self.note_B2H = torch.zeros(num_rows, 2, hidden_size, dtype=torch.float16)
        self.count_B = torch.zeros(num_rows, dtype=torch.int64)

    def read(self, rows: Tensor) -> Tensor:
        """Both notes, mixed."""
        note = self.note_B2H[rows].float()
        return 0.5 * note[:, 0] + 0.5 * note[:, 1]

    def write(self, notes: Notes) -> None:
        """Sums by `index_add_`, one write per row."""
        rows, inverse, times = torch.from_numpy(notes.row_O).unique(
            return_inverse=True, return_counts=True
        )
        mean = torch.zeros(len(rows), *notes.value_O2H.shape[1:]).index_add_(
            0, inverse, notes.value_O2H
        )
        mean /= times[:, None, None]
        old_count = self.count_B[rows]
        local = torch.where(old_count > 0, 1 - (1 - DECAY) ** times.float(), 1.0)
        weight = torch.stack([local, times / (old_count + times)], dim=1)[:, :, None]
        self.note_B2H.index_copy_(
            0, rows, torch.lerp(self.note_B2H[rows].float(), mean, weight).half()
        )
        self.count_B[rows] = old_count + times

    def write_one_by_one(self, notes: Notes) -> None:
        """The update as it is written in the paper: mention by mention."""
        for row, value in zip(notes.row_O.tolist(), notes.value_O2H, strict=True):
            count = int(self.count_B[row])
            weight = torch.tensor([DECAY if count else 1.0, 1 / (count + 1)])[:, None]
            self.note_B2H[row] = torch.lerp(self.note_B2H[row].float(), value, weight).half()
            self.count_B[row] += 1


def zeros(out: Path, num_rows: int, hidden_size: int, mentions: int, count: int) -> Result:
    """`torch.zeros` for all rows, all of it saved."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    bank = Plain(num_rows, hidden_size)
    create_s = time.perf_counter() - start
    gather, update = [], []
    for notes in steps(num_rows, hidden_size, mentions, count):
        gather.append(timed(lambda notes=notes: bank.read(torch.from_numpy(notes.row_O))))
        update.append(timed(lambda notes=notes: bank.write(notes)))
    start = time.perf_counter()
    save_file({"note": bank.note_B2H, "count": bank.count_B}, out / "bank.safetensors")
    return _result(
        gather, update, create_s=create_s, save_s=time.perf_counter() - start,
        checkpoint_mb=(out / "bank.safetensors").stat().st_size / 1e6,
    )  # fmt: skip


def loop(out: Path, num_rows: int, hidden_size: int, mentions: int, count: int) -> Result:  # noqa: ARG001
    """One read and one write per mention, on a bank of at most a million rows."""
    torch.set_num_threads(1)
    bank = Plain(min(num_rows, 1_000_000), hidden_size)
    gather, update = [], []
    for notes in steps(len(bank.count_B), hidden_size, mentions, count):
        rows = notes.row_O.tolist()
        gather.append(timed(lambda rows=rows: [bank.read(torch.tensor([row])) for row in rows]))
        update.append(timed(lambda notes=notes: bank.write_one_by_one(notes)))
    return _result(gather, update)


def free_memory_bytes() -> int:
    """What a tensor of all rows may take."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
