"""Rows collected column by column, for one table: the cheapest way from Python values to Arrow."""

from __future__ import annotations

import pyarrow as pa

from schemas.table import Table


class ColumnBuffer:
    """Columns of one table that fill up until `take` makes them rows. Costs about 0.1 µs per value."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._columns: list[list[object]] = [[] for _ in table.columns]

    def __len__(self) -> int:
        return len(self._columns[0])

    def add(self, *values: object) -> None:
        """One row, in the table's column order."""
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)

    def take(self) -> pa.Table:
        """The rows so far; the buffer is empty afterwards.

        Raises:
            SchemaError: a value does not fit its column.
        """
        rows = self.table.from_columns(dict(zip(self.table.column_names, self._columns, strict=True)))
        self._columns = [[] for _ in self._columns]
        return rows
