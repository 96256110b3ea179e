"""MediaWiki's SQL dumps of the tables `redirect` and `page` to pairs of source and target.

Goes in: lines of the two dumps. Comes out: (source, target) titles; in wikidatawiki these are ids. Every row of an
INSERT must parse, to the byte, or the line is refused. Costs about 15 ms per MB of SQL. Memory: 16 bytes and the
target's name per redirect (some 200 MB for English Wikipedia), independent of the size of the page table.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

PAGE_COLUMNS = ("page_id", "page_namespace", "page_title", "page_is_redirect")
REDIRECT_COLUMNS = ("rd_from", "rd_namespace", "rd_title", "rd_interwiki")
SQL_VALUE = rb"(?:'[^'\\]*(?:\\.[^'\\]*)*'|[^',()]+)"
COLUMN_LINE = re.compile(rb"\s+`(\w+)`")
CREATE_LINE = re.compile(rb"CREATE TABLE `(\w+)`")
DATABASE_LINE = re.compile(rb"Database: (\w+)")
ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
NO_VALUES = (b"NULL", b"''")


def database_and_table(head: bytes) -> tuple[str, str]:
    """Names in the first lines of an SQL dump; empty where they are not said."""
    database, table = DATABASE_LINE.search(head), CREATE_LINE.search(head)
    return (
        database.group(1).decode() if database else "",
        table.group(1).decode() if table else "",
    )


def unquote(value: bytes) -> str:
    """A quoted SQL string as text, underscores as spaces.

    >>> unquote(b"'What\\\\'s_new'")
    "What's new"
    """
    inner = value.removeprefix(b"'").removesuffix(b"'")
    if b"\\" in inner:
        inner = ESCAPE.sub(rb"\1", inner)
    return inner.decode("utf-8", "replace").replace("_", " ")


class SqlRows:
    """Rows of one table's dump, line by line: learns the columns from CREATE TABLE, then reads the INSERTs."""

    def __init__(self, table: str, wanted: Sequence[str]) -> None:
        self._table = table.encode()
        self._wanted = [name.encode() for name in wanted]
        self._columns: list[bytes] = []
        self._in_create = False
        self._insert = b"INSERT INTO `" + self._table + b"` VALUES "
        self._row: re.Pattern[bytes] | None = None
        self._order: list[int] = []

    def feed(self, line: bytes) -> Iterator[list[bytes]]:
        """The wanted values of the line's rows, still quoted.

        Raises:
            ValueError: another table, a missing column, or a row that does not parse.
        """
        if line.startswith(b"INSERT INTO"):
            yield from self._rows(line)
        elif created := CREATE_LINE.match(line):
            self._in_create = True
            if created.group(1) != self._table:
                raise ValueError(
                    f"this is a dump of table {created.group(1).decode()!r}, not {self._table.decode()!r}"
                )
        elif self._in_create:
            column = COLUMN_LINE.match(line)
            if column:
                self._columns.append(column.group(1))
            self._in_create = not line.startswith(b")")

    def _compile(self) -> re.Pattern[bytes]:
        missing = [name.decode() for name in self._wanted if name not in self._columns]
        if missing:
            raise ValueError(
                f"the dump of {self._table.decode()!r} has no column {', '.join(missing)}"
            )
        parts = [
            (rb"(" + SQL_VALUE + rb")") if name in self._wanted else SQL_VALUE
            for name in self._columns
        ]
        captured = [name for name in self._columns if name in self._wanted]
        self._order = [captured.index(name) for name in self._wanted]
        return re.compile(rb"\(" + rb",".join(parts) + rb"\)", re.DOTALL)

    def _rows(self, line: bytes) -> Iterator[list[bytes]]:
        if self._row is None:
            self._row = self._compile()
        if not line.startswith(self._insert):
            raise ValueError(f"an INSERT that does not start with {self._insert.decode()!r}")
        at = len(self._insert)
        while (row := self._row.match(line, at)) is not None:
            groups = row.groups()
            yield [groups[place] for place in self._order]
            at = row.end() + 1  # past the comma or the semicolon
        if line[at - 1 : at] != b";":
            raise ValueError(f"an INSERT that does not parse from its byte {at} on")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Targets:
    ids: np.ndarray[tuple[int], np.dtype[np.uint64]]  # sorted
    order: np.ndarray[tuple[int], np.dtype[np.int64]]


class RedirectJoin:
    """Redirect rows, then the titles of the pages that they come from."""

    def __init__(self) -> None:
        self._ids = array("Q")
        self._ends = array("Q", [0])
        self._names = bytearray()
        self._targets: _Targets | None = None
        self.matched = 0

    def __len__(self) -> int:
        return len(self._ids)

    def add_redirect(self, row: Sequence[bytes]) -> str:
        """Remember a row of `redirect`; comes back with what it is: rows_out, or why it is skipped."""
        page_id, namespace, title, interwiki = row
        if namespace != b"0":
            return "skipped_namespace"
        if interwiki not in NO_VALUES:
            return "skipped_interwiki"
        self._ids.append(int(page_id))
        self._names += unquote(title).encode()
        self._ends.append(len(self._names))
        return "rows_out"

    def pairs(self, pages: Sequence[Sequence[bytes]]) -> list[tuple[str, str]]:
        """Source and target for those rows of `page` that are articles and redirects."""
        pages = [page for page in pages if page[3] == b"1" and page[1] == b"0"]
        if not pages or not len(self):
            return []
        targets = self._sorted()
        wanted = np.array([int(page[0]) for page in pages], dtype=np.uint64)
        places = np.minimum(np.searchsorted(targets.ids, wanted), len(targets.ids) - 1)
        known = targets.ids[places] == wanted
        found = [
            (unquote(page[2]), self._name(int(targets.order[place])))
            for page, place, is_known in zip(pages, places, known, strict=True)
            if is_known
        ]
        self.matched += len(found)
        return found

    def _sorted(self) -> _Targets:
        if self._targets is None:
            ids = np.array(self._ids, dtype=np.uint64)
            order = np.argsort(ids, kind="stable")
            self._targets = _Targets(ids=ids[order], order=order)
        return self._targets

    def _name(self, place: int) -> str:
        return self._names[self._ends[place] : self._ends[place + 1]].decode()
