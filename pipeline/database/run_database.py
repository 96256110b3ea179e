"""`run.duckdb` in a run's folder: the views and macros of `trelm-pipeline sql`, for a user's own DuckDB. It holds no rows.

Paths in it are relative to the run's folder, so that a run can be moved: open it there, or set `file_search_path` to it.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import duckdb

from pipeline.database.connection import add_macros, tables_of
from pipeline.engine.files import REMOTE_MARK
from pipeline.engine.tables import RunPaths
from schemas import Table

NAME = "run.duckdb"
STORAGE_VERSION = "v1.0.0"  # of the file: DuckDB 1.0 and later read it


def has_database(paths: RunPaths) -> bool:
    """Whether the run has one, or cannot have one."""
    return REMOTE_MARK in paths.root or (Path(paths.root) / NAME).exists()


def write_database(paths: RunPaths) -> Path | None:
    """Write it anew, whole or not at all; not for runs in buckets, whose files DuckDB would need credentials for.

    Returns:
        Where it lies, or None.
    """
    if REMOTE_MARK in paths.root:
        return None
    target = Path(paths.root) / NAME
    scratch = target.with_name(f".{uuid.uuid4().hex}.duckdb")
    try:
        _write(scratch, paths)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    return target


def _write(path: Path, paths: RunPaths) -> None:
    with duckdb.connect() as connection:
        connection.execute(
            f"ATTACH {_quoted(str(path))} AS run (STORAGE_VERSION '{STORAGE_VERSION}')"
        )
        connection.execute("USE run")
        connection.execute(
            "SET file_search_path = $root", {"root": str(Path(paths.root).resolve())}
        )
        tables = tables_of(paths)
        for name, (table, found) in tables.items():
            connection.execute(
                f'CREATE VIEW "{name}" AS {_rows(connection, table, found, paths.root)}'
            )
        add_macros(connection, tables)
        connection.execute("USE memory")
        connection.execute("DETACH run")


def _rows(connection: duckdb.DuckDBPyConnection, table: Table, found: list[str], root: str) -> str:
    """A query for a table's rows: its files by relative paths, or no rows of its types."""
    if found:
        listed = ", ".join(_quoted(Path(path).relative_to(root).as_posix()) for path in found)
        return f"SELECT * FROM read_parquet([{listed}])"
    types = zip(table.column_names, connection.from_arrow(table.empty()).types, strict=True)
    columns = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in types)
    return f"SELECT {columns} WHERE false"


def _quoted(text: str) -> str:
    """A string of SQL; paths cannot be bound in a view."""
    return "'" + text.replace("'", "''") + "'"
