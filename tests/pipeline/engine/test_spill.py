"""Rows for the next phase: what a unit left is found by bucket, in the order of the units, on a disk and in a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.spill import (
    PARALLEL_READS,
    concat_spill,
    read_spill,
    spill_folder,
    write_spill,
)
from tests.bucket_servers import connected

SCHEMA = pa.schema([("unit", pa.int64()), ("row", pa.int64())])
NUM_UNITS, NUM_BUCKETS = 2 * PARALLEL_READS + 3, 4


@pytest.fixture(params=["local", "s3", "gs"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        (tmp_path / "spill").mkdir()
        yield str(tmp_path)
        return
    with connected(request.param) as server:
        yield f"{server.root}/spilled"


@pytest.mark.slow
def test_every_bucket_has_its_rows_in_the_order_of_the_units(data: str) -> None:
    for unit in range(NUM_UNITS):
        rows = pa.table([[unit] * 8, list(range(8))], schema=SCHEMA)
        # Nothing of unit 5 goes to the last bucket.
        buckets = np.arange(8) % (NUM_BUCKETS - (unit == 5))
        write_spill(data, "rows", unit, rows, buckets, NUM_BUCKETS)
    for bucket in range(NUM_BUCKETS):
        tables = list(read_spill(data, "rows", bucket))
        assert len(tables) == NUM_UNITS
        expected = [
            (unit, row)
            for unit in range(NUM_UNITS)
            for row in range(8)
            if row % (NUM_BUCKETS - (unit == 5)) == bucket
        ]
        found = concat_spill(data, "rows", bucket, SCHEMA)
        assert list(zip(*found.to_pydict().values(), strict=True)) == expected
    assert concat_spill(data, "others", 0, SCHEMA).num_rows == 0


@pytest.mark.slow
def test_a_damaged_file_is_an_error_on_any_storage(data: str) -> None:
    rows = pa.table([[1], [2]], schema=SCHEMA)
    for unit in range(3):
        write_spill(data, "rows", unit, rows, np.zeros(1, np.int64), 1)
    path = files.join(spill_folder(data), "rows-00001.arrow")
    files.write_bytes(path, files.read_bytes(path)[:-30])
    with pytest.raises((StageError, pa.ArrowInvalid)):
        list(read_spill(data, "rows", 0))
