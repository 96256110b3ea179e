"""Turn facts that no sentence states into rows of `examples`, as far as there is room.

Goes in: facts in the order of their preference, with knowledge rows and labels; the room in
tokens. Comes out: a row per statement, with its key in the shuffled order, and counts of what
became of every fact. Costs what the tokenizer takes.

Shapes: N facts, K statements, T tokens of all statements laid end to end. A suffix 2 is an axis of
both ends of a fact: subject, object.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.arrays.runs import offsets_of, spread
from pipeline.config import ShardsConfig
from pipeline.encoder.tokenizer import TextTokenizer, TokenRuns
from pipeline.shards.knowledge_lookup import KnowledgeLookup
from pipeline.shards.policies import PolicyLimits, policy_bits, requested_bits
from pipeline.shards.row_columns import (
    KEY,
    KEYED_SCHEMA,
    SPECIAL_TOKENS,
    TokenSpans,
    framed,
    lists,
    span_columns,
    word_starts,
)
from pipeline.shards.statement_text import FactNames, StatementTemplates, written
from pipeline.shards.windows import document_hash, shuffle_keys
from schemas.array_types import I64, U32, Array, Bools
from schemas.shards import SPLITS

# A fact that no sentence states: what the statement's row is made of.
FACT_SCHEMA = pa.schema(
    [
        pa.field("subject", pa.uint32()),
        pa.field("predicate", pa.uint32()),
        pa.field("object", pa.uint32()),
        pa.field("subject_label", pa.string()),
        pa.field("relation_label", pa.string()),
        pa.field("object_label", pa.string()),
        # Rows of `knowledge`.
        pa.field("subject_row", pa.uint32()),
        pa.field("relation_row", pa.uint32()),
        pa.field("object_row", pa.uint32()),
        # Mentions in the corpus.
        pa.field("subject_mentions", pa.uint64()),
        pa.field("object_mentions", pa.uint64()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tokens:
    """Hold the tokens of statements end to end, without special tokens."""

    # Shape (T,) each.
    ids: U32
    starts_word: Bools
    # Shape (K + 1,): statement i has the tokens bounds[i] to bounds[i + 1].
    bounds: I64


@dataclass(frozen=True, kw_only=True, slots=True)
class StatementMaker:
    """Make the rows of statements, with what all facts share."""

    config: ShardsConfig
    tokenizer: TextTokenizer
    lookup: KnowledgeLookup
    limits: PolicyLimits
    templates: StatementTemplates

    def rows(self, facts: pa.Table, room: int, counters: Counter[str]) -> pa.Table:
        """Return the rows of the first facts that fit into the room (`KEYED_SCHEMA`).

        Args:
            facts: `FACT_SCHEMA`, those that are preferred first.
            room: tokens of all rows together, special tokens counted.
            counters: receives what became of the facts; those after the end of the room are not
                counted.
        """
        names = [FactNames(*values) for values in zip(*_text_columns(facts), strict=True)]
        statements = [written(name, self.templates, self.config.seed) for name in names]
        tokens = self.tokenizer.encode_runs(
            [statement.text for statement in statements], np.ones(len(statements), np.bool_)
        )
        points = [(statement.subject, statement.object) for statement in statements]
        starts_N2, ends_N2 = _token_spans(tokens, np.array(points, np.int64).reshape(-1, 2, 2))

        # A fact serves where both ends have tokens of their own, and a row holds all of it: a
        # window would tear the fact apart.
        size_N = np.diff(tokens.offsets)
        is_short_N = size_N <= self.config.max_tokens - SPECIAL_TOKENS
        is_apart_N = (starts_N2 < ends_N2).all(axis=1) & (
            (ends_N2[:, 0] <= starts_N2[:, 1]) | (ends_N2[:, 1] <= starts_N2[:, 0])
        )
        serves_N = is_short_N & is_apart_N

        # The sum never falls: the first fact without room ends all.
        used_N = np.cumsum(np.where(serves_N, size_N + SPECIAL_TOKENS, 0))
        has_room_N = used_N <= room
        chosen = np.flatnonzero(serves_N & has_room_N)
        counters.update(
            statements=len(chosen),
            statement_tokens=int((size_N[chosen] + SPECIAL_TOKENS).sum()),
            statements_too_long=int((has_room_N & ~is_short_N).sum()),
            statements_without_tokens=int((has_room_N & is_short_N & ~is_apart_N).sum()),
        )
        return self._table(
            facts.take(pa.array(chosen)),
            [names[number].statement_id for number in chosen.tolist()],
            _laid_out(tokens, chosen),
            (starts_N2[chosen], ends_N2[chosen]),
        )

    def _table(
        self, facts: pa.Table, ids: list[str], tokens: _Tokens, spans: tuple[I64, I64]
    ) -> pa.Table:
        """Return the row of each statement; its spans are counted within it, from its first token."""
        starts_K2, ends_K2 = spans
        bounds_K1 = tokens.bounds
        shift_K2 = bounds_K1[:-1, np.newaxis]

        # Spans are in the order of the text: the object may come first.
        order_K2 = np.argsort(starts_K2, axis=1)
        ordered = TokenSpans(
            start=_ravelled(starts_K2 + shift_K2, order_K2),
            end=_ravelled(ends_K2 + shift_K2, order_K2),
            **self._entity_columns(facts, order_K2),
        )

        hashes_K = np.array([document_hash(name, self.config.seed) for name in ids], np.uint64)
        one_each_K1 = np.arange(len(ids) + 1)
        columns = {
            "doc_id": pa.array(ids, pa.string()),
            "sentence_start": pa.array(np.zeros(len(ids)), pa.uint32()),
            "input_ids": framed(tokens.ids, bounds_K1, self.tokenizer.frame),
            "word_starts": word_starts(tokens.starts_word, bounds_K1),
            "n_tokens": pa.array(np.diff(bounds_K1) + SPECIAL_TOKENS, pa.uint16()),
            "split": pa.array([SPLITS[0]] * len(ids), pa.string()),
            KEY: pa.array(shuffle_keys(hashes_K, np.zeros(len(ids), np.int64))),
            **span_columns(ordered, bounds_K1),
            # Only this fact: the text states no other between the two.
            "fact_head_span": lists(one_each_K1, order_K2[:, 0], pa.uint16()),
            "fact_relation_row": lists(one_each_K1, facts["relation_row"].to_numpy(), pa.uint32()),
            "fact_tail_span": lists(one_each_K1, order_K2[:, 1], pa.uint16()),
            "is_statement": pa.array(np.ones(len(ids), np.bool_)),
        }
        arrays = [columns[name] for name in KEYED_SCHEMA.names]
        return pa.Table.from_arrays(arrays, schema=KEYED_SCHEMA)

    def _entity_columns(self, facts: pa.Table, order_K2: I64) -> dict[str, Array]:
        """Return what `TokenSpans` holds of each span's entity."""
        row_P, frequency_P = (
            _ravelled(
                np.stack([facts[f"{end}_{column}"].to_numpy() for end in ("subject", "object")], 1),
                order_K2,
            ).astype(np.int64)
            for column in ("row", "mentions")
        )
        # An entity that the corpus does not mention has no row in the lookup: nothing is injected.
        is_linked_P = row_P < len(self.lookup.reach)
        reach_P = np.zeros(len(row_P), np.int64)
        reach_P[is_linked_P] = self.lookup.reach[row_P[is_linked_P]]

        # No statement was scored, so frequency alone decides.
        cosine_P = np.full(len(row_P), np.nan, np.float32)
        statement_P = np.repeat(np.arange(len(order_K2)), 2)
        bits_P = policy_bits(statement_P, cosine_P, frequency_P, reach_P, self.limits)
        return {
            "entity_row": row_P,
            "frequency": frequency_P,
            "cosine": cosine_P,
            # A statement is made of its items, not found in a text.
            "confidence": np.ones(len(row_P), np.float32),
            "policies": bits_P & requested_bits(self.config.policies),
        }


