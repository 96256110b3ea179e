"""Read `examples` row group by row group: ours, and other ways to the same arrays.

One thread each; nothing is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import EXAMPLES
from trelm_train.data.shards import RowGroup, read_lists

Result = dict[str, Any]
LISTS = [column.name for column in EXAMPLES.columns if pa.types.is_list(column.type)]
IDS = ["input_ids"]


def groups_of(files: Sequence[str]) -> list[RowGroup]:
    """Return the row groups, in order."""
    groups = []
    for path in files:
        metadata = pq.read_metadata(path)
        for index in range(metadata.num_row_groups):
            num_rows = metadata.row_group(index).num_rows
            groups.append(RowGroup(path=Path(path), index=index, num_rows=num_rows, first_row=0))
    return groups


def ours(out: Path, files: list[str], columns: list[str]) -> Result:  # noqa: ARG001 - all variants get one
    """Read by `trelm_train.data.shards.read_lists`: views."""
    return {
        "tokens": sum(
            len(lists["input_ids"].values) for lists in read_lists(groups_of(files), columns)
        )
    }


def loader(out: Path, files: list[str]) -> Result:  # noqa: ARG001
    """Read what the trainer does: the columns it needs, as views, a row group at a time."""
    from trelm_train.data.sentences import read_rows

    return {"tokens": sum(len(read_rows([group]).ids.values) for group in groups_of(files))}


def arrow(out: Path, files: list[str], columns: list[str]) -> Result:  # noqa: ARG001
    """Decode Parquet to Arrow and look at nothing: the limit."""
    rows = 0
    for path in files:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                rows += file.read_row_group(group, columns=columns, use_threads=False).num_rows
    return {"rows": rows}


def to_pylist(out: Path, files: list[str], columns: list[str]) -> Result:  # noqa: ARG001
    """Read rows as Python lists."""
    tokens = 0
    for path in files:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=columns, use_threads=False).to_pylist()
                tokens += sum(len(row["input_ids"]) for row in rows)
    return {"tokens": tokens}


def duckdb(out: Path, files: list[str], columns: list[str]) -> Result:  # noqa: ARG001
    """Read by DuckDB, take Arrow out of it, and flat arrays of that."""
    import duckdb as db

    connection = db.connect()
    connection.execute("SET threads = 1")
    query = f"SELECT {', '.join(columns)} FROM read_parquet($files)"
    tokens = 0
    for batch in connection.sql(query, params={"files": files}).to_arrow_reader(8192):
        arrays = [column.flatten().to_numpy(zero_copy_only=False) for column in batch.columns]
        tokens += len(arrays[batch.schema.names.index("input_ids")])
    return {"tokens": tokens}


def datasets(out: Path, files: list[str], columns: list[str]) -> Result:
    """Stream by Hugging Face datasets, numpy out of it."""
    from datasets import load_dataset

    stream = load_dataset(
        "parquet", data_files=files, split="train", streaming=True, cache_dir=str(out)
    )
    tokens = 0
    for row in stream.select_columns(columns).with_format("numpy"):
        tokens += len(row["input_ids"])
    return {"tokens": tokens}
