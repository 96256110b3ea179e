"""Rows of `examples` from the linked sentences of a unit, as flat columns: no Python object per token, span or row.

Goes in: a unit's sentences and mentions, their cosines, what is looked up of the knowledge. Comes out: rows in the order of the
sentences, each with its key in the shuffled order, and what became of every linked mention, counted.

Legend: D documents, S sentences, T tokens of all of them laid end to end, W windows, P spans.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.arrays.runs import first_of_overlapping
from pipeline.config import ShardsConfig
from pipeline.encoder.tokenizer import TextTokenizer, TokenRuns
from pipeline.link.linked_sentences import LinkedUnit
from pipeline.shards.facts import facts_between
from pipeline.shards.knowledge_lookup import KnowledgeLookup
from pipeline.shards.policies import PolicyLimits, policy_bits
from pipeline.shards.windows import document_hash, in_validation, shuffle_keys, window_bounds
from schemas import EXAMPLES
from schemas.array_types import Array
from schemas.shards import POLICY_BITS, SPLITS
from schemas.table import list_of

KEY = "shuffle_key"
KEYED_SCHEMA = pa.schema([*EXAMPLES.schema, pa.field(KEY, pa.uint64(), nullable=False)])
SPECIAL_TOKENS = 2  # the opening one and the closing one of each row


@dataclass(frozen=True, kw_only=True, slots=True)
class Spans:
    """Linked mentions as half-open token numbers, counted over all sentences; in order, none sharing a token. All (P,)."""

    start: Array  # int64
    end: Array  # int64
    entity_row: Array  # int64
    frequency: Array  # int64
    cosine: Array  # float32
    policies: Array  # uint16

    def take(self, which: Array) -> Spans:
        """Some of them, by a mask or by numbers."""
        return Spans(
            start=self.start[which],
            end=self.end[which],
            entity_row=self.entity_row[which],
            frequency=self.frequency[which],
            cosine=self.cosine[which],
            policies=self.policies[which],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RowMaker:
    """What all units share."""

    config: ShardsConfig
    tokenizer: TextTokenizer
    frame: tuple[int, int]  # ids of the opening and the closing special token
    lookup: KnowledgeLookup
    limits: PolicyLimits

    def rows(self, linked: LinkedUnit, cosines: Array, counters: Counter[str]) -> pa.Table:
        """Rows of a unit, in the order of its sentences (`KEYED_SCHEMA`)."""
        has_mention = np.bincount(linked.sentence, minlength=len(linked.start)) > 0
        width = self.config.max_tokens - SPECIAL_TOKENS
        tokens = self.tokenizer.encode_runs(linked.sentence_texts(), has_mention, width)
        spans = self._spans(linked, cosines, tokens, counters)
        bounds = window_bounds(tokens.offsets, tokens.starts_word, (spans.start, spans.end), width)
        fits = spans.end - spans.start <= width
        num_empty = int((np.diff(tokens.offsets) == 0).sum())
        counters.update(rows_in=len(linked.start), rows_out=len(linked.start) - num_empty)
        counters.update(
            skipped_without_tokens=num_empty, windows=len(bounds) - 1, tokens=len(tokens.ids)
        )
        counters.update(spans_too_long=int((~fits).sum()), spans_out=int(fits.sum()))
        return self._table(linked, tokens, bounds, spans.take(fits))

    def _spans(
        self, linked: LinkedUnit, cosines: Array, tokens: TokenRuns, counters: Counter[str]
    ) -> Spans:
        shift = linked.start[linked.sentence]
        first, last = tokens.spans(
            linked.sentence, linked.mention_start - shift, linked.mention_end - shift
        )
        rows = self.lookup.rows_of(linked.qid)
        is_known = rows >= 0
        frequency, reach = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        frequency[is_known] = self.lookup.frequency[rows[is_known]]
        reach[is_known] = self.lookup.reach[rows[is_known]]
        bits = policy_bits(linked.sentence, cosines, frequency, reach, self.limits)
        asked = np.uint16(sum(POLICY_BITS.get(policy, 0) for policy in set(self.config.policies)))
        has_tokens = first < last
        found = np.flatnonzero(has_tokens & is_known)
        kept = found[first_of_overlapping(first[found], last[found])]
        counters.update(spans_in=len(rows) + linked.num_outside + linked.num_overlapping)
        counters.update(
            spans_outside_sentence=linked.num_outside, spans_overlapping=linked.num_overlapping
        )
        counters.update(spans_without_tokens=int((~has_tokens).sum()))
        counters.update(spans_without_entity=int((has_tokens & ~is_known).sum()))
        counters.update(spans_sharing_token=len(found) - len(kept))
        return Spans(
            start=first,
            end=last,
            entity_row=rows,
            frequency=frequency,
            cosine=cosines,
            policies=bits & asked,
        ).take(kept)

    def _table(
        self, linked: LinkedUnit, tokens: TokenRuns, bounds: Array, spans: Spans
    ) -> pa.Table:
        """One row per window; token 0 of a row is the opening special token."""
        sentence = np.searchsorted(tokens.offsets, bounds[:-1], side="right") - 1
        starts = linked.start[sentence]
        later = np.flatnonzero(bounds[:-1] > tokens.offsets[sentence])
        starts[later] += tokens.start_of(sentence[later], bounds[:-1][later])
        document = linked.document[sentence]
        hashes = np.array(
            [document_hash(one, self.config.seed) for one in linked.doc_ids.to_pylist()], np.uint64
        )
        is_validation = in_validation(hashes, self.config.validation_share)[document]
        columns = {
            "doc_id": linked.doc_ids.take(pa.array(document)),
            "sentence_start": pa.array(starts, pa.uint32()),
            "input_ids": _framed(tokens.ids, bounds, self.frame),
            "word_starts": _word_starts(tokens.starts_word, bounds),
            "n_tokens": pa.array(np.diff(bounds) + SPECIAL_TOKENS, pa.uint16()),
            "split": pa.array(SPLITS).take(pa.array(is_validation.astype(np.int8))),
            KEY: pa.array(shuffle_keys(hashes[document], starts)),
            **_span_columns(spans, bounds),
            **self._fact_columns(spans, bounds),
        }
        return pa.Table.from_arrays(
            [columns[name] for name in KEYED_SCHEMA.names], schema=KEYED_SCHEMA
        )

    def _fact_columns(self, spans: Spans, bounds: Array) -> dict[str, pa.Array]:
        window = np.searchsorted(bounds, spans.start, side="right") - 1
        first_span = np.searchsorted(spans.start, bounds)
        facts = facts_between(window, spans.entity_row, self.lookup.facts)
        shift = first_span[window[facts.head]]
        offsets = np.searchsorted(facts.head, first_span)
        return {
            "fact_head_span": _lists(offsets, facts.head - shift, pa.uint16()),
            "fact_relation_row": _lists(offsets, facts.relation, pa.uint32()),
            "fact_tail_span": _lists(offsets, facts.tail - shift, pa.uint16()),
        }


def _framed(ids: Array, bounds: Array, frame: tuple[int, int]) -> pa.Array:
    """Each window's ids between the opening and the closing special token."""
    offsets = bounds + SPECIAL_TOKENS * np.arange(len(bounds))
    values = np.empty(int(offsets[-1]), np.uint32)
    is_inner = np.ones(len(values), np.bool_)
    for places, token in ((offsets[:-1], frame[0]), (offsets[1:] - 1, frame[1])):
        values[places] = token
        is_inner[places] = False
    values[is_inner] = ids
    return _lists(offsets, values, pa.uint32())


