"""Originals and variants of a chunk against plain loops over its sentences and entities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.encoder.sequences import Sequences, window
from pipeline.importance.variants import MentionTokens, Variants, plan_variants

MASK = 99


@dataclass(frozen=True)
class Mention:
    sentence: int
    qid: int
    low: int  # token of the sentence
    high: int


@st.composite
def chunks(draw: st.DrawFn) -> tuple[list[list[int]], list[Mention]]:
    """Sentences of 0 to 12 tokens; mentions of a few entities, some without a token, some over each
    other.
    """
    sentences = draw(st.lists(st.lists(st.integers(0, 5), max_size=12), max_size=4))
    mentions = []
    for number, ids in enumerate(sentences):
        for _ in range(draw(st.integers(0, 4))):
            low = draw(st.integers(0, len(ids)))
            mentions.append(
                Mention(number, draw(st.integers(1, 3)), low, draw(st.integers(low, len(ids))))
            )
    return sentences, mentions


def planned(
    sentences: list[list[int]], mentions: list[Mention], width: int, replacement: int | None
) -> Variants:
    tokens = Sequences.of([np.array(ids, np.int64) for ids in sentences])
    rows = np.array(
        [(one.sentence, one.qid, one.low, one.high) for one in mentions], np.int64
    ).reshape(-1, 4)
    shift = tokens.offsets[rows[:, 0]]
    found = MentionTokens(rows[:, 0], rows[:, 1], rows[:, 2] + shift, rows[:, 3] + shift)
    return plan_variants(tokens, found, width, replacement)


def plain(
    sentences: list[list[int]],
    mentions: list[Mention],
    one: Mention,
    width: int,
    replacement: int | None,
) -> tuple[list[int], list[int]] | None:
    """Original and variant that score a mention; None where no mention of its entity has a token."""
    ids = sentences[one.sentence]
    spans = [
        (m.low, m.high)
        for m in mentions
        if (m.sentence, m.qid) == (one.sentence, one.qid) and m.low < m.high
    ]
    if not spans:
        return None
    start, end = window(len(ids), spans[0], width)
    variant = []
    for place in range(start, end):
        if not any(low <= place < high for low, high in spans):
            variant.append(ids[place])
        elif replacement is not None:
            variant.append(replacement)
    return ids[start:end], variant


def row(sequences: Sequences, number: int) -> list[int]:
    return sequences.ids[sequences.offsets[number] : sequences.offsets[number + 1]].tolist()


@pytest.mark.parametrize("replacement", [MASK, None])
@given(chunk=chunks(), width=st.integers(3, 14))
def test_each_mention_has_the_pair_of_the_plain_way(
    chunk: tuple[list[list[int]], list[Mention]], width: int, replacement: int | None
) -> None:
    sentences, mentions = chunk
    plan = planned(sentences, mentions, width, replacement)
    for one, pair in zip(mentions, plan.pairs.tolist(), strict=True):
        wanted = plain(sentences, mentions, one, width, replacement)
        if wanted is None:
            assert pair == -1
        else:
            assert row(plan.sequences, plan.originals[pair]) == wanted[0]
            assert row(plan.sequences, plan.replaced[pair]) == wanted[1]


@given(chunk=chunks(), width=st.integers(3, 14))
def test_nothing_is_encoded_twice(chunk: tuple[list[list[int]], list[Mention]], width: int) -> None:
    sentences, mentions = chunk
    plan = planned(sentences, mentions, width, MASK)
    entities = {(one.sentence, one.qid) for one in mentions if one.low < one.high}
    spans: dict[tuple[int, int], tuple[int, int]] = {}
    for one in mentions:
        if one.low < one.high:
            spans.setdefault((one.sentence, one.qid), (one.low, one.high))
    windows = {
        (sentence, window(len(sentences[sentence]), span, width)[0])
        for (sentence, _), span in spans.items()
    }
    assert len(plan.originals) == len(plan.replaced) == len(entities)
    assert len(plan.sequences) == len(windows) + len(entities)
    used = {*plan.originals.tolist(), *plan.replaced.tolist()}
    assert used == set(range(len(plan.sequences)))
    assert plan.sequences.lengths.max(initial=0) <= width


def test_an_entity_that_is_the_whole_sentence_leaves_nothing_behind() -> None:
    plan = planned([[4, 5]], [Mention(0, 1, 0, 2)], 8, None)
    assert row(plan.sequences, plan.replaced[0]) == []
    assert row(plan.sequences, plan.originals[0]) == [4, 5]


def test_mentions_of_one_entity_go_together_and_others_stay() -> None:
    mentions = [Mention(0, 1, 0, 1), Mention(0, 2, 2, 3), Mention(0, 1, 4, 6)]
    plan = planned([[1, 2, 3, 4, 5, 6]], mentions, 8, MASK)
    rows = [row(plan.sequences, plan.replaced[pair]) for pair in plan.pairs]
    assert rows == [[MASK, 2, 3, 4, MASK, MASK], [1, 2, MASK, 4, 5, 6], [MASK, 2, 3, 4, MASK, MASK]]
    assert len(plan.sequences) == 3


def test_a_mention_outside_the_window_of_its_entity_s_first_shares_its_score() -> None:
    mentions = [Mention(0, 1, 0, 1), Mention(0, 1, 19, 20)]
    plan = planned([list(range(20))], mentions, 6, MASK)
    assert plan.pairs.tolist() == [0, 0]
    assert row(plan.sequences, plan.replaced[0]) == [MASK, 1, 2, 3, 4, 5]
