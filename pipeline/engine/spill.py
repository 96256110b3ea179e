"""Leave rows for the next phase: one Arrow file per unit, with one record batch per bucket.

A unit of the next phase reads its own batch of every file. So the number of files follows the
number of units, not of units × buckets, and no row crosses the runner's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from pipeline.engine import files
from pipeline.engine.stage_folders import SPILL
from schemas.array_types import Ints

# Files of a bucket that are read side by side.
PARALLEL_READS = 16


def spill_folder(data: str) -> str:
    """Return where the files lie, in a stage's data folder."""
    return files.join(data, SPILL)


def write_spill(
    data: str, kind: str, unit: int, rows: pa.Table, buckets: Ints, num_buckets: int
) -> None:
    """Write a unit's rows, each to its bucket, in their order. Memory: a copy of the rows.

    Args:
        data: the stage's data folder.
        kind: names the rows; a unit may leave several kinds.
        unit: number of the unit.
        rows: the rows, (n,).
        buckets: 0 to num_buckets - 1 for each row, shape (n,).
        num_buckets: of every unit of this kind.
    """
    # NumPy sorts 16-bit integers by radix, several times as fast as 64-bit ones.
    sort_type = np.uint16 if num_buckets < 1 << 16 else np.int64
    order = np.argsort(buckets.astype(sort_type), kind="stable")

    # Rows of bucket i now stand at bounds[i] to bounds[i + 1].
    bounds = np.searchsorted(buckets[order], np.arange(num_buckets + 1))
    write_runs(data, kind, unit, rows.take(pa.array(order)), bounds)


def write_runs(data: str, kind: str, unit: int, rows: pa.Table, bounds: Ints) -> None:
    """Write a unit's rows that stand in the order of their buckets.

    Args:
        data: the stage's data folder.
        kind: names the rows.
        unit: number of the unit.
        rows: the rows, bucket after bucket.
        bounds: bucket i is rows bounds[i] to bounds[i + 1]; shape (buckets + 1,).
    """
    rows = rows.combine_chunks()
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, rows.schema, options=options) as writer:
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            # An empty slice has no batch at all, but a reader finds a bucket by its batch's number.
            batches = rows.slice(start, end - start).to_batches()
            writer.write_batch(batches[0] if batches else _empty_batch(rows.schema))

    path = files.join(spill_folder(data), f"{kind}-{unit:05d}.arrow")
    files.write_bytes(path, bytes(sink.getvalue()))


def _empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def read_spill(data: str, kind: str, bucket: int) -> Iterator[pa.Table]:
    """Yield the rows of one bucket, a table per unit, in the order of the units."""

    def read(path: str) -> pa.Table:
        with (
            files.open_read(path) as source,
            pa.ipc.open_file(pa.PythonFile(source, mode="r")) as reader,
        ):
            return pa.Table.from_batches([reader.get_batch(bucket)])

    folder = spill_folder(data)
    paths = [entry.path for entry in files.list_files(files.join(folder, f"{kind}-*.arrow"))]
    if files.is_local(folder):
        yield from map(read, paths)
        return
    # Each file is a few requests, and nearly all of their time is waiting.
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        for low in range(0, len(paths), PARALLEL_READS):
            yield from pool.map(read, paths[low : low + PARALLEL_READS])


def concat_spill(data: str, kind: str, bucket: int, schema: pa.Schema) -> pa.Table:
    """Read the rows of one bucket as one table."""
    tables = [schema.empty_table(), *read_spill(data, kind, bucket)]
    return pa.concat_tables(tables).combine_chunks()
