"""Turn MediaWiki's SQL dumps of the tables `redirect` and `page` into pairs of source and target.

Goes in: lines of the two dumps. Comes out: (source, target) titles; in wikidatawiki these are ids.
Every row of an
INSERT must parse, to the byte, or the line is refused. Costs about 15 ms per MB of SQL. Memory: 16
bytes and the target's name per redirect (some 200 MB for English Wikipedia), independent of the
size of the page table.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.array_types import I64, U64

PAGE_COLUMNS = ("page_id", "page_namespace", "page_title", "page_is_redirect")
REDIRECT_COLUMNS = ("rd_from", "rd_namespace", "rd_title", "rd_interwiki")
# A quoted string with escapes, or a bare number, float or NULL.
SQL_VALUE = rb"(?:'[^'\\]*(?:\\.[^'\\]*)*'|[^',()]+)"
COLUMN_LINE = re.compile(rb"\s+`(\w+)`")
CREATE_LINE = re.compile(rb"CREATE TABLE `(\w+)`")
DATABASE_LINE = re.compile(rb"Database: (\w+)")
ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
NO_VALUES = (b"NULL", b"''")


def database_and_table(head: bytes) -> tuple[str, str]:
    """Return the names in the first lines of an SQL dump; empty where it gives none."""
    database, table = DATABASE_LINE.search(head), CREATE_LINE.search(head)
    return (
        database.group(1).decode() if database else "",
        table.group(1).decode() if table else "",
    )


def unquote(value: bytes) -> str:
    """Return a quoted SQL string as text, with spaces for underscores.

    >>> unquote(b"'What\\\\'s_new'")
    "What's new"
    """
    inner = value.removeprefix(b"'").removesuffix(b"'")
    # Most names have no escape, and the check is cheaper than the substitution.
    if b"\\" in inner:
        inner = ESCAPE.sub(rb"\1", inner)
    return inner.decode("utf-8", "replace").replace("_", " ")


class SqlRows:
    """Read the rows of one table's dump, line by line.

    The columns are learnt from CREATE TABLE; then the INSERTs are read.
    """

    def __init__(self, table: str, column_names: Sequence[str]) -> None:
        """Start before the first line of a dump.

        Args:
            table: the name of the table that the dump must hold.
            column_names: the columns to return, in this order.
        """
        self._table = table.encode()
        self._column_names = [name.encode() for name in column_names]
        # The columns of the dump, as CREATE TABLE lists them.
        self._columns: list[bytes] = []
        self._in_create = False

        # Each INSERT of the dump begins with these bytes.
        self._insert = b"INSERT INTO `" + self._table + b"` VALUES "
        # Compiled at the first INSERT, when all columns are known.
        self._row: re.Pattern[bytes] | None = None
        self._order: list[int] = []

    def feed(self, line: bytes) -> Iterator[list[bytes]]:
        """Yield the requested values of each row on the line, still quoted.

        Raises:
            ValueError: another table, a missing column, or a row that does not parse.
        """
        if line.startswith(b"INSERT INTO"):
            yield from self._rows(line)
        elif created := CREATE_LINE.match(line):
            self._in_create = True
            if created.group(1) != self._table:
                actual, expected = created.group(1).decode(), self._table.decode()
                raise ValueError(f"this is a dump of table {actual!r}, not {expected!r}")
        elif self._in_create:
            # Lines without a name in backquotes declare keys.
            column = COLUMN_LINE.match(line)
            if column:
                self._columns.append(column.group(1))
            self._in_create = not line.startswith(b")")

    def _compile(self) -> re.Pattern[bytes]:
        """Compile the pattern of a row, with a group for each requested column."""
        missing = [name.decode() for name in self._column_names if name not in self._columns]
        if missing:
            table = self._table.decode()
            raise ValueError(f"the dump of {table!r} has no column {', '.join(missing)}")

        # Groups come in the order of the dump's columns, which may differ from the requested order.
        captured = [name for name in self._columns if name in self._column_names]
        self._order = [captured.index(name) for name in self._column_names]
        patterns = [
            (rb"(" + SQL_VALUE + rb")") if name in self._column_names else SQL_VALUE
            for name in self._columns
        ]
        return re.compile(rb"\(" + rb",".join(patterns) + rb"\)", re.DOTALL)

    def _rows(self, line: bytes) -> Iterator[list[bytes]]:
        """Yield the requested values of each row of an INSERT."""
        if self._row is None:
            self._row = self._compile()
        if not line.startswith(self._insert):
            raise ValueError(f"an INSERT that does not start with {self._insert.decode()!r}")

        position = len(self._insert)
        while (row := self._row.match(line, position)) is not None:
            groups = row.groups()
            yield [groups[index] for index in self._order]
            # Skip the comma or the semicolon that follows the row.
            position = row.end() + 1

        # The last row must end the statement: nothing is passed over unread.
        if line[position - 1 : position] != b";":
            raise ValueError(f"an INSERT that does not parse from its byte {position} on")


@dataclass(frozen=True, kw_only=True, slots=True)
class _SortedRedirects:
    """Hold the page ids of the redirects, sorted, and the row of each."""

    ids: U64
    order: I64


class RedirectJoin:
    """Collect rows of `redirect`, then find the titles of their source pages in `page`."""

    def __init__(self) -> None:
        self._ids = array("Q")
        # Target names lie back to back in one byte string: Python strings would take several times
        # the memory.
        self._ends = array("Q", [0])
        self._names = bytearray()
        self._sorted_redirects: _SortedRedirects | None = None
        self.matched = 0

    def __len__(self) -> int:
        return len(self._ids)

    def add_redirect(self, row: Sequence[bytes]) -> str:
        """Remember a row of `redirect`; return rows_out, or the counter of skipped rows."""
        page_id, namespace, title, interwiki = row
        # Only articles are link targets; redirects between talk pages are of no use.
        if namespace != b"0":
            return "skipped_namespace"
        # A redirect to another wiki leads to no page of this one.
        if interwiki not in NO_VALUES:
            return "skipped_interwiki"

        self._ids.append(int(page_id))
        self._names += unquote(title).encode()
        self._ends.append(len(self._names))
        return "rows_out"

    def pairs(self, pages: Sequence[Sequence[bytes]]) -> list[tuple[str, str]]:
        """Return source and target for those rows of `page` that are articles and redirects."""
        pages = [page for page in pages if page[3] == b"1" and page[1] == b"0"]
        if not pages or not len(self):
            return []

        # Shape (pages,): the row of the redirect with the nearest id, and whether the ids are
        # equal.
        redirects = self._sorted()
        page_ids = np.array([int(page[0]) for page in pages], dtype=np.uint64)
        nearest = np.searchsorted(redirects.ids, page_ids)
        rows = np.minimum(nearest, len(redirects.ids) - 1)
        is_match = redirects.ids[rows] == page_ids

        pairs = [
            (unquote(page[2]), self._name(int(redirects.order[row])))
            for page, row, is_redirect in zip(pages, rows, is_match, strict=True)
            if is_redirect
        ]
        self.matched += len(pairs)
        return pairs

    def _sorted(self) -> _SortedRedirects:
        """Return the redirects by page id, sorted once, after the last `add_redirect`."""
        if self._sorted_redirects is None:
            ids = np.array(self._ids, dtype=np.uint64)
            order = np.argsort(ids, kind="stable")
            self._sorted_redirects = _SortedRedirects(ids=ids[order], order=order)
        return self._sorted_redirects

    def _name(self, row: int) -> str:
        """Return the target of a redirect."""
        return self._names[self._ends[row] : self._ends[row + 1]].decode()