def _text_columns(facts: pa.Table) -> list[list[Any]]:
    """Return the columns that `FactNames` has, as Python lists."""
    return [facts[field.name].to_pylist() for field in dataclasses.fields(FactNames)]


def _token_spans(tokens: TokenRuns, points_N22: I64) -> tuple[I64, I64]:
    """Return the tokens of both ends of each fact, counted from the statement's first token.

    Args:
        tokens: of all statements.
        points_N22: code points in the statement; the last axis is start and end.

    Returns:
        First tokens and ends, shape (N, 2) each.
    """
    text_N2 = np.repeat(np.arange(len(points_N22)), 2)
    starts, ends = tokens.spans(text_N2, points_N22[..., 0].ravel(), points_N22[..., 1].ravel())
    first_N2 = tokens.offsets[text_N2]
    return (starts - first_N2).reshape(-1, 2), (ends - first_N2).reshape(-1, 2)


def _laid_out(tokens: TokenRuns, chosen: I64) -> _Tokens:
    """Return the tokens of some statements, end to end again."""
    size_K = np.diff(tokens.offsets)[chosen]
    positions_T = spread(tokens.offsets[chosen], size_K)
    return _Tokens(
        ids=tokens.ids[positions_T],
        starts_word=tokens.starts_word[positions_T],
        bounds=offsets_of(size_K),
    )


def _ravelled(values_K2: Array, order_K2: I64) -> Array:
    """Return the values of both ends, in the order of the text, statement after statement."""
    return np.take_along_axis(values_K2, order_K2, axis=1).ravel()
