"""The corpus's own links, by document: read a part of `anchors` at a time, beside the part of `documents` with its number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import pyarrow as pa

from pipeline.engine import files
from pipeline.engine.tables import read_rows
from schemas import ANCHORS, DOCUMENTS, Table


def beside(path: str, table: Table) -> str:
    """The part file of another table with the same number: units of `documents` write both."""
    folder, _, name = path.rpartition("/")
    return f"{folder.rpartition('/')[0]}/{table.name}/{name}"


def anchor_texts(
    path: str, start: int = 0, end: int | None = None
) -> Iterator[tuple[pa.Table, list[str]]]:
    """Rows of a part file of `anchors`, and the text of each link. Memory: the texts of the part's documents."""
    texts: dict[str, str] = {}
    for rows in read_rows(beside(path, DOCUMENTS), DOCUMENTS):
        texts.update(
            zip(rows.column("doc_id").to_pylist(), rows.column("text").to_pylist(), strict=True)
        )
    for rows in read_rows(path, ANCHORS, start, end):
        ranges = zip(
            *(rows.column(name).to_pylist() for name in ("doc_id", "start", "end")), strict=True
        )
        yield rows, [texts[doc_id][low:high] for doc_id, low, high in ranges]


_NONE: dict[tuple[int, int], int] = {}


class AnchorReader:
    """Links of the documents of one part. Memory: 200 bytes per link of the part."""

    def __init__(self) -> None:
        self._part = ""
        self._links: dict[str, dict[tuple[int, int], int]] = {}

    def open_part(self, documents: str) -> None:
        """Read the links of a part file of `documents`; none if there is no such part."""
        if documents == self._part:
            return
        path = beside(documents, ANCHORS)
        links: dict[str, dict[tuple[int, int], int]] = defaultdict(dict)
        if files.exists(path):
            for rows in read_rows(path, ANCHORS):
                columns = (
                    rows.column(name).to_pylist() for name in ("doc_id", "start", "end", "qid")
                )
                for doc_id, start, end, qid in zip(*columns, strict=True):
                    links[doc_id][start, end] = qid
        self._part, self._links = documents, dict(links)

    def of(self, doc_id: str) -> Mapping[tuple[int, int], int]:
        """Links of a document: item by (start, end)."""
        return self._links.get(doc_id, _NONE)
