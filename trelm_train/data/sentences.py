"""Sentences of `examples` as flat columns, never row by row.

Goes in: row groups. Comes out: values and offsets as Parquet stores them, without a copy where a window is one row group.
Costs what Arrow takes to decode the columns that are asked for; a file's footer is parsed once per process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.array_types import I64
from schemas.shards import EXAMPLES
from trelm_train.data.arrays import Ragged, expand, from_lengths
from trelm_train.data.shards import RowGroup, lists_of
from trelm_train.errors import TrelmError

# Legend: N sentences.

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
_PARALLEL = (
    ("span_start", "span_end", "span_entity", "span_policies"),
    ("fact_head", "fact_relation", "fact_tail"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentences:
    """Rows of `examples` as flat columns; `key` is the row number over all files. Those of spans and of facts are parallel."""

    key_N: I64
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
        """Some of them, in this order."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        taken = {
            name: from_lengths(column.take(rows), column.lengths(rows))
            for name, column in columns.items()
        }
        return Sentences(key_N=self.key_N[rows], **taken)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """What an order is made of: the sentences of one split in some row groups, as row numbers within these, keys, lengths."""

    row_N: I64
    key_N: I64
    length_N: I64


def in_file_order(groups: Sequence[RowGroup]) -> list[RowGroup]:
    """Row groups as they are read: file after file."""
    return sorted(groups, key=lambda group: (group.path, group.index))


def read_outline(groups: Sequence[RowGroup], split: str) -> Outline:
    """Two narrow columns of the row groups.

    Raises:
        TrelmError: a file is damaged.
    """
    table = _read(groups, ["n_tokens", "split"])
    row = np.flatnonzero(_is(table["split"], split))
    length = np.from_dlpack(_one(table["n_tokens"]))[row].astype(np.int64)
    return Outline(row_N=row, key_N=_keys(groups)[row], length_N=length)


def read_rows(groups: Sequence[RowGroup]) -> Sentences:
    """All sentences of the row groups, of whatever split.

    Raises:
        TrelmError: a file is damaged, or parallel lists differ in length.
    """
    table = _read(groups, list(COLUMNS.values()))
    lists = {name: lists_of(table[column]) for name, column in COLUMNS.items()}
    for first, *others in _PARALLEL:
        if not all(np.array_equal(lists[first].offsets, lists[other].offsets) for other in others):
            raise TrelmError(
                f"{groups[0].path}: lists {first}, {', '.join(others)} differ in length; make the shards again"
            )
    columns = {
        name: Ragged(values=found.values, offsets=found.offsets.astype(np.int64))
        for name, found in lists.items()
    }
    return Sentences(key_N=_keys(groups), **columns)


def read_sentences(groups: Sequence[RowGroup], split: str) -> Sentences:
    """The sentences of one split in some row groups.

    Raises:
        TrelmError: a file is damaged.
    """
    return read_rows(groups).take(read_outline(groups, split).row_N)


def sentences_from_lists(lists: dict[str, list[list[int]]]) -> Sentences:
    """Sentences from plain lists (one per field of `Sentences`): for probes and tests.

    What is missing is empty, or zeros where a parallel list is there.
    """
    count = len(lists["ids"])
    twin = {
        name: next((other for other in group if other in lists), "")
        for group in _PARALLEL
        for name in group
    }
    parts: dict[str, Ragged] = {}
    for field in fields(Sentences):
        name = field.name
        if name != "key_N":
            rows = lists.get(name) or [
                [0] * len(row) for row in lists.get(twin.get(name, ""), [[]] * count)
            ]
            values = np.asarray([value for row in rows for value in row], np.int64)
            parts[name] = from_lengths(values, np.asarray([len(row) for row in rows], np.int64))
    return Sentences(key_N=np.arange(count, dtype=np.int64), **parts)


def _keys(groups: Sequence[RowGroup]) -> I64:
    ordered = in_file_order(groups)
    first = np.asarray([group.first_row for group in ordered], np.int64)
    return expand(first, np.asarray([group.num_rows for group in ordered], np.int64))


def _read(groups: Sequence[RowGroup], columns: list[str]) -> pa.Table:
    ordered = in_file_order(groups)
    tables = []
    for path in dict.fromkeys(group.path for group in ordered):
        numbers = [group.index for group in ordered if group.path == path]
        try:
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
    status = path.stat()
    return _parsed_footer(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _parsed_footer(path: Path, _size: int, _changed_ns: int) -> pq.FileMetaData:
    return pq.read_metadata(path)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _is(column: pa.ChunkedArray, text: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    coded = (
        _one(column) if pa.types.is_dictionary(column.type) else _one(column).dictionary_encode()
    )
    known: list[str] = coded.dictionary.to_pylist()
    code = known.index(text) if text in known else -1
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = np.from_dlpack(coded.indices) == code
    return found
