"""Write `run.duckdb` in a run's folder, for a user's own DuckDB.

It has the views and macros of `trelm-pipeline sql`, and holds no rows. Paths in it are relative to
the run's folder, so that a run can be moved: open it there, or set `file_search_path` to it.
"""

from __future__ import annotations

import logging
from pathlib import Path

import duckdb

from pipeline.database.connection import add_macros, tables_of
from pipeline.engine.damage import first_damage
from pipeline.engine.errors import StageError
from pipeline.engine.files import REMOTE_MARK
from pipeline.engine.tables import RunPaths
from pipeline.flow import STAGE_NAMES
from schemas import Table
from schemas.durable import partial_of, publish
from schemas.regular_files import is_special

logger = logging.getLogger("trelm")

NAME = "run.duckdb"
# The version of the file's format: DuckDB 1.0 and later read it.
STORAGE_VERSION = "v1.0.0"


def has_database(paths: RunPaths) -> bool:
    """Say whether the run has one, or cannot have one."""
    return REMOTE_MARK in paths.root or (Path(paths.root) / NAME).exists()


def write_database(paths: RunPaths) -> Path | None:
    """Write the database, replacing an older one; it is written whole or not at all.

    Runs in buckets get none: DuckDB would need credentials for their files.

    Returns:
        The path of the database, or None.

    Raises:
        StageError: the disk is full, or the folder cannot be written.
    """
    if REMOTE_MARK in paths.root:
        return None

    target = Path(paths.root) / NAME
    scratch = partial_of(target)
    try:
        # What a killed program has left there is no database that could be gone on with.
        _remove(scratch)
        _write(scratch, paths)
        publish(scratch, target)
    except (OSError, duckdb.OperationalError, duckdb.FatalException) as error:
        # An older one names files that may have gone; without one the next command writes it.
        if not is_special(target):
            target.unlink(missing_ok=True)
        cause = str(error).splitlines()[0]
        raise StageError(
            f"{target}: cannot be written ({cause}); the tables are whole: free space on this disk, and "
            "the same command goes on"
        ) from error
    finally:
        _remove(scratch)
    return target


def _remove(path: Path) -> None:
    """Remove a database and its log of changes."""
    for name in (path.name, f"{path.name}.wal"):
        path.with_name(name).unlink(missing_ok=True)


def _write(path: Path, paths: RunPaths) -> None:
    """Write the views and the macros to a new file."""
    with duckdb.connect() as connection:
        connection.execute(
            f"ATTACH {_quoted(str(path))} AS run (STORAGE_VERSION '{STORAGE_VERSION}')"
        )
        connection.execute("USE run")

        # DuckDB checks a view when it is created, so the relative paths must lead to the files now.
        root = str(Path(paths.root).resolve())
        connection.execute("SET file_search_path = $root", {"root": root})
        tables = tables_of(paths, [stage for stage in STAGE_NAMES if _is_whole(paths, stage)])
        views = []
        for name, (table, table_paths) in tables.items():
            query = _rows(connection, table, table_paths, paths.root)
            if _can_be_read(connection, query, f"{paths.root}: table {name}"):
                connection.execute(f'CREATE VIEW "{name}" AS {query}')
                views.append(name)
        add_macros(connection, views)

        # A database in use cannot be detached, and only a detached one is complete on disk.
        connection.execute("USE memory")
        connection.execute("DETACH run")


def _is_whole(paths: RunPaths, stage: str) -> bool:
    """Say whether a stage can have views. One that has lost files runs again, and then it has."""
    try:
        manifest = paths.manifest(stage)
    except StageError:
        return False
    return manifest is None or not first_damage(paths.stage(stage), manifest.files, hashed=False)


def _can_be_read(connection: duckdb.DuckDBPyConnection, query: str, what: str) -> bool:
    """Say whether a view's files can be read; a damaged one is told, and stops no other stage."""
    try:
        connection.execute(f"EXPLAIN {query}")
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        cause = str(error).splitlines()[0]
        logger.warning(
            "%s has a damaged file and gets no view (%s); `run --verify` makes it again",
            what,
            cause,
        )
        return False
    return True


def _rows(
    connection: duckdb.DuckDBPyConnection, table: Table, table_paths: list[str], root: str
) -> str:
    """Return a query for a table's rows: its files by relative paths, or no rows of its types."""
    # DuckDB resolves the paths below the folder where it is opened.
    if table_paths:
        relative = [Path(path).relative_to(root).as_posix() for path in table_paths]
        return f"SELECT * FROM read_parquet([{', '.join(map(_quoted, relative))}])"

    # A table without files still has its columns.
    types = zip(table.column_names, connection.from_arrow(table.empty()).types, strict=True)
    columns = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in types)
    return f"SELECT {columns} WHERE false"


def _quoted(text: str) -> str:
    """Return text as a string of SQL; paths cannot be bound in a view."""
    return "'" + text.replace("'", "''") + "'"
