"""Open a run in DuckDB, with a view per table and macros that print ids.

The files of a table come from the manifests. `qid(42)` is 'Q42', `pid(31)` is 'P31', `label(42)`
the item's label, `property(31)` the property's. The view `facts` has the triples with merged items
followed.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import logging
import tempfile
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import duckdb

from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.files import REMOTE_MARK
from pipeline.engine.tables import DATA_PREFIX, RunPaths, check_table
from pipeline.engine.worker_threads import threads_of_a_worker
from pipeline.flow import STAGE_NAMES
from schemas import BY_NAME, ENTITIES, PROPERTIES, REDIRECTS, REJECTS, TRIPLES, Table
from schemas.buckets import file_system
from schemas.ids import FIRST_OWN, MAX_HOPS

logger = logging.getLogger("trelm")
MACROS = (
    # Items above are those that a user added (`schemas.ids`).
    "CREATE OR REPLACE MACRO qid(number) AS CASE WHEN number >= "
    f"{FIRST_OWN} THEN 'U' || (number - {FIRST_OWN}) ELSE 'Q' || number END",
    "CREATE OR REPLACE MACRO pid(number) AS 'P' || number",
)
# any_value: a repeated row would make a plain subquery fail.
LABEL_MACRO = (
    "CREATE OR REPLACE MACRO label(number) AS "
    "(SELECT any_value(e.label) FROM entities e WHERE e.qid = number)"
)
PROPERTY_MACRO = (
    "CREATE OR REPLACE MACRO property(number) AS "
    "(SELECT any_value(p.label) FROM properties p WHERE p.pid = number)"
)
# Triples with merged items followed to the item they became, as `pipeline.arrays.sorted_map.follow`
# does: an item that was merged into one that was merged later leads to the last one.
_HOPS = range(2, MAX_HOPS + 1)
_LAST_TARGET = ", ".join(f"hop_{hop}.target" for hop in (*reversed(_HOPS), 1))
_JOINED_HOPS = " ".join(
    f"LEFT JOIN hops hop_{hop} ON hop_{hop}.source = hop_{hop - 1}.target" for hop in _HOPS
)
FOLLOWED = f"""
CREATE OR REPLACE VIEW {{view}} AS
WITH hops AS (
    SELECT TRY_CAST(source[2:] AS UINTEGER) AS source,
        min(TRY_CAST(target[2:] AS UINTEGER)) AS target
    FROM {{redirects}} WHERE source[1] = 'Q' AND target[1] = 'Q' GROUP BY ALL
), merged AS (
    SELECT hop_1.source, coalesce({_LAST_TARGET}) AS target FROM hops hop_1 {_JOINED_HOPS}
)
SELECT t.subject, t.predicate, coalesce(m.target, t.object) AS object
FROM {{triples}} t LEFT JOIN merged m ON m.source = t.object
"""


def spill_folder() -> str:
    """Return where data goes that does not fit into the memory of a connection."""
    # Not the folder where the command runs, which may be read-only; and one for each user, since
    # another user could not write there.
    return str(Path(tempfile.gettempdir()) / f"trelm-duckdb-{getpass.getuser()}")


@contextlib.contextmanager
def working_database(memory_gb: float = 1.0) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection for the work of a stage inside a `with` block; see `connect`.

    Raises:
        StageError: memory and disk together do not suffice.
    """
    try:
        with connect(memory_gb) as connection:
            yield connection
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise StageError(
            f"DuckDB cannot go on ({str(error).splitlines()[0]}); free space in {spill_folder()}, where "
            "data goes that does not fit into memory (TMPDIR moves it), and the same command goes on"
        ) from error


def connect(memory_gb: float = 1.0) -> duckdb.DuckDBPyConnection:
    """Open an in-memory connection with bounded memory and this process's share of the cores.

    Data that does not fit into the memory goes to the disk.
    """
    connection = duckdb.connect()
    connection.execute(f"SET memory_limit = '{float(memory_gb):.2f}GB'")
    connection.execute(f"SET threads = {threads_of_a_worker()}")
    # Queries that need an order ask for it; the others then need less memory.
    connection.execute("SET preserve_insertion_order = false")

    connection.execute("SET temp_directory = $folder", {"folder": spill_folder()})
    return connection


