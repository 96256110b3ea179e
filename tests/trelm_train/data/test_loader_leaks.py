"""Nothing of one sentence reaches another one of its row: words, mentions, facts, masks; in both
layouts.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trelm_train.data.test_masking import VOCABULARY, sentence
from trelm_train.config import MaskingConfig
from trelm_train.data.arrays import expand, random_bits
from trelm_train.data.batches import Batch, Position, assemble_plan
from trelm_train.data.loader import BatchStream
from trelm_train.data.masking import mask_batch, unit_ends, unit_starts
from trelm_train.data.packing import LAYOUTS, Packing, make_packing_plan
from trelm_train.data.sentences import Sentences, sentences_from_lists
from trelm_train.data.shards import Shards

PACKING = Packing(max_tokens=40, batch_tokens=80, limit=64)
HALF = MaskingConfig(probability=0.5)


@st.composite
def corpus(draw: st.DrawFn) -> Sentences:
    """Sentences with words, mentions across the borders of words, and facts between mentions."""
    drawn = draw(st.lists(sentence(), min_size=1, max_size=12))
    lists: dict[str, Any] = {name: [item[name] for item in drawn] for name in drawn[0]}
    for name in ("fact_head", "fact_relation", "fact_tail"):
        lists[name] = []
    for item in drawn:
        span = st.integers(0, max(0, len(item["span_start"]) - 1))
        facts = draw(st.lists(st.tuples(span, span), max_size=3)) if item["span_start"] else []
        lists["fact_head"].append([head for head, _ in facts])
        lists["fact_relation"].append([7 for _ in facts])
        lists["fact_tail"].append([tail for _, tail in facts])
    lists["span_entity"] = [
        [100 * number + k for k in range(len(item["span_start"]))]
        for number, item in enumerate(drawn)
    ]
    return sentences_from_lists(lists)


def batches_of(sentences: Sentences, layout: str, seed: int) -> list[Batch]:
    rows = np.arange(len(sentences))
    packing = dataclasses.replace(PACKING, layout=layout)
    plan = make_packing_plan(sentences.ids.lengths(rows), packing, random_bits(seed, "order", rows))
    return assemble_plan(sentences, plan, Position(), 0)


def whole(batch: Batch, start: Any, end: Any) -> Any:
    """The sentences that ranges of tokens lie in; a range with tokens of two, or of none, fails."""
    owner = batch.segment_RS.reshape(-1)
    assert (end > start).all()
    assert np.array_equal(owner[expand(start, end - start)], np.repeat(owner[start], end - start))
    assert (owner[start] >= 0).all()
    return owner[start]


@given(corpus(), st.sampled_from(LAYOUTS), st.integers(0, 99))
@settings(max_examples=80)
def test_words_mentions_facts_and_masks_stay_in_their_sentence(
    sentences: Sentences, layout: str, seed: int
) -> None:
    seen: list[int] = []
    for batch in batches_of(sentences, layout, seed):
        seen += batch.key_N.tolist()
        assert whole(batch, batch.start_N, batch.end_N).tolist() == list(range(len(batch.key_N)))
        assert np.array_equal(
            whole(batch, batch.span_start_P, batch.span_end_P), batch.span_sentence_P
        )
        entity_sentence = batch.key_N[batch.span_sentence_P]
        assert np.array_equal(batch.span_entity_P // 100, entity_sentence), (
            "the entity is one of the sentence"
        )
        head, tail = (
            batch.span_sentence_P[batch.fact_head_F],
            batch.span_sentence_P[batch.fact_tail_F],
        )
        assert np.array_equal(head, tail)
        starts = unit_starts(batch)
        ends = unit_ends(batch, starts)
        owner = whole(batch, starts, ends)
        assert (starts > batch.start_N[owner]).all(), "not the opening token"
        assert (ends < batch.end_N[owner]).all(), "not the closing token"
        masked = mask_batch(batch, HALF, VOCABULARY, seed=seed, epoch=0)
        offset = batch.offset_RS.reshape(-1)[masked.target_M]
        length = (batch.end_N - batch.start_N)[batch.segment_RS.reshape(-1)[masked.target_M]]
        assert ((offset > 0) & (offset < length - 1)).all()
    assert sorted(seen) == list(range(len(sentences)))


def by_sentence(
    batches: list[Batch], *, seed: int, epoch: int = 0
) -> dict[int, dict[str, list[int]]]:
    """What a model would see and be asked of each sentence, in numbers of the sentence's own."""
    found = {}
    for batch in batches:
        masked = mask_batch(batch, HALF, VOCABULARY, seed=seed, epoch=epoch)
        facts_of = batch.span_sentence_P[batch.fact_head_F]
        for number, key in enumerate(batch.key_N.tolist()):
            start, end = batch.start_N[number], batch.end_N[number]
            spans = np.flatnonzero(batch.span_sentence_P == number)
            facts = np.flatnonzero(facts_of == number)
            words = batch.word_start_W[(batch.word_start_W >= start) & (batch.word_start_W < end)]
            found[key] = {
                "ids": batch.input_ids_RS.reshape(-1)[start:end].tolist(),
                "masked": masked.input_ids_RS.reshape(-1)[start:end].tolist(),
                "chosen": masked.chosen_RS.reshape(-1)[start:end].tolist(),
                "offset": batch.offset_RS.reshape(-1)[start:end].tolist(),
                "words": (words - start).tolist(),
                "spans": (batch.span_start_P[spans] - start).tolist()
                + (batch.span_end_P[spans] - start).tolist(),
                "entities": batch.span_entity_P[spans].tolist()
                + batch.span_ordinal_P[spans].tolist(),
                "facts": batch.span_entity_P[batch.fact_head_F[facts]].tolist()
                + batch.span_entity_P[batch.fact_tail_F[facts]].tolist(),
            }
    return found


