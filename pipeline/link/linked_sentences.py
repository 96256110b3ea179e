"""Linked sentences: documents, sentences and links read side by side, a unit of `link` at a time, as columns.

Goes in: a unit of `link`. Comes out: its sentences and the linked mentions that lie whole inside them. Costs about 0.4 µs per
sentence and mention, and the decoding of the row group that the unit's documents lie in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays.runs import first_of_overlapping, offsets_of
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths, open_table, read_table, sized_row_ranges
from pipeline.engine.tasks import RowRange, Unit, number_units
from schemas import DOCUMENTS, IMPORTANCE, LINKS, SENTENCES, Table
from schemas.array_types import Array

PLACE_BITS = 20  # of a key: the length of a mention, longer ones count as of this length


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkedUnit:
    """D documents, S sentences in their order, M linked mentions in theirs; offsets are code points of the document."""

    doc_ids: pa.Array  # string (D,)
    texts: list[str]  # (D,)
    document: Array  # of each sentence, int64 (S,)
    start: Array  # int64 (S,)
    end: Array  # int64 (S,)
    sentence: Array  # of each mention, int64 (M,); mentions lie whole inside it, none overlap
    mention_start: Array  # int64 (M,)
    mention_end: Array  # int64 (M,)
    qid: Array  # uint32 (M,)
    num_outside: int  # linked mentions that cross the end of their sentence: left out
    num_overlapping: int  # that overlap one before them: left out

    def sentence_texts(self, numbers: Array | None = None) -> list[str]:
        """Text of each sentence, or of some."""
        columns = (self.document, self.start, self.end)
        places = zip(
            *((one if numbers is None else one[numbers]).tolist() for one in columns), strict=True
        )
        texts = self.texts
        return [texts[document][start:end] for document, start, end in places]

    def keys(self, documents: Array, starts: Array, ends: Array) -> Array:
        """A number per mention, in the order of documents and starts: the same for the same place."""
        lengths = np.minimum(ends - starts, (1 << PLACE_BITS) - 1)
        return ((_before(self.texts)[documents] + starts) << PLACE_BITS) | lengths


class LinkedReader:
    """Reads units; keeps lists of part files, and the last row group of documents: units in their order mostly share one."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._parts: dict[str, dict[str, str]] = {}
        self._group: tuple[tuple[str, int], pa.Table] | None = None

    def read(self, unit: Unit[RowRange]) -> LinkedUnit:
        """Sentences and linked mentions of one unit. Memory: its texts and 40 bytes per sentence and mention."""
        doc_ids, texts = self._documents(unit)
        sentences = self._rows("link", SENTENCES, unit, ("doc_id", "start", "end"))
        links = self._rows("link", LINKS, unit, ("doc_id", "start", "end", "qid"))
        if sentences is None or links is None:
            raise StageError(
                f"{self._paths.stage('link')}: has no {_part(unit)}; run `trelm-pipeline link --redo`"
            )
        return join_linked(doc_ids, texts, sentences, links.filter(links["qid"].is_valid()))

    def cosines(self, unit: Unit[RowRange], linked: LinkedUnit) -> Array:
        """`importance.cosine` of each mention, float32 (M,); NaN where it was not scored."""
        rows = self._rows("importance", IMPORTANCE, unit, ("doc_id", "start", "end", "cosine"))
        wanted = linked.keys(
            linked.document[linked.sentence], linked.mention_start, linked.mention_end
        )
        if rows is None or not rows.num_rows:
            return np.full(len(wanted), np.nan, np.float32)
        scored = linked.keys(*_places(rows, linked.doc_ids))
        order = np.argsort(scored, kind="stable")
        scored, values = scored[order], rows["cosine"].to_numpy()[order]
        place = np.minimum(np.searchsorted(scored, wanted), len(scored) - 1)
        return np.where(scored[place] == wanted, values[place], np.float32("nan"))

    def _documents(self, unit: Unit[RowRange]) -> tuple[pa.Array, list[str]]:
        """Ids and texts of a range of rows."""
        parts, first = [DOCUMENTS.empty().select(["doc_id", "text"])], 0
        with open_table(unit.task.path, DOCUMENTS) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                low, high = max(unit.task.start - first, 0), min(unit.task.end - first, count)
                if low < high:
                    if self._group is None or self._group[0] != (unit.task.path, group):
                        rows = file.read_row_group(group, columns=["doc_id", "text"])
                        self._group = (
                            (unit.task.path, group),
                            rows.replace_schema_metadata(parts[0].schema.metadata),
                        )
                    parts.append(self._group[1].slice(low, high - low))
                first += count
        found = pa.concat_tables(parts)
        return found["doc_id"].combine_chunks(), found["text"].to_pylist()

    def _rows(
        self, stage: str, table: Table, unit: Unit[RowRange], columns: tuple[str, ...]
    ) -> pa.Table | None:
        """Some columns of the part that a stage wrote for a unit."""
        if table.name not in self._parts:
            found = self._paths.files(stage, table)
            self._parts[table.name] = {path.rsplit("/", 1)[-1]: path for path in found}
        path = self._parts[table.name].get(_part(unit))
        return None if path is None else read_table([path], table, columns).combine_chunks()


