"""Turn the linked sentences of a unit into rows of `examples`, as flat columns.

No Python object is created per token, span or row. Goes in: a unit's sentences and mentions, their
cosines, the lookup of the
knowledge. Comes out: rows in the order of the sentences, each with its key in the shuffled order,
and counts of what became of every linked mention.

Shapes: D documents, S sentences, T tokens of all sentences laid end to end, W windows, M linked
mentions, P spans, F facts. A suffix such as W1 stands for W + 1: the bounds of windows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays.runs import first_of_overlapping
from pipeline.config import ShardsConfig
from pipeline.encoder.tokenizer import TextTokenizer, TokenRuns
from pipeline.link.linked_sentences import LinkedUnit
from pipeline.shards.facts import facts_between
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
from pipeline.shards.windows import document_hash, in_validation, shuffle_keys, window_bounds
from schemas.array_types import F32, I64
from schemas.shards import SPLITS


@dataclass(frozen=True, kw_only=True, slots=True)
class RowMaker:
    """Make the rows of units, with what all units share."""

    config: ShardsConfig
    tokenizer: TextTokenizer
    # Ids of the opening and the closing special token.
    frame: tuple[int, int]
    lookup: KnowledgeLookup
    limits: PolicyLimits

    def rows(self, linked: LinkedUnit, cosines_M: F32, counters: Counter[str]) -> pa.Table:
        """Return the rows of a unit, in the order of its sentences (`KEYED_SCHEMA`).

        Args:
            linked: the sentences and their linked mentions.
            cosines_M: of each sentence with and without the mention's entity; NaN where it was not
                scored.
            counters: receives what became of sentences and mentions.
        """
        # Code points are needed only of tokens in sentences that have a mention.
        has_mention_S = np.bincount(linked.sentence, minlength=len(linked.start)) > 0
        width = self.config.max_tokens - SPECIAL_TOKENS
        tokens = self.tokenizer.encode_runs(linked.sentence_texts(), has_mention_S, width)

        # Spans come before windows: a window must not cut a span.
        spans = self._spans(linked, cosines_M, tokens, counters)
        bounds_W1 = window_bounds(
            tokens.offsets, tokens.starts_word, (spans.start, spans.end), width
        )
        fits_P = spans.end - spans.start <= width

        num_empty = int((np.diff(tokens.offsets) == 0).sum())
        counters.update(
            rows_in=len(linked.start),
            rows_out=len(linked.start) - num_empty,
            skipped_without_tokens=num_empty,
            windows=len(bounds_W1) - 1,
            tokens=len(tokens.ids),
            spans_too_long=int((~fits_P).sum()),
            spans_out=int(fits_P.sum()),
        )
        rows = self._table(linked, tokens, bounds_W1, spans.take(fits_P))
        # Statements get a share of these.
        is_train = pc.equal(rows["split"], SPLITS[0])
        counters["train_tokens"] += pc.sum(rows["n_tokens"].filter(is_train)).as_py() or 0
        return rows

    def _spans(
        self, linked: LinkedUnit, cosines_M: F32, tokens: TokenRuns, counters: Counter[str]
    ) -> TokenSpans:
        """Return the mentions with tokens and an entity that share no token with an earlier one."""
        # Mentions count code points of the document, tokens those of the sentence.
        shift_M = linked.start[linked.sentence]
        start_M, end_M = tokens.spans(
            linked.sentence, linked.mention_start - shift_M, linked.mention_end - shift_M
        )

        rows_M = self.lookup.rows_of(linked.qid)
        has_entity_M = rows_M >= 0
        # A mention without an entity keeps zeros, and no policy chooses it.
        frequency_M, reach_M = np.zeros(len(rows_M), np.int64), np.zeros(len(rows_M), np.int64)
        frequency_M[has_entity_M] = self.lookup.frequency[rows_M[has_entity_M]]
        reach_M[has_entity_M] = self.lookup.reach[rows_M[has_entity_M]]

        bits_M = policy_bits(linked.sentence, cosines_M, frequency_M, reach_M, self.limits)

        # Two mentions without a common character can share a token: the earlier one stays.
        has_tokens_M = start_M < end_M
        usable = np.flatnonzero(has_tokens_M & has_entity_M)
        chosen = usable[first_of_overlapping(start_M[usable], end_M[usable])]

        counters.update(
            spans_in=len(rows_M) + linked.num_outside + linked.num_overlapping,
            spans_outside_sentence=linked.num_outside,
            spans_overlapping=linked.num_overlapping,
            spans_without_tokens=int((~has_tokens_M).sum()),
            spans_without_entity=int((has_tokens_M & ~has_entity_M).sum()),
            spans_sharing_token=len(usable) - len(chosen),
        )
        mentions = TokenSpans(
            start=start_M,
            end=end_M,
            entity_row=rows_M,
            frequency=frequency_M,
            cosine=cosines_M,
            confidence=linked.confidence,
            policies=bits_M & requested_bits(self.config.policies),
        )
        return mentions.take(chosen)

    def _table(
        self, linked: LinkedUnit, tokens: TokenRuns, bounds_W1: I64, spans: TokenSpans
    ) -> pa.Table:
        """Return one row per window; token 0 of a row is the opening special token."""
        sentence_W = np.searchsorted(tokens.offsets, bounds_W1[:-1], side="right") - 1

        # Where the window starts in its document: the sentence, or a token inside it.
        starts_W = linked.start[sentence_W]
        inner = np.flatnonzero(bounds_W1[:-1] > tokens.offsets[sentence_W])
        starts_W[inner] += tokens.start_of(sentence_W[inner], bounds_W1[:-1][inner])

        document_W = linked.document[sentence_W]
        hashes_D = np.array(
            [document_hash(doc_id, self.config.seed) for doc_id in linked.doc_ids.to_pylist()],
            np.uint64,
        )
        in_validation_W = in_validation(hashes_D, self.config.validation_share)[document_W]

        columns = {
            "doc_id": linked.doc_ids.take(pa.array(document_W)),
            "sentence_start": pa.array(starts_W, pa.uint32()),
            "input_ids": framed(tokens.ids, bounds_W1, self.frame),
            "word_starts": word_starts(tokens.starts_word, bounds_W1),
            "n_tokens": pa.array(np.diff(bounds_W1) + SPECIAL_TOKENS, pa.uint16()),
            "split": pa.array(SPLITS).take(pa.array(in_validation_W.astype(np.int8))),
            KEY: pa.array(shuffle_keys(hashes_D[document_W], starts_W)),
            **span_columns(spans, bounds_W1),
            **self._fact_columns(spans, bounds_W1),
            "is_statement": pa.array(np.zeros(len(starts_W), np.bool_)),
        }
        # In the order of the schema, which is not that of the dictionary.
        arrays = [columns[name] for name in KEYED_SCHEMA.names]
        return pa.Table.from_arrays(arrays, schema=KEYED_SCHEMA)

    def _fact_columns(self, spans: TokenSpans, bounds_W1: I64) -> dict[str, pa.Array]:
        """Return the columns of facts; their spans are counted within the window."""
        window_P = np.searchsorted(bounds_W1, spans.start, side="right") - 1
        first_span_W1 = np.searchsorted(spans.start, bounds_W1)

        # Facts ascend by head span, so the facts of a window lie side by side.
        # An unsure link states nothing: no fact has it for an end.
        sure = np.flatnonzero(spans.confidence >= self.config.min_fact_confidence)
        facts = facts_between(window_P[sure], spans.entity_row[sure], self.lookup.facts)
        head_F, tail_F = sure[facts.head], sure[facts.tail]
        shift_F = first_span_W1[window_P[head_F]]
        offsets_W1 = np.searchsorted(head_F, first_span_W1)
        return {
            "fact_head_span": lists(offsets_W1, head_F - shift_F, pa.uint16()),
            "fact_relation_row": lists(offsets_W1, facts.relation, pa.uint32()),
            "fact_tail_span": lists(offsets_W1, tail_F - shift_F, pa.uint16()),
        }
