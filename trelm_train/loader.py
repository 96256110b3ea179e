"""Shards to packed batches, in an order that is a pure function of (seed, epoch, index).

1. Row groups are shuffled per epoch and read in windows of about `WINDOW_ROWS` rows, as flat columns (never row by row).
2. The rows of a window are shuffled and packed best-fit into rows of at most `max_tokens` tokens, block-diagonal later.
3. Packed rows become batches of at most `batch_tokens` padded tokens; spans, words and facts move to flat positions.

A position (epoch, window, index) names a batch, so a run resumes at any batch without saved reader state. Cost: one
window in memory, about 25 million tokens per second and core without the masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.shards import EXAMPLES
from trelm_train.arrays import I64, Ragged, expand, from_lengths
from trelm_train.errors import TrelmError
from trelm_train.knowledge import ragged
from trelm_train.shards import RowGroup, Shards

# Legend: R packed rows, S tokens per packed row, N sentences, W words, P spans, F facts; "flat" = row * S + column.

WINDOW_ROWS = 8192
OPEN_ROWS = 64
_COLUMNS = (
    "input_ids", "word_starts", "split", "span_start", "span_end", "span_entity_row", "span_policies", "fact_head_span",
    "fact_relation_row", "fact_tail_span",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Position:
    """Names one batch of the endless stream."""

    epoch: int = 0
    window: int = 0
    index: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentences:
    """Rows of `examples` as flat columns; `key` is the row number over all files."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Packed sentences; every start, end and position is flat, half-open where it is a pair."""

    position: Position
    input_ids_RS: I64
    segment_RS: I64  # which sentence a token belongs to; -1: padding
    offset_RS: I64  # token number within its sentence
    key_N: I64
    start_N: I64  # opening special token
    end_N: I64  # one past the closing special token
    word_start_W: I64
    span_start_P: I64
    span_end_P: I64
    span_sentence_P: I64
    span_entity_P: I64
    span_policies_P: I64
    fact_head_F: I64  # index of a span
    fact_relation_F: I64
    fact_tail_F: I64  # index of a span

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.end_N - self.start_N).sum())

    @property
    def span_ordinal_P(self) -> I64:
        """Number of each span within its sentence, for random numbers that do not depend on the packing."""
        first = np.searchsorted(self.span_sentence_P, self.span_sentence_P)
        return np.arange(len(self.span_sentence_P), dtype=np.int64) - first


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How sentences become batches."""

    max_tokens: int
    batch_tokens: int
    limit: int  # of the model's positions


def read_sentences(groups: list[RowGroup], split: str) -> Sentences:
    """The sentences of one split in some row groups."""
    tables, keys = [], []
    for path in sorted({group.path for group in groups}):
        chosen = sorted((group for group in groups if group.path == path), key=lambda group: group.index)
        table = _read(path, [group.index for group in chosen])
        key = expand(
            np.asarray([group.first_row for group in chosen], np.int64),
            np.asarray([group.num_rows for group in chosen], np.int64),
        )
        wanted = pc.equal(table["split"], split)
        tables.append(table.filter(wanted))
        keys.append(key[np.array(wanted, np.bool_)])
    table = pa.concat_tables(tables) if tables else EXAMPLES.empty()
    return Sentences(
        key_N=np.concatenate(keys).astype(np.int64) if keys else np.zeros(0, np.int64),
        ids=ragged(table["input_ids"]),
        words=ragged(table["word_starts"]),
        span_start=ragged(table["span_start"]),
        span_end=ragged(table["span_end"]),
        span_entity=ragged(table["span_entity_row"]),
        span_policies=ragged(table["span_policies"]),
        fact_head=ragged(table["fact_head_span"]),
        fact_relation=ragged(table["fact_relation_row"]),
        fact_tail=ragged(table["fact_tail_span"]),
    )


def _read(path: Path, row_groups: list[int]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read_row_groups(row_groups, columns=list(_COLUMNS))
    except (pa.ArrowException, OSError) as error:
        raise TrelmError(f"{path}: cannot be read ({error}); copy the shards again, or make them again") from error


def pack(lengths: I64, capacity: int) -> list[list[int]]:
    """Best-fit packing in the given order, with a bounded number of open rows.

    A sentence longer than the capacity gets a row of its own.
    """
    by_room: dict[int, list[list[int]]] = {}
    open_rows, done = 0, []
    for item, length in enumerate(lengths.tolist()):
        room = min((room for room in by_room if room >= length), default=None)
        if room is None:
            row: list[int] = []
            room = capacity
            open_rows += 1
        else:
            row = _pop(by_room, room)
        row.append(item)
        if room - length <= 0:
            done.append(row)
            open_rows -= 1
        else:
            by_room.setdefault(room - length, []).append(row)
        if open_rows > OPEN_ROWS:
            done.append(_pop(by_room, min(by_room)))
            open_rows -= 1
    for room in sorted(by_room):
        done += by_room[room]
    return done


def _pop(by_room: dict[int, list[list[int]]], room: int) -> list[int]:
    rows = by_room[room]
    row = rows.pop(0)
    if not rows:
        del by_room[room]
    return row


def plan_batches(lengths: I64, packing: Packing) -> list[list[list[int]]]:
    """Batches of packed rows; rows of similar width share a batch, so that one long sentence widens few others."""
    width_to_rows: dict[int, list[list[int]]] = {}
    for row in pack(lengths, packing.max_tokens):
        width = int(lengths[row].sum())
        width_to_rows.setdefault(-(-width // packing.max_tokens), []).append(row)
    batches = []
    for width, rows in sorted(width_to_rows.items()):
        per_batch = max(1, packing.batch_tokens // (width * packing.max_tokens))
        batches += [rows[i : i + per_batch] for i in range(0, len(rows), per_batch)]
    return batches


def assemble(sentences: Sentences, rows: list[list[int]], position: Position, pad_id: int) -> Batch:
    """One batch from packed rows of sentence numbers."""
    order = np.asarray([item for row in rows for item in row], np.int64)
    row_of = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    lengths = sentences.ids.lengths(order)
    ends = np.cumsum(lengths)
    row_totals = np.bincount(row_of, weights=lengths, minlength=len(rows)).astype(np.int64)
    width = int(row_totals.max(initial=1))
    column = ends - lengths - (np.cumsum(row_totals) - row_totals)[row_of]
    start = row_of * width + column
    shape = (len(rows), width)
    flat = expand(start, lengths)
    ids = np.full(shape, pad_id, np.int64)
    ids.reshape(-1)[flat] = sentences.ids.take(order)
    segment = np.full(shape, -1, np.int64)
    segment.reshape(-1)[flat] = np.repeat(np.arange(len(order)), lengths)
    offset = np.zeros(shape, np.int64)
    offset.reshape(-1)[flat] = expand(np.zeros(len(order), np.int64), lengths)
    spans = sentences.span_start.lengths(order)
    facts = sentences.fact_head.lengths(order)
    span_shift = np.repeat(start, spans)
    fact_shift = np.repeat(np.cumsum(spans) - spans, facts)
    return Batch(
        position=position,
        input_ids_RS=ids,
        segment_RS=segment,
        offset_RS=offset,
        key_N=sentences.key_N[order],
        start_N=start,
        end_N=start + lengths,
        word_start_W=sentences.words.take(order) + np.repeat(start, sentences.words.lengths(order)),
        span_start_P=sentences.span_start.take(order) + span_shift,
        span_end_P=sentences.span_end.take(order) + span_shift,
        span_sentence_P=np.repeat(np.arange(len(order)), spans),
        span_entity_P=sentences.span_entity.take(order),
        span_policies_P=sentences.span_policies.take(order),
        fact_head_F=sentences.fact_head.take(order) + fact_shift,
        fact_relation_F=sentences.fact_relation.take(order),
        fact_tail_F=sentences.fact_tail.take(order) + fact_shift,
    )


def windows_of(groups: list[RowGroup]) -> list[list[RowGroup]]:
    """Consecutive row groups, together about `WINDOW_ROWS` rows."""
    windows: list[list[RowGroup]] = []
    room = 0
    for group in groups:
        if room <= 0:
            windows.append([])
            room = WINDOW_ROWS
        windows[-1].append(group)
        room -= group.num_rows
    return windows


class BatchStream:
    """The endless stream of training batches of one shards folder."""

    def __init__(self, shards: Shards, packing: Packing, *, seed: int, pad_id: int) -> None:
        self.shards, self.packing, self.seed, self.pad_id = shards, packing, seed, pad_id
        self._cache: dict[tuple[int, int], tuple[Sentences, list[list[list[int]]]]] = {}
        windows = self._windows(0)
        if not any(len(self._window(0, number)[0]) for number in range(len(windows))):
            raise TrelmError(f"{shards.path}: no training sentence in these shards; was the corpus empty?")

    def _windows(self, epoch: int) -> list[list[RowGroup]]:
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.shards.row_groups))
        return windows_of([self.shards.row_groups[number] for number in order.tolist()])

    def _window(self, epoch: int, window: int) -> tuple[Sentences, list[list[list[int]]]]:
        if (epoch, window) not in self._cache:
            sentences = read_sentences(self._windows(epoch)[window], "train")
            rng = np.random.default_rng([self.seed, 2, epoch, window])
            shuffled = rng.permutation(len(sentences))
            lengths = sentences.ids.lengths(shuffled)
            check_lengths(lengths, self.packing, self.shards)
            batches = [[shuffled[row].tolist() for row in batch] for batch in plan_batches(lengths, self.packing)]
            rng.shuffle(batches)
            if len(self._cache) > 1:  # the training loop and the look ahead of the router
                del self._cache[min(self._cache)]
            self._cache[epoch, window] = (sentences, batches)
        return self._cache[epoch, window]

    def iterate(self, position: Position) -> Iterator[tuple[Batch, Position]]:
        """Batches from `position` on, each with the position that follows it."""
        epoch, window, index = position.epoch, position.window, position.index
        while True:
            if window >= len(self._windows(epoch)):
                epoch, window, index = epoch + 1, 0, 0
            sentences, batches = self._window(epoch, window)
            while index < len(batches):
                here = Position(epoch=epoch, window=window, index=index)
                index += 1
                yield (
                    assemble(sentences, batches[index - 1], here, self.pad_id),
                    Position(epoch=epoch, window=window, index=index),
                )
            window, index = window + 1, 0


def check_lengths(lengths: I64, packing: Packing, shards: Shards) -> None:
    """Refuse sentences that the model has no positions for.

    Raises:
        TrelmError: names the longest sentence and the limit.
    """
    longest = int(lengths.max(initial=0))
    if longest > packing.limit:
        raise TrelmError(
            f"{shards.path}: a sentence of {longest} tokens, but the model takes {packing.limit}; "
            "make the shards again with this model, or with shorter windows"
        )


def split_batches(shards: Shards, packing: Packing, split: str, pad_id: int) -> Iterator[Batch]:
    """Every sentence of a split once, in file order."""
    for window, groups in enumerate(windows_of(list(shards.row_groups))):
        sentences = read_sentences(groups, split)
        lengths = sentences.ids.lengths(np.arange(len(sentences)))
        check_lengths(lengths, packing, shards)
        for index, rows in enumerate(plan_batches(lengths, packing)):
            yield assemble(sentences, rows, Position(window=window, index=index), pad_id)


def sentences_from_lists(lists: dict[str, list[list[int]]]) -> Sentences:
    """Sentences from plain lists (one per field of `Sentences`; missing ones are empty): for probes and tests."""
    count = len(lists["ids"])
    parts: dict[str, Ragged] = {}
    for field in fields(Sentences):
        if field.name != "key_N":
            rows = lists.get(field.name, [[] for _ in range(count)])
            values = np.asarray([value for row in rows for value in row], np.int64)
            parts[field.name] = from_lengths(values, np.asarray([len(row) for row in rows], np.int64))
    return Sentences(key_N=np.arange(count, dtype=np.int64), **parts)


__all__ = [
    "Batch", "BatchStream", "Packing", "Position", "Sentences", "assemble", "check_lengths", "pack",
    "plan_batches", "read_sentences", "sentences_from_lists", "split_batches",
]  # fmt: skip
