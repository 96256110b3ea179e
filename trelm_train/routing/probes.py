"""Probes for attribution: one linked mention hidden in each of some upcoming sentences, packed tightly.

Goes in: the batches to come. Comes out: batches of nothing but sentences with a probe, in chunks of fixed content, so
that what a chunk gives depends neither on the number of ranks nor on who computes it. Which mention is asked is a hash of
(seed, sentence); which sentences, of the stream's position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from schemas.array_types import I64
from trelm_train.data.arrays import expand, uniform
from trelm_train.data.loader import (
    Batch,
    Packing,
    Position,
    assemble,
    plan_batches,
    sentences_from_lists,
)
from trelm_train.data.masking import Vocabulary
from trelm_train.routing.attribution import Targets

# Legend: T target tokens, P spans, C chosen spans (one per sentence).

CHUNK_TOKENS = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One hidden mention: its sentence with every mention of that entity masked, where to look and what is right."""

    input_ids: list[int]
    position_T: I64  # in the sentence
    gold_T: I64


def probes_of(batch: Batch, vocabulary: Vocabulary, *, seed: int) -> list[Probe]:
    """A probe for each sentence of a batch that has a mention, in order: the tail of a fact, or else any mention."""
    if not len(batch.span_start_P):
        return []
    draw_P = uniform(seed, "probe", batch.key_N[batch.span_sentence_P], batch.span_ordinal_P)
    draw_P[batch.fact_tail_F] -= 1.0
    order = np.lexsort((draw_P, batch.span_sentence_P))
    asked_C = order[np.unique(batch.span_sentence_P[order], return_index=True)[1]]
    flat = batch.input_ids_RS.reshape(-1)
    masked = _hide(batch, flat, asked_C, vocabulary.mask_id)
    probes = []
    for span in asked_C.tolist():
        sentence = batch.span_sentence_P[span]
        start, end = batch.start_N[sentence], batch.end_N[sentence]
        position = np.arange(batch.span_start_P[span], batch.span_end_P[span], dtype=np.int64)
        probes.append(
            Probe(
                input_ids=masked[start:end].tolist(),
                position_T=position - start,
                gold_T=flat[position].copy(),
            )
        )
    return probes


def _hide(batch: Batch, flat: I64, asked_C: I64, mask_id: int) -> I64:
    """Token ids with every mention of each asked entity masked in its sentence."""
    scale = int(batch.span_entity_P.max()) + 1
    pair_P = batch.span_sentence_P * scale + batch.span_entity_P
    same_P = np.isin(pair_P, pair_P[asked_C])
    masked = flat.copy()
    masked[expand(batch.span_start_P[same_P], (batch.span_end_P - batch.span_start_P)[same_P])] = (
        mask_id
    )
    return masked


def upcoming_probes(
    batches: Iterable[tuple[Batch, Position]],
    vocabulary: Vocabulary,
    *,
    seed: int,
    limit: int,
    start: Position,
) -> list[Probe]:
    """The first `limit` probes of the batches to come, at most to the end of the next epoch."""
    found: list[Probe] = []
    for batch, following in batches:
        found += probes_of(batch, vocabulary, seed=seed)
        if len(found) >= limit or following.epoch > start.epoch + 1:
            break
    return found[:limit]


def chunks(probes: list[Probe], packing: Packing, pad_id: int) -> Iterator[tuple[Batch, Targets]]:
    """Packed batches of about `CHUNK_TOKENS` tokens, each with what is asked in it."""
    sentences = sentences_from_lists({"ids": [probe.input_ids for probe in probes]})
    small = Packing(max_tokens=packing.max_tokens, batch_tokens=CHUNK_TOKENS, limit=packing.limit)
    lengths = np.asarray([len(probe.input_ids) for probe in probes], np.int64)
    for index, rows in enumerate(plan_batches(lengths, small)):
        batch = assemble(sentences, rows, Position(index=index), pad_id)
        here = [probes[number] for number in batch.key_N.tolist()]
        yield (
            batch,
            Targets(
                position_T=np.concatenate(
                    [
                        probe.position_T + start
                        for probe, start in zip(here, batch.start_N.tolist(), strict=True)
                    ]
                ),
                example_T=np.repeat(
                    np.arange(len(here)), [len(probe.position_T) for probe in here]
                ),
                gold_T=np.concatenate([probe.gold_T for probe in here]),
                num_examples=len(here),
            ),
        )
