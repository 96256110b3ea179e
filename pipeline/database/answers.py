"""Give the result of a query as a table on the terminal, CSV, JSON or Parquet."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.database.connection import open_run
from pipeline.database.questions import Question, find_item, shown
from pipeline.engine.errors import StageError
from pipeline.engine.files import check_folder, write_stream
from pipeline.engine.tables import RunPaths
from pipeline.flow import writer_of
from schemas import REJECTS
from schemas.errors import ConfigError

KINDS = ("table", "csv", "json", "parquet")
# The most rows of a table on the terminal; files and the other formats have all.
MAX_SHOWN = 1000
# The view `facts` joins tables of this stage; every other name that questions need is a table.
FACTS_STAGE = "kb"
LISTING = (
    'SELECT view_name AS "table" FROM duckdb_views() '
    "WHERE NOT internal AND view_name[1] <> '_' ORDER BY 1"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Say how an answer is given: the kind, the file (`-` is the terminal), SQL instead of rows."""

    kind: str
    out: str
    show_sql: bool = False


def run_query(run_folder: str, query: str, kind: str, out: str) -> None:
    """Run a query over the run's views and write its result.

    Args:
        run_folder: the run.
        query: SQL; empty lists the views.
        kind: one of KINDS.
        out: the file to write; `-` is the terminal.

    Raises:
        ConfigError: an unknown output kind, or Parquet to the terminal.
        StageError: the query is wrong, or the folder holds no run.
    """
    # Before the query, which may take minutes.
    _check(kind, out)
    with open_run(RunPaths(root=run_folder)) as connection:
        _answer(connection, query or LISTING, {}, kind, out)


@contextmanager
def opened_for(
    run_folder: str, question: Question, output: Output
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a run that has all that a question needs, once its output has been checked.

    Raises:
        ConfigError: an unknown output kind, or Parquet to the terminal.
        StageError: a table is missing (names the stage), or the folder holds no run.
    """
    _check(output.kind, output.out)
    paths = RunPaths(root=run_folder)
    # A stage that is out of date would answer wrongly: `require` raises.
    for stage in sorted({stage_of(name) for name in question.needs if name != REJECTS.name}):
        if paths.manifest(stage) is not None:
            paths.require(stage)

    with open_run(paths) as connection:
        # A table that the run lacks would give an error of SQL that names no command.
        missing = missing_table(connection, question.needs)
        if missing:
            raise StageError(
                f"{run_folder}: `ask {question.name}` needs {missing!r}; "
                f"run `trelm-pipeline {stage_of(missing)} --run {run_folder}` first"
            )
        yield connection


def missing_table(connection: duckdb.DuckDBPyConnection, needs: Sequence[str]) -> str:
    """Return the first of some tables and views that a run lacks; empty where all are there."""
    views = {name for (name,) in connection.sql(LISTING).fetchall()}
    return next((name for name in needs if name not in views), "")


def ask(run_folder: str, question: Question, argument: str, rows: int, output: Output) -> None:
    """Answer a named question, or show its SQL.

    Args:
        run_folder: the run.
        question: the question.
        argument: the item that the question is about; empty for a question about none.
        rows: the most rows of the answer.
        output: how to give it.

    Raises:
        ConfigError: an unknown output kind, or Parquet to the terminal.
        StageError: a table is missing (names the stage), the item is not in the run, or the folder
            holds no run.
    """
    with opened_for(run_folder, question, output) as connection:
        # DuckDB refuses parameters that a query does not use.
        values = {"rows": rows} if "$rows" in question.sql else {}
        if question.about:
            values["item"] = find_item(connection, argument)
        if output.show_sql:
            put_text(shown(question, values), output.out)
        else:
            _answer(connection, question.sql, values, output.kind, output.out)


def _check(kind: str, out: str) -> None:
    """Refuse an output before the query runs.

    Raises:
        ConfigError: an unknown kind, Parquet to the terminal, or no such folder.
    """
    if kind not in KINDS:
        raise ConfigError(f"--format {kind!r}: give one of {', '.join(KINDS)}")
    # Parquet is a binary format: a terminal cannot show it.
    if kind == "parquet" and out == "-":
        raise ConfigError("--format parquet needs --out FILE")
    if out != "-":
        check_folder(out, "--out")


def stage_of(table: str) -> str:
    """Return the stage that writes a table or a view which questions need."""
    return FACTS_STAGE if table == "facts" else writer_of(table).name


def _answer(
    connection: duckdb.DuckDBPyConnection, query: str, values: dict[str, int], kind: str, out: str
) -> None:
    """Run a query and write its rows.

    Raises:
        StageError: the query fails.
    """
    try:
        relation = connection.sql(query, params=values) if values else connection.sql(query)
        # A statement such as SET gives no rows.
        if relation is None:
            return

        # DuckDB draws the table itself, without fetching more rows than it shows.
        if kind == "table" and out == "-":
            relation.show(max_width=_width(), max_rows=MAX_SHOWN)
            return
        rows = relation.to_arrow_table()
    except duckdb.Error as error:
        raise StageError(f"the query failed: {error}") from error
    _write(rows, kind, out)


def give_rows(connection: duckdb.DuckDBPyConnection, rows: pa.Table, output: Output) -> None:
    """Give rows as `ask` gives those of a query."""
    if output.kind == "table" and output.out == "-":
        connection.from_arrow(rows).show(max_width=_width(), max_rows=MAX_SHOWN)
    else:
        _write(rows, output.kind, output.out)


def _width() -> int:
    return shutil.get_terminal_size((160, 24)).columns


def put_text(text: str, out: str) -> None:
    """Write a text and an end of line, to the terminal or to a file."""
    _put((text + "\n").encode(), out)


def _write(rows: pa.Table, kind: str, out: str) -> None:
    """Write rows in one of the formats; a table in a file is plain text."""
    if kind == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="zstd")
        _put(sink.getvalue(), out)
    elif kind == "json":
        # A line per row, so that other programs can read it as a stream.
        text = "".join(json.dumps(row, default=str) + "\n" for row in rows.to_pylist())
        _put(text.encode(), out)
    elif kind == "csv":
        # Through memory: the same bytes go to the terminal or to a file.
        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(_flat(rows), sink)
        _put(bytes(sink.getvalue()), out)
    else:
        _put(_plain(rows).encode(), out)


def _flat(rows: pa.Table) -> pa.Table:
    """Return rows whose lists and structs are JSON texts: CSV has no other way to hold them."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_nested(field.type):
            values = rows.column(place).to_pylist()
            texts = [None if value is None else json.dumps(value, default=str) for value in values]
            rows = rows.set_column(place, field.name, pa.array(texts, pa.string()))
    return rows


def _plain(rows: pa.Table) -> str:
    """Return rows as text: a line each, with tabs between the values."""
    lines = ["\t".join(rows.column_names)]
    lines += ["\t".join(str(value) for value in row.values()) for row in rows.to_pylist()]
    return "\n".join(lines) + "\n"


def _put(content: bytes | pa.Buffer, out: str) -> None:
    """Write bytes to the terminal, or to a file that appears whole or not at all."""
    if out == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    else:
        write_stream(out, [content])
