"""Votes of a document's candidates against plain loops, on the random batches of the features."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings

from pipeline.index.words import TERM_BITS
from pipeline.link.coherence import (
    MAX_KIN,
    PARTIAL_VOTE,
    ROUNDS,
    _counted,
    _kin,
    _ties,
    coherence_features,
)
from pipeline.link.features import FEATURES, GROUPS, pairs_of
from tests.pipeline.link.small_world import Entity, Store
from tests.pipeline.link.test_features import Batch, One, batches, flat_of, store_of

Votes = dict[tuple[int, int], float]


def specific(popularity: float) -> float:
    return 1 / math.log(2 + popularity)


def by_loops(batch: Batch, votes: Votes) -> list[dict[str, float]]:
    """Votes are by mention and item."""
    return [counted(batch, votes, one, qid) for one in batch.mentions for qid, _ in one.candidates]


def counted(batch: Batch, votes: Votes, one: One, qid: int) -> dict[str, float]:
    means: dict[int, float] = {}
    by_name: dict[tuple[int, int], float] = {}
    for number, other in enumerate(batch.mentions):
        if other.document == one.document:
            for name, _ in other.candidates:
                vote = votes[number, name]
                means[name] = max(means.get(name, 0.0), vote)
                key = other.name, name
                by_name[key] = max(by_name.get(key, 0.0), vote)

    near = batch.entities[qid].near
    tied = [
        other
        for other in means
        if other != qid and (other in near or qid in batch.entities[other].near)
    ]
    neighbours = sum(means[other] * specific(batch.entities[other].popularity) for other in tied)
    shared = 0.0
    for place in near:
        in_common = sum(
            means[other] for other in means if other != qid and place in batch.entities[other].near
        )
        hub = batch.entities[place].popularity if place in batch.entities else 0
        shared += math.log1p(in_common) * specific(hub) / math.sqrt(max(len(near), 1))
    others = sum(vote for (name, item), vote in by_name.items() if item == qid and name != one.name)
    return {
        "neighbours": math.log1p(neighbours),
        "shared": shared,
        "mentioned": math.log1p(others),
    }


def votes_of(batch: Batch) -> tuple[np.ndarray, Votes]:
    keys = [(number, qid) for number, one in enumerate(batch.mentions) for qid, _ in one.candidates]
    values = np.random.default_rng(len(keys)).random(len(keys)).astype(np.float32)
    return values, dict(zip(keys, values.tolist(), strict=True))


@settings(max_examples=120)
@given(batches())
def test_counted_votes_equal_plain_loops(batch: Batch) -> None:
    store = store_of(batch)
    flat, _ = flat_of(batch, store)
    if not len(flat.rows):
        return
    values, votes = votes_of(batch)
    found = _counted(_ties(flat, store, pairs_of(flat)), values)
    wanted = by_loops(batch, votes)
    for name, column in found.items():
        assert column.dtype == np.float32
        assert column.tolist() == pytest.approx([row[name] for row in wanted], abs=1e-5), name


def kin(batch: Batch, store: Store, one: One, qid: int) -> float:
    """Each text speaks once for a word; one's own text does not speak for oneself."""
    spoken = 0.0
    others = batch.entities[qid].others
    for word in others:
        by_name: dict[int, float] = {}
        for other in batch.mentions:
            if other.document != one.document or other.name == one.name:
                continue
            whole = sum(is_whole for _, is_whole in other.candidates)
            for item, is_whole in other.candidates:
                if word in batch.entities[item].others:
                    vote = 1 / whole if is_whole else PARTIAL_VOTE
                    by_name[other.name] = max(by_name.get(other.name, 0.0), vote)
        spoken += float(store.idf[word]) * min(sum(by_name.values()), MAX_KIN)
    return math.log1p(spoken / max(sum(float(store.idf[word]) for word in others), 1e-9))


@settings(max_examples=120)
@given(batches())
def test_kin_equals_plain_loops(batch: Batch) -> None:
    store = store_of(batch)
    flat, _ = flat_of(batch, store)
    wanted = [kin(batch, store, one, qid) for one in batch.mentions for qid, _ in one.candidates]
    assert _kin(flat, store.idf).tolist() == pytest.approx(wanted, abs=1e-5)