@given(corpus(), st.integers(0, 99))
@settings(max_examples=60)
def test_layout_and_order_change_nothing_of_a_sentence(sentences: Sentences, seed: int) -> None:
    """Masks with it: the same targets, the same replacements."""
    packed, buckets, other = (
        by_sentence(batches_of(sentences, layout, order), seed=seed)
        for layout, order in (("packed", 0), ("buckets", 0), ("packed", 1))
    )
    assert packed == buckets == other
    for row in range(len(sentences)):
        assert packed[row]["ids"] == sentences.ids.of(row).tolist()
        assert packed[row]["words"] == sentences.words.of(row).tolist()


def test_masks_of_the_stream_do_not_depend_on_the_layout(shards: Shards) -> None:
    found = []
    for layout, batch_tokens, window_rows in (("packed", 256, 8192), ("buckets", 96, 20)):
        packing = Packing(
            max_tokens=48,
            batch_tokens=batch_tokens,
            limit=64,
            layout=layout,
            window_rows=window_rows,
        )
        batches = []
        for batch, _ in BatchStream(shards, packing, seed=3, pad_id=0).iterate(Position(epoch=1)):
            if batch.position.epoch > 1:
                break
            batches.append(batch)
        found.append(by_sentence(batches, seed=3, epoch=1))
    assert found[0] == found[1]
    assert len(found[0]) > 30


def test_batches_are_told_apart_from_their_neighbours_in_a_block() -> None:
    """Masking one of them changes no other: they share arrays."""
    sentences = sentences_from_lists(
        {"ids": [[2, *range(5, 35), 3]] * 8, "words": [list(range(1, 31))] * 8}
    )
    batches = batches_of(sentences, "packed", 0)
    before = [batch.input_ids_RS.copy() for batch in batches]
    assert len(batches) > 2
    for batch in batches:
        mask_batch(batch, HALF, VOCABULARY, seed=0, epoch=0)
    assert all(
        np.array_equal(batch.input_ids_RS, ids) for batch, ids in zip(batches, before, strict=True)
    )


@pytest.mark.parametrize("epoch", [0, 1])
def test_every_epoch_masks_anew_and_every_sentence_its_own_way(epoch: int) -> None:
    sentences = sentences_from_lists(
        {"ids": [[2, *range(5, 35), 3]] * 2, "words": [list(range(1, 31))] * 2}
    )
    batches = batches_of(sentences, "buckets", 0)
    masks = by_sentence(batches, seed=1, epoch=epoch)
    assert masks[0]["chosen"] != masks[1]["chosen"]
    assert masks != by_sentence(batches, seed=1, epoch=epoch + 1)