def _word_starts(starts_word: Array, bounds: Array) -> pa.Array:
    """Places in each row where a word starts; a window that begins within a word begins one."""
    is_start = starts_word.copy()
    is_start[bounds[:-1]] = True
    places = np.flatnonzero(is_start)
    offsets = np.searchsorted(places, bounds)
    return _lists(offsets, places - np.repeat(bounds[:-1], np.diff(offsets)) + 1, pa.uint16())


def _span_columns(spans: Spans, bounds: Array) -> dict[str, pa.Array]:
    offsets = np.searchsorted(spans.start, bounds)
    shift = np.repeat(bounds[:-1], np.diff(offsets)) - 1
    return {
        "span_start": _lists(offsets, spans.start - shift, pa.uint16()),
        "span_end": _lists(offsets, spans.end - shift, pa.uint16()),
        "span_entity_row": _lists(offsets, spans.entity_row, pa.uint32()),
        "span_frequency": _lists(offsets, spans.frequency, pa.uint32()),
        "span_cosine": _lists(offsets, spans.cosine, pa.float32()),
        "span_policies": _lists(offsets, spans.policies, pa.uint16()),
    }


def _lists(offsets: Array, values: Array, kind: pa.DataType) -> pa.Array:
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(values, kind), type=list_of(kind)
    )
