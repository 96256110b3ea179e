"""Read sentences of `examples` as flat columns, never row by row.

Row groups go in. Values and offsets come out as Parquet stores them, without a copy where a
window is one row group. The cost is what Arrow takes to decode the requested columns; the footer
of a file is parsed once per process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.array_types import I64, Bools
from schemas.errors import TrelmError
from schemas.shards import EXAMPLES, SPLITS
from trelm_train.data.arrays import Ragged, expand, from_lengths
from trelm_train.data.shards import RowGroup, lists_of, refuse_changed

# Legend: N sentences.

# Field of `Sentences` → column of `examples`.
COLUMNS = {
    "ids": "input_ids",
    "words": "word_starts",
    "span_start": "span_start",
    "span_end": "span_end",
    "span_entity": "span_entity_row",
    "span_policies": "span_policies",
    "fact_head": "fact_head_span",
    "fact_relation": "fact_relation_row",
    "fact_tail": "fact_tail_span",
}
# Fields whose lists must be of equal length in every row.
_PARALLEL = (
    ("span_start", "span_end", "span_entity", "span_policies"),
    ("fact_head", "fact_relation", "fact_tail"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentences:
    """Hold rows of `examples` as flat columns.

    `key_N` is the row number over all files. The span columns are parallel lists, and so are the
    fact columns. A statement states a fact of the KB that no sentence of the corpus does.
    """

    key_N: I64
    is_statement_N: Bools
    ids: Ragged
    words: Ragged
    span_start: Ragged
    span_end: Ragged
    span_entity: Ragged
    span_policies: Ragged
    fact_head: Ragged
    fact_relation: Ragged
    fact_tail: Ragged

    def __len__(self) -> int:
        return len(self.key_N)

    def take(self, rows: I64) -> Sentences:
        """Return some of the sentences, in this order."""
        columns = {}
        for name in COLUMNS:
            column: Ragged = getattr(self, name)
            # Columns may be views of a window of Arrow's memory; what is taken is a copy, so that
            # the window can go.
            columns[name] = from_lengths(column.take(rows), column.lengths(rows))

        return Sentences(
            key_N=self.key_N[rows], is_statement_N=self.is_statement_N[rows], **columns
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """Hold what an order of sentences is decided from: their row numbers, keys and lengths.

    The sentences are those of one split in some row groups; `row_N` counts within these groups.
    """

    row_N: I64
    key_N: I64
    length_N: I64


def in_file_order(groups: Sequence[RowGroup]) -> list[RowGroup]:
    """Sort row groups as they are read: file after file."""
    return sorted(groups, key=lambda group: (group.path, group.index))


def read_outline(groups: Sequence[RowGroup], split: str) -> Outline:
    """Read the three narrow columns that an order needs.

    Raises:
        TrelmError: a file is damaged, or a statement is not in the training split.
    """
    table = _read(groups, ["n_tokens", "split", "is_statement"])
    # Train and validation share row groups: rows of the other split are left out here, by number.
    row = np.flatnonzero(_equals(table["split"], split))
    # What no text states must not count as text in an evaluation.
    if split != SPLITS[0] and _flags(table["is_statement"])[row].any():
        raise TrelmError(
            f"{groups[0].path}: has statements in the {split} split, but they are for training "
            "alone; make the shards again"
        )
    length = np.from_dlpack(_single_chunk(table["n_tokens"]))[row].astype(np.int64)
    return Outline(row_N=row, key_N=_keys(groups)[row], length_N=length)


def read_rows(groups: Sequence[RowGroup]) -> Sentences:
    """Read all sentences of the row groups, of every split.

    Raises:
        TrelmError: a file is damaged, or parallel lists differ in length.
    """
    # All rows are read, since a view of a column cannot skip any: a plan names those it uses.
    table = _read(groups, [*COLUMNS.values(), "is_statement"])
    lists = {name: lists_of(table[column]) for name, column in COLUMNS.items()}

    for leader, *followers in _PARALLEL:
        # Spans and facts are looked up by one index in several columns, so lists must be of one
        # length.
        offsets = lists[leader].offsets
        if not all(np.array_equal(offsets, lists[name].offsets) for name in followers):
            raise TrelmError(
                f"{groups[0].path}: lists {leader}, {', '.join(followers)} differ in length; "
                "make the shards again"
            )

    columns = {
        name: Ragged(values=column.values, offsets=column.offsets.astype(np.int64))
        for name, column in lists.items()
    }
    is_statement_N = _flags(table["is_statement"])
    return Sentences(key_N=_keys(groups), is_statement_N=is_statement_N, **columns)


def read_sentences(groups: Sequence[RowGroup], split: str) -> Sentences:
    """Read the sentences of one split in some row groups.

    Raises:
        TrelmError: a file is damaged.
    """
    return read_rows(groups).take(read_outline(groups, split).row_N)


def sentences_from_lists(lists: dict[str, list[list[int]]]) -> Sentences:
    """Build sentences from plain lists, one per field of `Sentences`: for probes and tests.

    None is a statement. A missing field is empty; where one of its parallel fields is there, it is
    zeros instead.
    """
    count = len(lists["ids"])
    # For each parallel field: a field of its group that was passed, which lends its lengths.
    lender = {
        name: next((sibling for sibling in group if sibling in lists), "")
        for group in _PARALLEL
        for name in group
    }

    columns: dict[str, Ragged] = {}
    for field in fields(Sentences):
        name = field.name
        if name not in COLUMNS:
            continue

        rows = lists.get(name)
        if not rows:
            model_rows = lists.get(lender.get(name, ""), [[]] * count)
            rows = [[0] * len(row) for row in model_rows]

        values = np.asarray([value for row in rows for value in row], np.int64)
        columns[name] = from_lengths(values, np.asarray([len(row) for row in rows], np.int64))

    return Sentences(
        key_N=np.arange(count, dtype=np.int64),
        is_statement_N=np.zeros(count, np.bool_),
        **columns,
    )


def sentences_from_ids(ids: Ragged) -> Sentences:
    """Build sentences from their token ids alone: without words, spans and facts."""
    empty = from_lengths(np.zeros(0, np.int64), np.zeros(len(ids), np.int64))
    return Sentences(
        key_N=np.arange(len(ids), dtype=np.int64),
        is_statement_N=np.zeros(len(ids), np.bool_),
        **{name: ids if name == "ids" else empty for name in COLUMNS},
    )


def _keys(groups: Sequence[RowGroup]) -> I64:
    """Return the key of every row of the groups, in file order."""
    ordered = in_file_order(groups)
    first_row = np.asarray([group.first_row for group in ordered], np.int64)
    return expand(first_row, np.asarray([group.num_rows for group in ordered], np.int64))


def _read(groups: Sequence[RowGroup], columns: list[str]) -> pa.Table:
    """Read some columns of the groups, in file order.

    Raises:
        TrelmError: a file is damaged.
    """
    ordered = in_file_order(groups)
    tables = []

    # One call per file: it is opened once, however many of its groups are in the window.
    for path in dict.fromkeys(group.path for group in ordered):
        numbers = [group.index for group in ordered if group.path == path]
        try:
            refuse_changed(next(group for group in ordered if group.path == path))
            with pq.ParquetFile(
                path, metadata=_footer(path), read_dictionary=["split"], pre_buffer=False
            ) as file:
                tables.append(file.read_row_groups(numbers, columns=columns, use_threads=False))
        except (pa.ArrowException, OSError) as error:
            raise TrelmError(
                f"{path}: cannot be read ({error}); copy the shards again, or make them again"
            ) from error

    return pa.concat_tables(tables) if tables else EXAMPLES.empty().select(columns)


def _footer(path: Path) -> pq.FileMetaData:
    """Return the footer of a file, parsed again only after the file has changed."""
    # Size and time of change stand for the content: a file that is written again is parsed again.
    status = path.stat()
    return _parsed_footer(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _parsed_footer(path: Path, _size: int, _changed_ns: int) -> pq.FileMetaData:
    return pq.read_metadata(path)


def _single_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _flags(column: pa.ChunkedArray) -> Bools:
    """Return a column of booleans, which Arrow packs into bits, as an array."""
    # Not `to_numpy`: that imports pandas where it is installed.
    flags: Bools = np.from_dlpack(_single_chunk(column.cast(pa.uint8()))).astype(np.bool_)
    return flags


def _equals(column: pa.ChunkedArray, text: str) -> Bools:
    """Say for each row of a text column whether it is this text."""
    array = _single_chunk(column)
    coded = array if pa.types.is_dictionary(column.type) else array.dictionary_encode()

    # Compare small codes instead of texts; -1 where the text is not in the column at all.
    texts: list[str] = coded.dictionary.to_pylist()
    code = texts.index(text) if text in texts else -1
    is_equal: Bools = np.from_dlpack(coded.indices) == code
    return is_equal
