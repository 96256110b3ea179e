"""What one phase leaves for the next: one Arrow file per unit, with one record batch per bucket.

A unit of the next phase reads its own batch of every file, so files grow with the units, not with units x buckets.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipeline.engine import files
from pipeline.engine.stage import SPILL
from schemas.array_types import Array


def spill_folder(data: str) -> str:
    """Where the files lie, in a stage's data folder."""
    return files.join(data, SPILL)


def write_spill(
    data: str, kind: str, unit: int, rows: pa.Table, buckets: Array, num_buckets: int
) -> None:
    """Write a unit's rows, each to its bucket (0 to num_buckets - 1), in their order. Memory: a copy of the rows."""
    order = np.argsort(
        buckets.astype(np.uint16 if num_buckets < 1 << 16 else np.int64), kind="stable"
    )
    bounds = np.searchsorted(buckets[order], np.arange(num_buckets + 1))
    write_runs(data, kind, unit, rows.take(pa.array(order)), bounds)


def write_runs(data: str, kind: str, unit: int, rows: pa.Table, bounds: Array) -> None:
    """Write a unit's rows that stand in the order of their buckets; bucket i is rows bounds[i] to bounds[i + 1]."""
    rows = rows.combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(
        sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:
        for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            batches = rows.slice(low, high - low).to_batches()
            writer.write_batch(batches[0] if batches else _empty(rows.schema))
    files.write_bytes(
        files.join(spill_folder(data), f"{kind}-{unit:05d}.arrow"), bytes(sink.getvalue())
    )


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def read_spill(data: str, kind: str, bucket: int) -> Iterator[pa.Table]:
    """The rows of one bucket, a table per unit, in the order of the units."""
    for metadata in files.list_files(files.join(spill_folder(data), f"{kind}-*.arrow")):
        with (
            files.open_read(metadata.path) as source,
            pa.ipc.open_file(pa.PythonFile(source, mode="r")) as reader,
        ):
            yield pa.Table.from_batches([reader.get_batch(bucket)])


def concat_spill(data: str, kind: str, bucket: int, schema: pa.Schema) -> pa.Table:
    """The rows of one bucket as one table."""
    return pa.concat_tables(
        [schema.empty_table(), *read_spill(data, kind, bucket)]
    ).combine_chunks()
