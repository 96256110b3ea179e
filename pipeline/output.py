"""Results of a query as a table on the terminal, CSV, JSON or Parquet."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.query import open_run
from pipeline.storage.errors import StageError
from pipeline.storage.tables import RunPaths
from schemas.settings import ConfigError

KINDS = ("table", "csv", "json", "parquet")
LISTING = """SELECT view_name AS "table" FROM duckdb_views() WHERE NOT internal AND view_name[1] <> '_' ORDER BY 1"""


def run_query(run_folder: str, query: str, kind: str, out: str) -> None:
    """Run a query over the run's views and write its result.

    Raises:
        ConfigError: an unknown output kind, or Parquet to the terminal.
        StageError: the query is wrong, or the folder holds no run.
    """
    if kind not in KINDS:
        raise ConfigError(f"--format {kind!r}: one of {', '.join(KINDS)}")
    if kind == "parquet" and out == "-":
        raise ConfigError("--format parquet needs --out FILE")
    with open_run(RunPaths(root=run_folder)) as connection:
        try:
            relation = connection.sql(query or LISTING)
            if relation is None:  # a statement without rows
                return
            if kind == "table" and out == "-":
                relation.show(max_width=160)
                return
            rows = relation.to_arrow_table()
        except duckdb.Error as error:
            raise StageError(f"query failed: {error}") from error
    _write(rows, kind, out)


def _write(rows: pa.Table, kind: str, out: str) -> None:
    if kind == "parquet":
        pq.write_table(rows, out, compression="zstd")
    elif kind == "json":
        text = "".join(json.dumps(row, default=str) + "\n" for row in rows.to_pylist())
        _put(text.encode(), out)
    elif kind == "csv":
        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(rows, sink)
        _put(bytes(sink.getvalue()), out)
    else:
        _put(_plain(rows).encode(), out)


def _plain(rows: pa.Table) -> str:
    lines = ["\t".join(rows.column_names)]
    lines += ["\t".join(str(value) for value in row.values()) for row in rows.to_pylist()]
    return "\n".join(lines) + "\n"


def _put(content: bytes, out: str) -> None:
    if out == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    else:
        Path(out).write_bytes(content)
