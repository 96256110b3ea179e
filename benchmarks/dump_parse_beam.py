"""Run the peer of `dump_parse` that is Beam as its guide has it: ReadFromText, json.loads, rows as
dictionaries, WriteToParquet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from benchmarks.dump_parse_peers import TABLES, Rows, add_entity


def beam_json(out: Path, path: str) -> dict[str, Any]:
    """Make the same rows by Beam's own parts, on its local runner, in this process."""
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        lines = pipeline | beam.io.ReadFromText(path)
        rows = lines | beam.FlatMap(rows_of).with_outputs(*(table.name for table in TABLES))
        for table in TABLES:
            prefix = str(out / table.name / "part")
            write = beam.io.WriteToParquet(
                prefix, table.schema, codec="zstd", file_name_suffix=".parquet"
            )
            _ = rows[table.name] | f"Write {table.name}" >> write
    return {}


def rows_of(line: str) -> Iterator[beam.pvalue.TaggedOutput]:
    """Yield the rows of a line, each as a dictionary for the output of its table."""
    record = line.rstrip(",")
    if len(record) > 1:
        rows: Rows = {table.name: [] for table in TABLES}
        add_entity(json.loads(record), rows)
        for table in TABLES:
            for row in rows[table.name]:
                yield beam.pvalue.TaggedOutput(
                    table.name, dict(zip(table.column_names, row, strict=True))
                )
