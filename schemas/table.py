"""Declare tables: columns with types and meanings, a version and a key, as one Arrow schema.

Goes in: declarations (`Table`). Comes out: Arrow schemas whose metadata names table, version and
key, and the check that a reader makes before it trusts a file. Costs nothing: no file is opened
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from schemas.listing import a_few

TABLE_KEY = b"trelm.table"
VERSION_KEY = b"trelm.version"
PRIMARY_KEY = b"trelm.key"


class SchemaError(ValueError):
    """Say that a file or a batch is not the table, the version or the shape that was asked for."""


def list_of(element: pa.DataType) -> pa.ListType:
    """Return a list type whose elements are never null."""
    return pa.list_(pa.field("element", element, nullable=False))


@dataclass(frozen=True, kw_only=True)
class Column:
    """Declare a column: its name, Arrow type and meaning (with its unit).

    `null_means` says what a null means where one is allowed.
    """

    name: str
    type: pa.DataType
    meaning: str
    null_means: str = ""

    @property
    def nullable(self) -> bool:
        """Say whether a null is allowed: only where it has a written meaning."""
        return bool(self.null_means)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Declare a table of a run; it is written and read only through its schema."""

    name: str
    version: int
    row: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @cached_property
    def schema(self) -> pa.Schema:
        """Return the Arrow schema, with table name, version and key in its metadata."""
        fields = [
            pa.field(
                column.name,
                column.type,
                nullable=column.nullable,
                metadata={b"meaning": column.meaning.encode()},
            )
            for column in self.columns
        ]

        metadata = {
            TABLE_KEY: self.name.encode(),
            VERSION_KEY: str(self.version).encode(),
            PRIMARY_KEY: ",".join(self.key).encode(),
        }
        return pa.schema(fields, metadata=metadata)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Return the names of the columns in declared order."""
        return tuple(column.name for column in self.columns)

    def check(self, schema: pa.Schema, where: str) -> None:
        """Refuse a file that is another table or another version.

        Raises:
            SchemaError: names what was wanted, what was found and the file.
        """
        metadata = schema.metadata or {}
        name = metadata.get(TABLE_KEY, b"").decode()
        if not name:
            raise SchemaError(
                f"{where}: not a TRELM table (no {TABLE_KEY.decode()!r} in its metadata), but "
                f"{self.name!r} was expected; check the path"
            )
        if name != self.name:
            raise SchemaError(
                f"{where}: holds table {name!r}, but {self.name!r} was expected; check the path"
            )

        version = metadata.get(VERSION_KEY, b"").decode()
        if version != str(self.version):
            raise SchemaError(
                f"{where}: table {self.name!r} has version {version}, this program reads version "
                f"{self.version}; "
                "run the stage that writes it again"
            )
        self._check_columns(schema, where)

    def _check_columns(self, schema: pa.Schema, where: str) -> None:
        missing = [name for name in self.column_names if schema.get_field_index(name) < 0]
        if missing:
            raise SchemaError(
                f"{where}: table {self.name!r} lacks the column(s) {a_few(missing, shown=8)}; "
                "run the stage that writes it again"
            )

        for column in self.columns:
            kind = schema.field(column.name).type
            if not kind.equals(column.type):
                raise SchemaError(
                    f"{where}: {self.name}.{column.name} is {kind}, but must be {column.type}; "
                    "run the stage that writes it again"
                )

    def from_columns(self, columns: Mapping[str, Any]) -> pa.Table:
        """Build rows from one sequence or Arrow array per column; every column must be there, and
        no other.

        Raises:
            SchemaError: a column is missing, unknown, of the wrong type, or holds a null that has
                no meaning.
        """
        if set(columns) != set(self.column_names):
            wrong = sorted(set(columns) ^ set(self.column_names))
            raise SchemaError(
                f"table {self.name!r}: missing or unknown column(s) {', '.join(wrong)}"
            )

        arrays = []
        for column in self.columns:
            values: Any = columns[column.name]
            try:
                array = (
                    values.cast(column.type)
                    if _is_arrow(values)
                    else pa.array(values, type=column.type)
                )
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                raise SchemaError(f"{self.name}.{column.name}: {error}") from error

            # Arrow itself would take the nulls into a column that is declared without any.
            if array.null_count and not column.nullable:
                raise SchemaError(
                    f"{self.name}.{column.name}: {array.null_count} null(s), and a null has no meaning here"
                )
            arrays.append(array)
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def from_rows(self, rows: list[tuple[object, ...]]) -> pa.Table:
        """Build rows from tuples in declared column order (for small tables and tests)."""
        for row in rows:
            if len(row) != len(self.columns):
                raise SchemaError(
                    f"table {self.name!r}: {len(row)} values in {row!r}, wanted {len(self.columns)}"
                )
        return self.from_columns(
            {name: [row[i] for row in rows] for i, name in enumerate(self.column_names)}
        )

    def empty(self) -> pa.Table:
        """Return a table without rows, of the right schema."""
        return self.schema.empty_table()


def _is_arrow(values: object) -> bool:
    return isinstance(values, pa.Array | pa.ChunkedArray)