def add_view(
    connection: duckdb.DuckDBPyConnection, name: str, paths: Sequence[str], table: Table
) -> None:
    """Add a view over checked Parquet files.

    Without files, it is a view over an empty table of the same columns.

    Raises:
        StageError: a file is damaged, or of another version.
    """
    # DuckDB would read a file of another version without a complaint.
    for path in paths:
        check_table(path, table)

    if not paths:
        connection.register(f"_{name}_empty", table.empty())
        connection.execute(f'CREATE OR REPLACE VIEW "{name}" AS SELECT * FROM "_{name}_empty"')
        return
    if any(REMOTE_MARK in path for path in paths):
        _add_remote(connection, name, paths)
        return

    # The paths are quoted by hand, because a view cannot bind parameters.
    quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    connection.execute(f'CREATE OR REPLACE VIEW "{name}" AS SELECT * FROM read_parquet([{quoted}])')


def _add_remote(connection: duckdb.DuckDBPyConnection, name: str, paths: Sequence[str]) -> None:
    """Add a view over files in a bucket; the client that wrote them reads them, by row groups."""
    import pyarrow as pa
    import pyarrow.dataset as ds
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    class Bucket(FSSpecHandler):  # type: ignore[misc]
        """Open files as the rest of the program does: its errors, its cache."""

        def open_input_file(self, path: str) -> pa.PythonFile:
            return pa.PythonFile(files.open_read(path_of[path]), mode="r")

    client = file_system(paths[0])
    path_of = {client._strip_protocol(path): path for path in paths}
    dataset = ds.dataset(list(path_of), filesystem=PyFileSystem(Bucket(client)), format="parquet")
    connection.register(f"_{name}_files", dataset)
    connection.execute(f'CREATE OR REPLACE VIEW "{name}" AS SELECT * FROM "_{name}_files"')


def add_triples(connection: duckdb.DuckDBPyConnection, paths: RunPaths) -> None:
    """Add the view `triples`, with merged items followed to the item they became.

    The table itself is never rewritten.
    """
    add_view(connection, "stored_triples", paths.kb_files(TRIPLES), TRIPLES)
    add_view(connection, "stored_redirects", paths.files("kb", REDIRECTS), REDIRECTS)
    connection.execute(
        FOLLOWED.format(view="triples", triples="stored_triples", redirects="stored_redirects")
    )


def tables_of(
    paths: RunPaths, stages: Sequence[str] = STAGE_NAMES
) -> dict[str, tuple[Table, list[str]]]:
    """Return every table that a finished stage of the run has written, and its files, by view name.

    What a stage that failed has left is in no view: it may be a part, and nothing reads it.

    Args:
        paths: of the run.
        stages: those that are looked at.

    Raises:
        StageError: the folder holds no run.
    """
    if not any(paths.manifest(stage) or has_rejects(paths, stage) for stage in stages):
        raise StageError(f"{paths.root}: holds no finished stage of a run; check --run")

    tables: dict[str, tuple[Table, list[str]]] = {REJECTS.name: (REJECTS, [])}
    for stage in stages:
        manifest = paths.manifest(stage)
        for name in manifest.tables if manifest else ():
            # The rejects of all stages are one view.
            if name == REJECTS.name:
                tables[name][1].extend(paths.files(stage, REJECTS))
                continue
            # Two stages write a table of this name: titles redirect to titles here, items to items
            # in `kb`.
            view = "title_redirects" if (stage, name) == ("titles", REDIRECTS.name) else name
            list_files = paths.kb_files if stage == "kb" else functools.partial(paths.files, stage)
            tables[view] = (BY_NAME[name], list_files(BY_NAME[name]))
    return tables


def has_rejects(paths: RunPaths, stage: str) -> bool:
    """Say whether a stage, finished or not, has left rejects: its error says how to read them."""
    rejects = files.join(paths.stage(stage), f"{DATA_PREFIX}*", REJECTS.name, "*.parquet")
    return bool(files.list_files(rejects))


def add_macros(connection: duckdb.DuckDBPyConnection, views: Container[str]) -> None:
    """Add the macros, and the view `facts`, as far as the views that they need exist."""
    for macro in MACROS:
        connection.execute(macro)
    if ENTITIES.name in views:
        connection.execute(LABEL_MACRO)
    if PROPERTIES.name in views:
        connection.execute(PROPERTY_MACRO)
    if TRIPLES.name in views and REDIRECTS.name in views:
        connection.execute(FOLLOWED.format(view="facts", triples="triples", redirects="redirects"))


def open_run(paths: RunPaths) -> duckdb.DuckDBPyConnection:
    """Open a connection with a view for every table of the run, and with the macros.

    A table of another version is left out, with a warning.
    """
    connection = connect()
    views = []
    for name, (table, table_paths) in tables_of(paths).items():
        try:
            add_view(connection, name, table_paths, table)
            views.append(name)
        except StageError as error:
            # Of an older version, or damaged: the other tables can be queried all the same.
            logger.warning("left out: %s", error.message)
    add_macros(connection, views)
    return connection
