"""Turn planned sentences into batches: padded rows of tokens; words, spans and facts beside them.

Several consecutive batches are assembled at once and handed out as views, so that the cost per
token hardly depends on the size of a batch. A padded row is its sentences and one more piece, the
padding: then a single gather fills all rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.array_types import I64, Bools
from trelm_train.data.arrays import expand
from trelm_train.data.packing import PackingPlan
from trelm_train.data.sentences import Sentences

# Legend: R rows, S tokens per row, N sentences, W words, P spans, F facts, B batches, K pieces
# (sentences and paddings), T tokens of all rows; "flat" = row * S + column.


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Position:
    """Name one batch of the endless stream."""

    epoch: int = 0
    window: int = 0
    index: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Hold packed sentences as rows of tokens, with the words, spans and facts in them.

    Two sentences, one to a row; the second has a linked mention, its only word:

    >>> from trelm_train.data.sentences import sentences_from_lists
    >>> columns = {"ids": [[101, 7, 8, 102], [101, 9, 102]], "words": [[1, 2], [1]]}
    >>> spans = {"span_start": [[], [1]], "span_end": [[], [2]], "span_entity": [[], [90]]}
    >>> batch = assemble(sentences_from_lists(columns | spans), [[0], [1]], Position(), pad_id=0)
    >>> batch.input_ids_RS.tolist(), batch.segment_RS.tolist()
    ([[101, 7, 8, 102], [101, 9, 102, 0]], [[0, 0, 0, 0], [1, 1, 1, -1]])
    >>> batch.word_start_W.tolist(), batch.span_start_P.tolist(), batch.span_entity_P.tolist()
    ([1, 2, 5], [5], [90])

    Every start, end and position is flat, here row * 4 + column; a start and an end are a half-open
    pair. The arrays may be views of those of the neighbouring batches: copy before you write.
    """

    position: Position
    input_ids_RS: I64
    # Which sentence a token belongs to; -1 in the padding.
    segment_RS: I64
    # Token number within its sentence.
    offset_RS: I64
    key_N: I64
    # Whether a sentence states a fact that the corpus does not.
    is_statement_N: Bools
    # From the opening special token to one past the closing one.
    start_N: I64
    end_N: I64
    word_start_W: I64
    span_start_P: I64
    span_end_P: I64
    span_sentence_P: I64
    span_entity_P: I64
    span_policies_P: I64
    # Head and tail of a fact are indices of spans.
    fact_head_F: I64
    fact_relation_F: I64
    fact_tail_F: I64

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens that are not padding."""
        return int((self.end_N - self.start_N).sum())

    @property
    def num_padded(self) -> int:
        """Return the number of tokens with padding: what a step computes."""
        return self.input_ids_RS.size

    @property
    def span_ordinal_P(self) -> I64:
        """Number the spans within their sentence: random numbers by it ignore the packing."""
        first_span_P = np.searchsorted(self.span_sentence_P, self.span_sentence_P)
        return np.arange(len(self.span_sentence_P), dtype=np.int64) - first_span_P


@dataclass(frozen=True, kw_only=True, slots=True)
class _BatchLayout:
    """Say where sentences, rows and batches lie, in the order of the plan."""

    length_N: I64
    row_N: I64
    width_R: I64
    # Tokens of a row that are not padding.
    total_R: I64
    # Start of a sentence, counted over all batches.
    start_N: I64
    batch_N: I64
    # Where each batch starts, and the number of its first sentence.
    origin_B: I64
    first_sentence_B: I64

    @property
    def flat_N(self) -> I64:
        """Return the start of each sentence within its batch."""
        return self.start_N - self.origin_B[self.batch_N]

    @property
    def number_N(self) -> I64:
        """Number the sentences within their batch."""
        numbers = np.arange(len(self.row_N), dtype=np.int64)
        return numbers - self.first_sentence_B[self.batch_N]


@dataclass(frozen=True, kw_only=True, slots=True)
class _ListColumns:
    """Hold parallel columns over all batches, and the slice of them that is each batch's."""

    columns: tuple[I64, ...]
    slice_B: list[slice]


