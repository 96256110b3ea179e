"""Some columns of a part file of a table, batch by batch; the file is closed when the reader is done with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import files
from pipeline.storage.errors import StageError
from schemas.table import SchemaError, Table


def read_batches(path: str, table: Table, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Batches of the wanted columns. Memory: one batch of 65,536 rows.

    Raises:
        StageError: not this table, not this version, or not Parquet.
    """
    with files.open_read(path) as source:
        try:
            parquet = pq.ParquetFile(source)
            table.check(parquet.schema_arrow, path)
        except (SchemaError, pa.ArrowInvalid) as error:
            raise StageError(f"{path}: {error}" if path not in str(error) else str(error)) from error
        yield from parquet.iter_batches(columns=list(columns))
