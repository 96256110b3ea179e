"""Make probes for attribution: hide one linked mention in each of some upcoming sentences.

Background probes hide a word of a sentence without mentions instead. They say which neurons every
sentence uses.

The batches to come go in. Batches of nothing but sentences with a probe come out, packed tightly,
in chunks of fixed content, so that what a chunk gives depends neither on the number of ranks nor on
the rank that computes it. Which mention or word is hidden is a hash of (seed, sentence); which
sentences, of the stream's position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from schemas.array_types import I64
from trelm_train.config import PROBE_PLACES
from trelm_train.data.arrays import expand, lowest_of_groups, uniform
from trelm_train.data.loader import (
    Batch,
    Packing,
    Position,
    assemble,
    plan_batches,
    sentences_from_lists,
)
from trelm_train.data.masking import Vocabulary, unit_ends, unit_starts
from trelm_train.facts.plan import named_elsewhere
from trelm_train.routing.attribution import Targets

# Legend: T target tokens, P spans, F facts, N sentences, U units, K candidates, C chosen spans or
# words (one per sentence).

CHUNK_TOKENS = 2048
# Kinds of probes: what they hide.
MENTION, TAIL = PROBE_PLACES
BACKGROUND = "background"


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Hold one question: a sentence with every mention of an entity masked, and the answer."""

    input_ids: list[int]
    # Positions of the answer in the sentence.
    position_T: I64
    gold_T: I64


def probes_of(
    batch: Batch, vocabulary: Vocabulary, *, seed: int, kind: str = MENTION
) -> list[Probe]:
    """Make a probe for each sentence of a batch that has what this kind asks, in order.

    `MENTION` hides the tail of a fact, or else any mention; `TAIL` the tail of a fact alone;
    `BACKGROUND` a word of a sentence without mentions.
    """
    flat = batch.input_ids_RS.reshape(-1)
    if kind == BACKGROUND:
        start_C, end_C = _asked_words(batch, seed=seed)
        masked = flat.copy()
        masked[expand(start_C, end_C - start_C)] = vocabulary.mask_id
    else:
        chosen_C = _asked_spans(batch, vocabulary, seed=seed, kind=kind)
        start_C, end_C = batch.span_start_P[chosen_C], batch.span_end_P[chosen_C]
        masked = _hide(batch, flat, chosen_C, vocabulary.mask_id)

    sentence_C = batch.segment_RS.reshape(-1)[start_C]
    probes = []
    for sentence, first, stop in zip(sentence_C, start_C, end_C, strict=True):
        # The sentence is cut out of its row, with its special tokens.
        start, end = batch.start_N[sentence], batch.end_N[sentence]
        position = np.arange(first, stop, dtype=np.int64)
        probes.append(
            Probe(
                input_ids=masked[start:end].tolist(),
                position_T=position - start,
                gold_T=flat[position].copy(),
            )
        )
    return probes


def _asked_spans(batch: Batch, vocabulary: Vocabulary, *, seed: int, kind: str) -> I64:
    """Return the mention that each sentence asks; sentences without one are left out."""
    draw_P = uniform(seed, "probe", batch.key_N[batch.span_sentence_P], batch.span_ordinal_P)
    if kind == TAIL:
        # A fact whose tail is its head too is never asked in training: nothing would name the head.
        # Nor is one whose tail the sentence tells.
        head_F, tail_F, entity_P = batch.fact_head_F, batch.fact_tail_F, batch.span_entity_P
        fact = np.flatnonzero(entity_P[head_F] != entity_P[tail_F])
        fact = fact[~named_elsewhere(batch, tail_F[fact], head_F[fact], vocabulary.spelling)]
        candidate_K = np.unique(tail_F[fact])
    else:
        # Tails of facts are below all other mentions.
        draw_P[batch.fact_tail_F] -= 1.0
        candidate_K = np.arange(len(draw_P), dtype=np.int64)
    lowest = lowest_of_groups(draw_P[candidate_K], batch.span_sentence_P[candidate_K])
    return candidate_K[lowest]


def _asked_words(batch: Batch, *, seed: int) -> tuple[I64, I64]:
    """Return start and end of a word of each sentence without mentions."""
    has_mention_N = np.zeros(len(batch.key_N), np.bool_)
    has_mention_N[batch.span_sentence_P] = True

    # Where there is no mention, units are words.
    start_U = unit_starts(batch)
    end_U = unit_ends(batch, start_U)
    sentence_U = batch.segment_RS.reshape(-1)[start_U]
    candidate_K = np.flatnonzero(~has_mention_N[sentence_U])

    sentence_K = sentence_U[candidate_K]
    place_K = batch.offset_RS.reshape(-1)[start_U[candidate_K]]
    draw_K = uniform(seed, "plain", batch.key_N[sentence_K], place_K)
    chosen_C = candidate_K[lowest_of_groups(draw_K, sentence_K)]
    return start_U[chosen_C], end_U[chosen_C]


def _hide(batch: Batch, flat: I64, chosen_C: I64, mask_id: int) -> I64:
    """Mask every mention of each chosen entity in its sentence; return flat token ids."""
    # A pair (sentence, entity) as one number.
    scale = int(batch.span_entity_P.max(initial=0)) + 1
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
    kind: str = MENTION,
) -> list[Probe]:
    """Return the first `limit` probes of the batches to come, or all to the end of the next epoch.

    `start` is where the batches begin.
    """
    probes: list[Probe] = []
    for batch, following in batches:
        probes += probes_of(batch, vocabulary, seed=seed, kind=kind)
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
