"""Make probes for attribution: hide one linked mention in each of some upcoming sentences.

The batches to come go in. Batches of nothing but sentences with a probe come out, packed tightly,
in chunks of fixed content, so that what a chunk gives depends neither on the number of ranks nor on
the rank that computes it. Which mention is hidden is a hash of (seed, sentence); which sentences,
of the stream's position.
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
    """Hold one question: a sentence with every mention of an entity masked, and the answer."""

    input_ids: list[int]
    # Positions of the answer in the sentence.
    position_T: I64
    gold_T: I64


def probes_of(batch: Batch, vocabulary: Vocabulary, *, seed: int) -> list[Probe]:
    """Make a probe for each sentence of a batch that has a mention, in order.

    It hides the tail of a fact, or else any mention.
    """
    if not len(batch.span_start_P):
        return []

    # The mention with the lowest draw of its sentence; tails of facts are below all others.
    draw_P = uniform(seed, "probe", batch.key_N[batch.span_sentence_P], batch.span_ordinal_P)
    draw_P[batch.fact_tail_F] -= 1.0
    order = np.lexsort((draw_P, batch.span_sentence_P))
    lowest = np.unique(batch.span_sentence_P[order], return_index=True)[1]
    chosen_C = order[lowest]

    flat = batch.input_ids_RS.reshape(-1)
    masked = _hide(batch, flat, chosen_C, vocabulary.mask_id)

    probes = []
    for span in chosen_C.tolist():
        # The sentence is cut out of its row, with its special tokens.
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


def _hide(batch: Batch, flat: I64, chosen_C: I64, mask_id: int) -> I64:
    """Mask every mention of each chosen entity in its sentence; return flat token ids."""
    # A pair (sentence, entity) as one number.
    scale = int(batch.span_entity_P.max()) + 1
    pair_P = batch.span_sentence_P * scale + batch.span_entity_P
    is_hidden_P = np.isin(pair_P, pair_P[chosen_C])

    masked = flat.copy()
    length_P = batch.span_end_P - batch.span_start_P
    masked[expand(batch.span_start_P[is_hidden_P], length_P[is_hidden_P])] = mask_id
    return masked


def upcoming_probes(
    batches: Iterable[tuple[Batch, Position]],
    vocabulary: Vocabulary,
    *,
    seed: int,
    limit: int,
    start: Position,
) -> list[Probe]:
    """Return the first `limit` probes of the batches to come, or all to the end of the next epoch.

    `start` is where the batches begin.
    """
    probes: list[Probe] = []
    for batch, following in batches:
        probes += probes_of(batch, vocabulary, seed=seed)
        # Shards with few mentions may not have enough in one epoch.
        if len(probes) >= limit or following.epoch > start.epoch + 1:
            break
    return probes[:limit]


def chunks(probes: list[Probe], packing: Packing, pad_id: int) -> Iterator[tuple[Batch, Targets]]:
    """Yield packed batches of about `CHUNK_TOKENS` tokens, each with its targets."""
    # Spans and facts are not needed any more: the probe has the positions.
    sentences = sentences_from_lists({"ids": [probe.input_ids for probe in probes]})
    # Chunks have a size of their own: a refresh takes the same memory for any `train.batch_tokens`.
    small = Packing(max_tokens=packing.max_tokens, batch_tokens=CHUNK_TOKENS, limit=packing.limit)
    lengths = np.asarray([len(probe.input_ids) for probe in probes], np.int64)

    for index, rows in enumerate(plan_batches(lengths, small)):
        batch = assemble(sentences, rows, Position(index=index), pad_id)
        members = [probes[number] for number in batch.key_N.tolist()]

        # From positions in the sentence to flat ones.
        starts = batch.start_N.tolist()
        positions = [probe.position_T + start for probe, start in zip(members, starts, strict=True)]
        lengths_of_answers = [len(probe.position_T) for probe in members]
        yield (
            batch,
            Targets(
                position_T=np.concatenate(positions),
                example_T=np.repeat(np.arange(len(members)), lengths_of_answers),
                gold_T=np.concatenate([probe.gold_T for probe in members]),
                num_examples=len(members),
            ),
        )