def assemble(sentences: Sentences, rows: list[list[int]], position: Position, pad_id: int) -> Batch:
    """Assemble one batch from rows of sentence numbers."""
    sizes = np.asarray([len(row) for row in rows], np.int64)
    plan = PackingPlan(
        sentence_N=np.asarray([number for row in rows for number in row], np.int64),
        row_begin_Q=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
        batch_begin_C=np.asarray([0, len(rows)], np.int64),
    )
    return assemble_plan(sentences, plan, position, pad_id)[0]


def assemble_plan(
    sentences: Sentences, plan: PackingPlan, start: Position, pad_id: int
) -> list[Batch]:
    """Assemble all batches of a plan.

    Args:
        sentences: that the plan's numbers count.
        plan: with at least one batch; no row and no batch is empty.
        start: the position of the first batch; the others follow in the same window.
        pad_id: what fills the rows.
    """
    layout = _lay_out(sentences, plan)
    ids_T, segment_T, offset_T = _tokens(sentences, plan.sentence_N, layout, pad_id)
    words, spans, facts = _list_columns(sentences, plan.sentence_N, layout)

    (word_start_W,) = words.columns
    span_start_P, span_end_P, span_sentence_P, entity_P, policies_P = spans.columns
    head_F, relation_F, tail_F = facts.columns
    key_N, flat_N = sentences.key_N[plan.sentence_N], layout.flat_N
    is_statement_N = sentences.is_statement_N[plan.sentence_N]
    end_N = flat_N + layout.length_N

    # Every array holds all batches; each batch takes its slice of each, a view.
    slices_of_batches = zip(
        _slices(layout.first_sentence_B, len(key_N)),
        _slices(layout.origin_B, len(ids_T)),
        words.slice_B,
        spans.slice_B,
        facts.slice_B,
        np.diff(plan.batch_begin_C).tolist(),
        strict=True,
    )
    return [
        Batch(
            position=Position(epoch=start.epoch, window=start.window, index=start.index + number),
            input_ids_RS=ids_T[token].reshape(rows, -1),
            segment_RS=segment_T[token].reshape(rows, -1),
            offset_RS=offset_T[token].reshape(rows, -1),
            key_N=key_N[sentence],
            is_statement_N=is_statement_N[sentence],
            start_N=flat_N[sentence],
            end_N=end_N[sentence],
            word_start_W=word_start_W[word],
            span_start_P=span_start_P[span],
            span_end_P=span_end_P[span],
            span_sentence_P=span_sentence_P[span],
            span_entity_P=entity_P[span],
            span_policies_P=policies_P[span],
            fact_head_F=head_F[fact],
            fact_relation_F=relation_F[fact],
            fact_tail_F=tail_F[fact],
        )
        for number, (sentence, token, word, span, fact, rows) in enumerate(slices_of_batches)
    ]


def _slices(begin_B: I64, end: int) -> list[slice]:
    """Return the slice from each beginning to the next one."""
    borders = [*begin_B.tolist(), end]
    return [slice(low, high) for low, high in zip(borders[:-1], borders[1:], strict=True)]


def _lay_out(sentences: Sentences, plan: PackingPlan) -> _BatchLayout:
    """Compute where every sentence, row and batch of a plan lies."""
    row_begin_R, batch_begin_B = plan.row_begin_Q[:-1], plan.batch_begin_C[:-1]
    length_N = sentences.ids.lengths(plan.sentence_N)
    row_N = np.repeat(np.arange(len(row_begin_R)), np.diff(plan.row_begin_Q))
    total_R = np.add.reduceat(length_N, row_begin_R)

    # A row is as wide as the longest row of its batch.
    rows_B = np.diff(plan.batch_begin_C)
    # The batch of each row, and from it the width.
    batch_R = np.repeat(np.arange(plan.num_batches), rows_B)
    width_R = np.maximum.reduceat(total_R, batch_begin_B)[batch_R]

    # A sentence starts after all tokens before it and after the paddings of all rows above.
    padding_R = width_R - total_R
    padded_before_R = np.cumsum(padding_R) - padding_R
    start_N = np.cumsum(length_N) - length_N + padded_before_R[row_N]

    origin_R = np.cumsum(width_R) - width_R
    return _BatchLayout(
        length_N=length_N,
        row_N=row_N,
        width_R=width_R,
        total_R=total_R,
        start_N=start_N,
        batch_N=batch_R[row_N],
        origin_B=origin_R[batch_begin_B],
        first_sentence_B=row_begin_R[batch_begin_B],
    )


