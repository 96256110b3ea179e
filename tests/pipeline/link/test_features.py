"""Features against plain loops over one candidate at a time, on random batches of documents."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.index.words import TERM_BITS
from pipeline.link.features import (
    FEATURES,
    GROUPS,
    LOCAL,
    MAX_OTHERS,
    NEAR_TOKENS,
    STATIC,
    WINDOW_TOKENS,
    BatchTokens,
    EntityPairs,
    FlatCandidates,
    below_best,
    context_features,
    log_prior,
    pairs_of,
)
from schemas.link import PARTS
from tests.pipeline.link.small_world import Entity, Store


@dataclass(frozen=True)
class One:
    """A mention: tokens in its own document, candidates as (item, found by its whole name)."""

    document: int
    first: int
    end: int
    candidates: tuple[tuple[int, bool], ...]
    name: int = 0


@dataclass(frozen=True)
class Batch:
    documents: tuple[tuple[int, ...], ...]  # a term per token, 0 = none
    mentions: tuple[One, ...]
    entities: dict[int, Entity]


def padded(others: tuple[int, ...]) -> list[int]:
    return [*others, *[0] * (MAX_OTHERS - len(others))]


def context_of(batch: Batch, store: Store) -> dict[str, np.ndarray]:
    flat, tokens = flat_of(batch, store)
    return context_features(flat, tokens, store, pairs_of(flat))


def flat_of(batch: Batch, store: Store) -> tuple[FlatCandidates, BatchTokens]:
    starts = np.cumsum([0, *map(len, batch.documents)]).tolist()
    pairs = [
        (number, *candidate)
        for number, one in enumerate(batch.mentions)
        for candidate in one.candidates
    ]
    qids = np.array([qid for _, qid, _ in pairs], np.uint32)
    flat = FlatCandidates(
        mentions=np.array([number for number, _, _ in pairs], np.int64),
        rows=store.rows(qids),
        qids=qids,
        is_whole=np.array([is_whole for _, _, is_whole in pairs], bool),
        documents=np.array([one.document for one in batch.mentions], np.int64),
        first_tokens=np.array(
            [starts[one.document] + one.first for one in batch.mentions], np.int64
        ),
        end_tokens=np.array([starts[one.document] + one.end for one in batch.mentions], np.int64),
        names=np.array([one.name for one in batch.mentions], np.int64),
        others=np.array(
            [padded(batch.entities[qid].others) for qid in qids.tolist()], np.uint32
        ).reshape(-1, MAX_OTHERS),
    )
    tokens = BatchTokens(
        terms=np.array([term for document in batch.documents for term in document], np.uint32),
        documents=np.repeat(
            np.arange(len(batch.documents)), [len(document) for document in batch.documents]
        ),
    )
    return flat, tokens


def by_loops(batch: Batch, store: Store) -> list[dict[str, float]]:
    return [_context(batch, store, one, qid) for one in batch.mentions for qid, _ in one.candidates]


def _context(batch: Batch, store: Store, one: One, qid: int) -> dict[str, float]:
    text = batch.documents[one.document]
    own = set(text[one.first : one.end])
    terms = batch.entities[qid].all_terms

    def shared(low: int, high: int) -> float:
        around = set(text[max(low, 0) : high])
        return sum(float(store.idf[term]) for term in terms if term in around and term not in own)

    others = batch.entities[qid].others

    def present(low: int, high: int) -> float:
        around = set(text[max(low, 0) : high])
        weight = sum(float(store.idf[term]) for term in others if term in around)
        return weight / max(sum(float(store.idf[term]) for term in others), 1e-9)

    return {
        "others": present(0, len(text)),
        "others_near": present(one.first - NEAR_TOKENS, one.end + NEAR_TOKENS),
        "near": math.log1p(shared(one.first - NEAR_TOKENS, one.end + NEAR_TOKENS)),
        "window": math.log1p(shared(one.first - WINDOW_TOKENS, one.end + WINDOW_TOKENS)),
        "document": shared(0, len(text)) / (1 + sum(float(store.idf[term]) for term in terms)),
    }


TERMS = st.integers(0, 9)  # 0 is no term
ITEMS = st.integers(1, 8)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    # Documents longer than the windows: stretches without terms between those with.
    parts = st.lists(TERMS, max_size=6) | st.sampled_from([[0] * 19, [0] * 20, [0] * 99, [0] * 100])
    documents = draw(
        st.lists(
            st.lists(parts, max_size=4).map(lambda lists: tuple(sum(lists, []))),
            min_size=1,
            max_size=3,
        )
    )
    entities = {
        qid: Entity(
            terms=tuple(draw(st.sets(st.integers(1, 9), max_size=5))),
            near=tuple(sorted(draw(st.sets(st.integers(1, 12), max_size=4)) - {qid})),
            popularity=draw(st.integers(0, 50)),
            others=tuple(sorted(draw(st.sets(st.integers(1, 9), max_size=MAX_OTHERS)))),
        )
        for qid in range(1, 9)
    }
    mentions = []
    for number, document in enumerate(documents):
        for _ in range(draw(st.integers(0, 4)) if document else 0):
            first = draw(st.integers(0, len(document) - 1))
            end = draw(
                st.integers(first, min(first + 3, len(document)))
            )  # a mention may hold no token
            candidates = draw(st.dictionaries(ITEMS, st.booleans(), max_size=4))
            name = draw(st.integers(0, 3))
            mentions.append(One(number, first, end, tuple(candidates.items()), name))
    return Batch(tuple(documents), tuple(mentions), entities)


def store_of(batch: Batch) -> Store:
    idf = np.zeros(1 << TERM_BITS, np.float32)
    idf[:10] = np.arange(10) / 3 + 0.5
    return Store(batch.entities, idf)


@settings(max_examples=120)
@given(batches())
def test_features_equal_plain_loops(batch: Batch) -> None:
    store = store_of(batch)
    found = context_of(batch, store)
    wanted = by_loops(batch, store)
    assert set(found) == set(GROUPS["context"])
    for name, values in found.items():
        assert values.dtype == np.float32
        assert values.tolist() == pytest.approx([row[name] for row in wanted], abs=1e-5), name


def lone(
    documents: tuple[tuple[int, ...], ...], first: int, terms: tuple[int, ...] = (7,)
) -> dict[str, list[float]]:
    """Features of a mention of one token in the first document; its candidate has some terms, all
    of IDF 2.
    """
    batch = Batch(documents, (One(0, first, first + 1, ((1, True),)),), {1: Entity(terms=terms)})
    store = Store(batch.entities)
    return {name: values.tolist() for name, values in context_of(batch, store).items()}


@pytest.mark.parametrize(
    ("distance", "wanted"),
    [
        (1, {"near", "window", "document"}),
        (20, {"near", "window", "document"}),
        (21, {"window", "document"}),
        (100, {"window", "document"}),
        (101, {"document"}),
    ],
)
@pytest.mark.parametrize("side", [-1, 1])
def test_how_far_the_windows_reach(distance: int, wanted: set[str], side: int) -> None:
    text = [0] * 400
    text[200 + side * distance] = 7
    found = lone((tuple(text),), 200)
    assert {name for name in GROUPS["context"] if found[name] != [0.0]} == wanted
    assert found["document"] == pytest.approx([2 / 3])


def test_own_words_say_nothing_even_where_they_stand_elsewhere() -> None:
    assert lone(((7, 0, 7),), 0)["near"] == [0.0]
    assert lone(((7, 0, 7),), 0)["document"] == [0.0]
    assert lone(((0, 7, 7),), 0)["near"] == pytest.approx([math.log1p(2.0)]), "a term counts once"


def test_windows_end_with_the_document() -> None:
    assert lone(((0,), (7, 7)), 0)["window"] == [0.0]
    assert lone(((0, 0), (7,)), 1)["near"] == [0.0]
    batch = Batch(((7,), (0,)), (One(1, 0, 1, ((1, True),)),), {1: Entity(terms=(7,))})
    store = Store(batch.entities)
    assert context_of(batch, store)["window"].tolist() == [0.0]


def test_no_candidates_and_no_terms() -> None:
    for batch in (
        Batch(((),), (), {1: Entity()}),
        Batch(((0, 0),), (One(0, 0, 1, ()),), {1: Entity()}),
        Batch(((0, 0),), (One(0, 0, 1, ((1, True),)),), {1: Entity(terms=(3,))}),
    ):
        store = Store(batch.entities)
        found = context_of(batch, store)
        assert {tuple(values.tolist()) for values in found.values()} <= {(), (0.0,)}


def test_context_of_what_no_document_has() -> None:
    """A higher term hash than any in the text is looked for past the end of what is sorted."""
    highest = (1 << TERM_BITS) - 1
    batch = Batch(((1, 2),), (One(0, 0, 1, ((1, True),)),), {1: Entity(terms=(highest,))})
    store = Store(batch.entities)
    flat, tokens = flat_of(batch, store)
    found = context_features(
        flat, tokens, store, EntityPairs(flat.rows.copy(), np.zeros(1, np.int64))
    )
    assert [values.tolist() for values in found.values()] == [[0.0]] * 5


# Of each surface the candidates: anchors, popularity, found by the whole name.
SURFACES = st.lists(
    st.lists(
        st.tuples(st.integers(0, 500), st.integers(0, 500), st.booleans()), min_size=1, max_size=5
    ),
    max_size=5,
)


@given(SURFACES)
def test_the_prior_is_a_distribution_per_surface(
    surfaces: list[list[tuple[int, int, bool]]],
) -> None:
    # Only a whole name has anchors.
    rows = [
        (owner, count * is_whole, popularity, is_whole)
        for owner, own in enumerate(surfaces)
        for count, popularity, is_whole in own
    ]
    owners, counts, popularity, whole = np.array(rows, np.int64).reshape(-1, 4).T
    prior = np.sum(log_prior(owners, counts, popularity, whole > 0), axis=0)
    assert (prior <= 1e-9).all()
    for owner in set(owners.tolist()):
        of_owner = owners == owner
        if whole[of_owner].any():
            assert np.exp(prior[of_owner & (whole > 0)]).sum() == pytest.approx(1.0)
        alone = log_prior(
            np.zeros(of_owner.sum(), np.int64),
            counts[of_owner],
            popularity[of_owner],
            whole[of_owner] > 0,
        )
        assert prior[of_owner].tolist() == pytest.approx(np.sum(alone, axis=0).tolist()), (
            "others change nothing"
        )


def test_items_with_longer_names_take_nothing_from_those_with_the_whole_name() -> None:
    owners, counts = np.zeros(3, np.int64), np.zeros(3)
    popularity, whole = np.array([9, 0, 9999]), np.array([True, True, False])
    prior, linked = log_prior(owners, counts, popularity, whole)
    assert linked.tolist() == pytest.approx([0.0] * 3), "no links add nothing"
    assert np.exp(prior[:2]).tolist() == pytest.approx([10 / 11, 1 / 11])
    assert prior[2] == pytest.approx(np.log(10_000 / 10_011))


def test_counts_outweigh_popularity_and_popularity_decides_without() -> None:
    owners, whole = np.zeros(2, np.int64), np.ones(2, bool)
    many = np.sum(log_prior(owners, np.array([0, 100]), np.array([1000, 1]), whole), axis=0)
    none, added = log_prior(owners, np.array([0, 0]), np.array([9, 0]), whole)
    assert many[1] > many[0]
    assert added.tolist() == pytest.approx([0.0, 0.0])
    assert np.exp(none).tolist() == pytest.approx([10 / 11, 1 / 11])


@pytest.mark.parametrize(
    ("whole", "wanted", "why"),
    [
        ([True, True, False], [-2.0, 0.0, 0.0], "the best of the whole names is the measure"),
        ([False, False, False], [-4.0, -2.0, 0.0], "without one, the best of all"),
        ([True, False, False], [0.0, 0.0, 0.0], "more than the measure is no more evidence"),
    ],
)
def test_popularity_is_measured_against_the_best(
    whole: list[bool], wanted: list[float], why: str
) -> None:
    values = np.array([1.0, 3.0, 5.0])
    found = below_best(np.zeros(3, np.int64), values, np.array(whole))
    assert found.tolist() == wanted, why
    # A knowledge base in which every item has more, or none has any, says the same.
    assert below_best(np.zeros(3, np.int64), values + 7, np.array(whole)).tolist() == wanted
    none = below_best(np.zeros(3, np.int64), np.zeros(3), np.array(whole))
    assert none.tolist() == [0.0] * 3


def test_groups_are_the_columns_of_the_table() -> None:
    assert tuple(GROUPS) == PARTS
    assert len(set(FEATURES)) == len(FEATURES)
    assert set(STATIC) < set(FEATURES)
    assert set(FEATURES) > LOCAL
