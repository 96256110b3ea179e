"""Read the rows of the same files in other ways: rows only, in file order or at random; no packing,
no masks, no batches.

All get the columns that our loader reads. Imports and the start of a library are not timed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

Result = dict[str, Any]
ARROW_ROWS = 8192
RANDOM_BATCH = 64
RANDOM_BATCHES = 300


def decode(out: Path, files: list[str], columns: list[str]) -> Result:  # noqa: ARG001 - all variants get one
    """Decode Parquet to Arrow and look at nothing: the limit."""
    rows = 0
    for path in files:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                rows += file.read_row_group(group, columns=columns, use_threads=False).num_rows
    return {"rows": rows}


def to_pylist(out: Path, files: list[str], columns: list[str]) -> Result:  # noqa: ARG001
    """Read by pyarrow, a dictionary of lists per row."""

    def read() -> int:
        tokens = 0
        for path in files:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    rows = file.read_row_group(
                        group, columns=columns, use_threads=False
                    ).to_pylist()
                    tokens += sum(len(row["input_ids"]) for row in rows)
        return tokens

    return _timed(read)


def hf_rows(out: Path, files: list[str], columns: list[str]) -> Result:
    """Stream by Hugging Face datasets, row by row: what a training script iterates over."""
    stream = _stream(out, files, columns)
    return _timed(lambda: sum(len(row["input_ids"]) for row in stream))


def hf_arrow(out: Path, files: list[str], columns: list[str]) -> Result:
    """Stream in tables of 8,192 rows."""
    stream = _stream(out, files, columns).with_format("arrow")

    def read() -> int:
        tables = stream.iter(batch_size=ARROW_ROWS)
        return sum(
            len(pa.chunked_array(table["input_ids"]).combine_chunks().flatten()) for table in tables
        )

    return _timed(read)


def hf_random(out: Path, files: list[str], columns: list[str]) -> Result:
    """Read rows at random, 64 at a time.

    The library does that (map-style) from memory-mapped files of its own, which are made before.
    """
    from datasets import load_dataset

    rows = load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(out)
    ).select_columns(columns)
    order = np.random.default_rng(0).permutation(len(rows))

    def read() -> int:
        starts = range(0, min(len(order), RANDOM_BATCHES * RANDOM_BATCH), RANDOM_BATCH)
        return sum(
            sum(map(len, rows[order[start : start + RANDOM_BATCH]]["input_ids"]))
            for start in starts
        )

    return _timed(read)


def _stream(out: Path, files: list[str], columns: list[str]) -> Any:  # noqa: ANN401
    from datasets import load_dataset

    stream = load_dataset(
        "parquet", data_files=files, split="train", streaming=True, cache_dir=str(out)
    )
    return stream.select_columns(columns)


def _timed(read: Callable[[], int]) -> Result:
    start, cpu_start = time.perf_counter(), time.process_time()
    tokens = read()
    return {
        "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start, "tokens": tokens,
    }  # fmt: skip
