"""Results of a query as a table on the terminal, CSV, JSON or Parquet."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.database.connection import open_run
from pipeline.database.questions import Question, find_item, shown
from pipeline.engine.errors import StageError
from pipeline.engine.files import check_folder
from pipeline.engine.tables import RunPaths
from schemas import REJECTS
from schemas.errors import ConfigError

KINDS = ("table", "csv", "json", "parquet")
MAX_SHOWN = 1000  # rows of a table on the terminal; files and the other formats have all
STAGE_OF = {
    **dict.fromkeys(
        ("entity_frequency", "surface_frequency", "cooccurrence", "fact_support", "tail_summary"),
        "stats",
    ),
    "links": "link",
    "importance": "importance",
}  # of tables that questions need; the others are those of `kb`
LISTING = """SELECT view_name AS "table" FROM duckdb_views() WHERE NOT internal AND view_name[1] <> '_' ORDER BY 1"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """How an answer is given."""

    kind: str
    out: str
    show_sql: bool = False


def run_query(run_folder: str, query: str, kind: str, out: str) -> None:
    """Run a query over the run's views and write its result.

    Raises:
        ConfigError: an unknown output kind, or Parquet to the terminal.
        StageError: the query is wrong, or the folder holds no run.
    """
    _check(kind, out)
    with open_run(RunPaths(root=run_folder)) as connection:
        _answer(connection, query or LISTING, {}, kind, out)


def ask(run_folder: str, question: Question, argument: str, rows: int, how: Output) -> None:
    """Answer a named question, or show its SQL.

    Raises:
        ConfigError: an unknown output kind, or Parquet to the terminal.
        StageError: a table is missing (names the stage), the item is not there, or the folder holds no run.
    """
    _check(how.kind, how.out)
    paths = RunPaths(root=run_folder)
    for stage in sorted({stage_of(name) for name in question.needs if name != REJECTS.name}):
        if paths.manifest(stage) is not None:
            paths.require(stage)  # what is out of date would answer wrongly
    with open_run(paths) as connection:
        views = {name for (name,) in connection.sql(LISTING).fetchall()}
        missing = [name for name in question.needs if name not in views]
        if missing:
            stage = stage_of(missing[0])
            raise StageError(
                f"{run_folder}: `ask {question.name}` needs {missing[0]!r}; "
                f"run `trelm-pipeline {stage} --run {run_folder}` first"
            )
        values = {"rows": rows} if "$rows" in question.sql else {}
        if question.about:
            values["item"] = find_item(connection, argument)
        if how.show_sql:
            _put((shown(question, values) + "\n").encode(), how.out)
        else:
            _answer(connection, question.sql, values, how.kind, how.out)


def _check(kind: str, out: str) -> None:
    if kind not in KINDS:
        raise ConfigError(f"--format {kind!r}: one of {', '.join(KINDS)}")
    if kind == "parquet" and out == "-":
        raise ConfigError("--format parquet needs --out FILE")
    if out != "-":
        check_folder(out, "--out")


def stage_of(table: str) -> str:
    """The stage that writes a table which questions need."""
    return STAGE_OF.get(table, "kb")


def _answer(
    connection: duckdb.DuckDBPyConnection, query: str, values: dict[str, int], kind: str, out: str
) -> None:
    try:
        relation = connection.sql(query, params=values) if values else connection.sql(query)
        if relation is None:  # a statement without rows
            return
        if kind == "table" and out == "-":
            width = shutil.get_terminal_size((160, 24)).columns
            relation.show(max_width=width, max_rows=MAX_SHOWN)
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