def features_of(batch: Batch, priors: list[float]) -> dict[str, np.ndarray]:
    store = Store(batch.entities)
    flat, _ = flat_of(batch, store)
    features = {name: np.zeros(len(flat.rows), np.float32) for name in FEATURES}
    features["prior"] = np.array(priors, np.float32)
    features["similarity"] = np.ones(len(flat.rows), np.float32)
    return coherence_features(flat, features, store, pairs_of(flat))


def test_a_sure_mention_votes_more_than_an_unsure_one() -> None:
    """1 is a neighbour of 3, 2 of 4. Of the other two mentions the first surely means 3, and the
    second hardly 4: so 1 has more votes than 2, although both have a neighbour in the document.
    """
    entities = {1: Entity(near=(3,)), 2: Entity(near=(4,)), 3: Entity(), 4: Entity(), 5: Entity()}
    mentions = (
        One(0, 0, 1, ((1, True), (2, True)), 0),
        One(0, 1, 2, ((3, True),), 1),
        One(0, 2, 3, ((4, True), (5, True)), 2),
    )
    found = features_of(Batch(((0, 0, 0),), mentions, entities), [-0.7, -0.7, 0.0, -5.0, 0.0])
    first, second, *_ = found["neighbours"].tolist()
    assert first > 2 * second > 0


def test_what_one_mention_makes_clear_helps_the_next_one() -> None:
    """A chain: 1 is sure and a neighbour of 2; 2 is a neighbour of 4. The second round knows more
    than the first of 2, so of 4 as well.
    """
    assert ROUNDS > 1
    entities = {
        1: Entity(near=(2,)), 2: Entity(near=(1, 4)), 3: Entity(), 4: Entity(near=(2,)), 5: Entity(),
    }  # fmt: skip
    mentions = (
        One(0, 0, 1, ((1, True),), 0),
        One(0, 1, 2, ((2, True), (3, True)), 1),
        One(0, 2, 3, ((4, True), (5, True)), 2),
    )
    alone = Batch(((0, 0, 0),), mentions[1:], entities)
    together = Batch(((0, 0, 0),), mentions, entities)
    without = features_of(alone, [-0.7] * 4)["neighbours"][2]
    with_first = features_of(together, [0.0, *[-0.7] * 4])["neighbours"][3]
    assert with_first > without > 0


def test_a_text_is_no_witness_of_itself() -> None:
    """The same text thrice says no more than once; another text that means the item does."""
    entities = {1: Entity(), 2: Entity()}
    repeats = tuple(One(0, number, number + 1, ((1, True),), 7) for number in range(3))
    other = One(0, 3, 4, ((1, True), (2, True)), 8)
    batch = Batch(((0,) * 4,), repeats, entities)
    assert features_of(batch, [0.0] * 3)["mentioned"].tolist() == [0.0] * 3
    batch = Batch(((0,) * 4,), (*repeats, other), entities)
    assert min(features_of(batch, [0.0] * 3 + [-0.7] * 2)["mentioned"][:3].tolist()) > 0


def test_documents_do_not_vote_for_each_other() -> None:
    entities = {1: Entity(near=(2,), others=(5,)), 2: Entity(near=(1,), others=(5,))}
    mentions = (One(0, 0, 1, ((1, True),), 0), One(1, 0, 1, ((2, True),), 1))
    found = features_of(Batch(((0,), (0,)), mentions, entities), [0.0, 0.0])
    assert {name: values.tolist() for name, values in found.items()} == dict.fromkeys(
        GROUPS["coherence"], [0.0, 0.0]
    )


def test_no_candidate_and_the_highest_term() -> None:
    highest = (1 << TERM_BITS) - 1
    entities = {1: Entity(others=(highest,))}
    empty = features_of(Batch(((0,),), (One(0, 0, 1, ()),), entities), [])
    assert {name: values.tolist() for name, values in empty.items()} == dict.fromkeys(
        GROUPS["coherence"], []
    )
    lone = features_of(Batch(((0,),), (One(0, 0, 1, ((1, True),)),), entities), [0.0])
    assert {tuple(values.tolist()) for values in lone.values()} == {(0.0,)}