def _tokens(
    sentences: Sentences, sentence_N: I64, layout: _BatchLayout, pad_id: int
) -> tuple[I64, I64, I64]:
    """Return token ids, sentence numbers and offsets of all rows, one after the other."""
    num_rows = len(layout.width_R)
    padding_R = layout.width_R - layout.total_R

    # Where each sentence and each padding stands among the pieces: a padding ends each row.
    piece_N = np.arange(len(sentence_N)) + layout.row_N
    sentences_R = np.bincount(layout.row_N, minlength=num_rows)
    piece_R = np.cumsum(sentences_R) + np.arange(num_rows)

    # Of each piece: its length, its start in the rows, the distance from there to its source in
    # the flat token ids, and its sentence number. Paddings stay 0 except for their length.
    length_K = np.empty(len(sentence_N) + num_rows, np.int64)
    length_K[piece_N], length_K[piece_R] = layout.length_N, padding_R
    start_K, source_K, number_K = (np.zeros(len(length_K), np.int64) for _ in range(3))
    start_K[piece_N] = layout.start_N
    source_K[piece_N] = sentences.ids.starts(sentence_N) - layout.start_N
    number_K[piece_N] = layout.number_N

    # The source of a padding may be out of range: clip it, its ids are overwritten below.
    token_T = np.arange(int(layout.width_R.sum()), dtype=np.int64)
    source_T = np.repeat(source_K, length_K)
    source_T += token_T
    ids_T = sentences.ids.values.take(source_T, mode="clip").astype(np.int64)

    # From here on `token_T` counts within the sentence.
    segment_T = np.repeat(number_K, length_K)
    token_T -= np.repeat(start_K, length_K)
    if padding_R.any():
        padding = expand(np.cumsum(layout.width_R) - padding_R, padding_R)
        ids_T[padding], segment_T[padding], token_T[padding] = pad_id, -1, 0

    return ids_T, segment_T, token_T


def _list_columns(
    sentences: Sentences, sentence_N: I64, layout: _BatchLayout
) -> tuple[_ListColumns, _ListColumns, _ListColumns]:
    """Return words, spans and facts, in the order of the fields of `Batch`."""
    flat_N, number_N = layout.flat_N, layout.number_N
    words_N, spans_N, facts_N = (
        column.lengths(sentence_N)
        for column in (sentences.words, sentences.span_start, sentences.fact_head)
    )

    # Words: from positions in the sentence to flat ones.
    word_W = sentences.words.at(expand(sentences.words.starts(sentence_N), words_N))
    word_W += np.repeat(flat_N, words_N)

    # Spans: the same, and the sentence they stand in.
    span_P = expand(sentences.span_start.starts(sentence_N), spans_N)
    flat_P = np.repeat(flat_N, spans_N)
    spans = (
        sentences.span_start.at(span_P) + flat_P,
        sentences.span_end.at(span_P) + flat_P,
        np.repeat(number_N, spans_N),
        sentences.span_entity.at(span_P),
        sentences.span_policies.at(span_P),
    )

    # Facts name spans of their sentence: add the spans of the batch that come before it.
    fact_F = expand(sentences.fact_head.starts(sentence_N), facts_N)
    before_N = np.cumsum(spans_N) - spans_N
    before_batch_B = before_N[layout.first_sentence_B]
    before_F = np.repeat(before_N - before_batch_B[layout.batch_N], facts_N)
    facts = (
        sentences.fact_head.at(fact_F) + before_F,
        sentences.fact_relation.at(fact_F),
        sentences.fact_tail.at(fact_F) + before_F,
    )

    words_B, spans_B, facts_B = (
        _slices((np.cumsum(sizes) - sizes)[layout.first_sentence_B], int(sizes.sum()))
        for sizes in (words_N, spans_N, facts_N)
    )
    return (
        _ListColumns(columns=(word_W,), slice_B=words_B),
        _ListColumns(columns=spans, slice_B=spans_B),
        _ListColumns(columns=facts, slice_B=facts_B),
    )
