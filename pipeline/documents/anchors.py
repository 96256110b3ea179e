"""Read the corpus's own links, by document.

A part file of `anchors` is read beside the part file of `documents` with the same number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import pyarrow as pa

from pipeline.engine import files
from pipeline.engine.tables import read_rows
from schemas import ANCHORS, DOCUMENTS, Table


def beside(path: str, table: Table) -> str:
    """Return the part file of another table with the same number: a unit writes both."""
    folder, _, name = path.rpartition("/")
    return f"{folder.rpartition('/')[0]}/{table.name}/{name}"


def anchor_texts(
    path: str, start: int = 0, end: int | None = None
) -> Iterator[tuple[pa.Table, list[str]]]:
    """Yield rows of a part file of `anchors`, and the text of each link.

    Memory: the texts of the part's documents.

    Args:
        path: the part file.
        start: the first row.
        end: the row after the last one; None for all rows.
    """
    # Links refer to their documents by id, so the texts of the part are needed all at once.
    text_by_id: dict[str, str] = {}
    for rows in read_rows(beside(path, DOCUMENTS), DOCUMENTS):
        doc_ids, texts = rows.column("doc_id").to_pylist(), rows.column("text").to_pylist()
        text_by_id.update(zip(doc_ids, texts, strict=True))

    for rows in read_rows(path, ANCHORS, start, end):
        columns = [rows.column(name).to_pylist() for name in ("doc_id", "start", "end")]
        links = zip(*columns, strict=True)
        yield rows, [text_by_id[doc_id][low:high] for doc_id, low, high in links]


_NO_LINKS: dict[tuple[int, int], int] = {}


class AnchorReader:
    """Look up the links of the documents of one part. Memory: 200 bytes per link of the part."""

    def __init__(self) -> None:
        self._documents_path = ""
        # The item of each link: by document, then by start and end.
        self._links: dict[str, dict[tuple[int, int], int]] = {}

    def open_part(self, documents: str) -> None:
        """Read the links of a part file of `documents`."""
        # Units of `link` come in the order of the parts: most of them share the last one.
        if documents == self._documents_path:
            return

        path = beside(documents, ANCHORS)
        links: dict[str, dict[tuple[int, int], int]] = defaultdict(dict)
        # A part without links has no file of them.
        if files.exists(path):
            for rows in read_rows(path, ANCHORS):
                names = ("doc_id", "start", "end", "qid")
                columns = [rows.column(name).to_pylist() for name in names]
                for doc_id, start, end, qid in zip(*columns, strict=True):
                    links[doc_id][start, end] = qid

        # A plain dict: a look-up must not add documents.
        self._documents_path, self._links = documents, dict(links)

    def of(self, doc_id: str) -> Mapping[tuple[int, int], int]:
        """Return the links of a document: item by (start, end)."""
        return self._links.get(doc_id, _NO_LINKS)
