"""Run the trainer's loader on generated rows, a part of it more in each function; one epoch, one
core.

Tokens are those of the training split, special ones included, padding not: what a step would get.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from schemas.shards import POLICIES
from trelm_train.config import MaskingConfig
from trelm_train.data.loader import Batch, BatchStream, Packing, Position, windows_of
from trelm_train.data.masking import Vocabulary, mask_batch
from trelm_train.data.sentences import read_rows
from trelm_train.data.shards import RowGroup, Shards

Result = dict[str, Any]
VOCABULARY = Vocabulary(size=30_000, mask_id=4, pad_id=0, special_ids=(0, 1, 2, 3, 4))
SEEK_EPOCH = 3
SEEKS = 5


def shards_of(files: Sequence[str]) -> Shards:
    """Return generated files as a shards folder, without knowledge and tokenizer."""
    groups = []
    first_row = 0
    for path in files:
        metadata = pq.read_metadata(path)
        for index in range(metadata.num_row_groups):
            num_rows = metadata.row_group(index).num_rows
            groups.append(
                RowGroup(path=Path(path), index=index, num_rows=num_rows, first_row=first_row)
            )
            first_row += num_rows
    return Shards(
        path=Path(files[0]).parent, row_groups=tuple(groups), knowledge_files=(), tokenizer_path=Path(),
        tokenizer_sha256="", model="", fingerprint="", policies=POLICIES,
    )  # fmt: skip


def read(out: Path, files: list[str]) -> Result:  # noqa: ARG001 - all variants get one
    """Read the columns that the loader needs, as arrays; both splits."""
    return {
        "tokens": sum(len(read_rows([group]).ids.values) for group in shards_of(files).row_groups)
    }


def batches(out: Path, files: list[str], layout: str, batch_tokens: int) -> Result:  # noqa: ARG001
    """Make shuffled, packed batches."""
    return _epoch(files, layout, batch_tokens, lambda _: None)


def masks(out: Path, files: list[str], layout: str, batch_tokens: int) -> Result:  # noqa: ARG001
    """Make the batches and their masks."""
    config = MaskingConfig()
    return _epoch(
        files,
        layout,
        batch_tokens,
        lambda batch: mask_batch(batch, config, VOCABULARY, seed=0, epoch=0),
    )


def _epoch(
    files: list[str], layout: str, batch_tokens: int, use: Callable[[Batch], object]
) -> Result:
    packing = Packing(max_tokens=128, batch_tokens=batch_tokens, limit=512, layout=layout)
    shards = shards_of(files)
    start, cpu_start = time.perf_counter(), time.process_time()
    tokens = padded = num_batches = 0
    for batch in _of_epoch(BatchStream(shards, packing, seed=0, pad_id=0)):
        use(batch)
        tokens, padded, num_batches = (
            tokens + batch.num_tokens,
            padded + batch.num_padded,
            num_batches + 1,
        )
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {
        "seconds": seconds, "cpu_seconds": cpu_seconds, "tokens": tokens, "padding_efficiency": tokens / padded,
        "batches": num_batches, "seek_ms": _seek_ms(shards, packing),
    }  # fmt: skip


def _of_epoch(stream: BatchStream) -> Iterator[Batch]:
    for batch, _ in stream.iterate(Position()):
        if batch.position.epoch:
            return
        yield batch


def _seek_ms(shards: Shards, packing: Packing) -> list[float]:
    """Time the way from a fresh stream to a batch of the last window of a later epoch, several
    times.
    """
    found = []
    for seed in range(SEEKS):
        stream = BatchStream(shards, packing, seed=seed, pad_id=0)
        last = Position(
            epoch=SEEK_EPOCH,
            window=len(windows_of(shards.row_groups, packing.rows_per_window)) - 1,
            index=3,
        )
        start = time.perf_counter()
        batch, _ = next(stream.iterate(last))
        found.append(1000 * (time.perf_counter() - start))
        assert batch.position.epoch >= SEEK_EPOCH
    return found