def _part(unit: Unit[RowRange]) -> str:
    return f"part-{unit.index:05d}-of-{unit.of:05d}.parquet"


def linked_units(paths: RunPaths) -> list[Unit[RowRange]]:
    """The units that `link` worked on: ranges of documents, numbered as its part files are."""
    unit_mb = float(paths.require("link").config["unit_mb"])
    tasks = sized_row_ranges(paths.files("documents", DOCUMENTS), int(unit_mb * 1e6), DOCUMENTS)
    (units,) = number_units([tasks])
    return units


def join_linked(
    doc_ids: pa.Array, texts: list[str], sentences: pa.Table, links: pa.Table
) -> LinkedUnit:
    """Each linked mention to the sentence that it lies in.

    Args:
        doc_ids: of the unit's documents.
        texts: theirs.
        sentences: doc_id, start and end of each, in any order.
        links: doc_id, start, end and qid of each linked mention, in any order.
    """
    document, start, end = _places(sentences, doc_ids)
    order = np.lexsort((start, document))
    document, start, end = document[order], start[order], end[order]
    of_mention, mention_start, mention_end = _places(links, doc_ids)
    order = np.lexsort((-mention_end, mention_start, of_mention))
    # Documents lie one after the other, so that one search places all mentions.
    before = _before(texts)
    low, high = (
        (before[of_mention] + mention_start)[order],
        (before[of_mention] + mention_end)[order],
    )
    sentence = np.searchsorted(before[document] + start, low, side="right") - 1
    ends = np.append(
        before[document] + end, -1
    )  # the last one: of the sentence -1, before all others
    inside = np.flatnonzero(high <= ends[sentence])
    kept = inside[first_of_overlapping(low[inside], high[inside])]
    rows = order[kept]
    return LinkedUnit(
        doc_ids=doc_ids,
        texts=texts,
        document=document,
        start=start,
        end=end,
        sentence=sentence[kept],
        mention_start=mention_start[rows],
        mention_end=mention_end[rows],
        qid=links["qid"].to_numpy()[rows],
        num_outside=len(low) - len(inside),
        num_overlapping=len(inside) - len(kept),
    )


def _before(texts: list[str]) -> Array:
    """Code points before each document, were they one text with a space between two."""
    return offsets_of(np.fromiter((len(text) + 1 for text in texts), np.int64, len(texts)))


def _places(rows: pa.Table, doc_ids: pa.Array) -> tuple[Array, Array, Array]:
    """Document's number, start and end of each row, int64."""
    documents = pc.index_in(rows["doc_id"], value_set=doc_ids)
    assert documents.null_count == 0, "a part of a table names a document that is not in its unit"
    return (
        documents.to_numpy().astype(np.int64),
        rows["start"].to_numpy().astype(np.int64),
        rows["end"].to_numpy().astype(np.int64),
    )
