"""Candidates, scores, NIL: a small index and store in memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.candidates import exact_candidates, fuzzy_candidates, is_known
from pipeline.core.disambiguation import Scores, context_score, log_prior, probabilities, ranked, string_score
from pipeline.core.entity_types import MAX_CLIMB, ORGANISATION, PERSON, PLACE, ROOTS, class_types, type_table
from pipeline.core.fuzzy import block_hashes, query_hashes, reorderings
from pipeline.core.linking import Linker, LinkSettings
from pipeline.storage.alias_index import EMPTY, Postings
from pipeline.storage.entity_store import term_hash, text_terms

CITY, TEXAS, HILTON, STRASBOURG = 90, 830149, 47899, 6602


class Index:
    keys = {
        "paris": ([CITY, TEXAS, HILTON], [40, 2, 0]),
        "strasbourg": ([STRASBOURG], [1]),
        "jordan michael": ([5], [0]),
    }

    def postings(self, key: str) -> Postings:
        if key not in self.keys:
            return EMPTY
        qids, counts = self.keys[key]
        return Postings(np.array(qids, np.uint32), np.array(counts, np.uint32), np.ones(len(qids), np.uint8))

    def similar_keys(self, key: str) -> list[str]:
        wanted, orders = set(query_hashes(key)), set(reorderings(key))
        return [other for other in self.keys if wanted & set(block_hashes(other)) or other in orders]


class Store:
    idf = np.full(1 << 22, 6.0, np.float32)
    known = {
        CITY: ("Paris", PLACE, 100, "capital France"),
        TEXAS: ("Paris", PLACE, 3, "town Texas"),
        HILTON: ("Paris Hilton", PERSON, 20, "actress hotel"),
        STRASBOURG: ("Strasbourg", PLACE, 9, ""),
        5: ("Michael Jordan", PERSON, 9, ""),
    }
    qids = list(known)

    def rows(self, qids):
        return np.array([self.qids.index(qid) if qid in self.known else -1 for qid in qids.tolist()], np.int64)

    def _column(self, rows, place):
        return np.array([self.known[self.qids[row]][place] for row in rows.tolist()])

    def popularity(self, rows):
        return self._column(rows, 2)

    def types(self, rows):
        return self._column(rows, 1)

    def is_meta(self, rows):
        return np.zeros(len(rows), bool)

    def label(self, row):
        return self.known[self.qids[row]][0]

    def terms(self, row):
        return np.array(sorted(text_terms(self.known[self.qids[row]][3])), np.uint32)


def linker(**changes: object) -> Linker:
    settings = LinkSettings(
        **{
            "bias": -7.4,
            "weights": (0.5, 8.0, 6.0, 2.0),
            "top_k": 8,
            "min_confidence": 0.3,
            "fuzzy": True,
            "fuzzy_cutoff": 85.0,
        }
        | changes
    )
    return Linker(Index(), Store(), settings, text_terms)


@pytest.mark.parametrize(
    ("surface", "ner_type", "context", "qid"),
    [
        ("Paris", None, "", CITY),  # the prior decides
        ("Paris", "GPE", "a small town in Texas near Dallas", TEXAS),  # the context outweighs it
        ("Paris", "PERSON", "the actress and the hotel", HILTON),  # type and context
        ("Strassbourg", "GPE", "", STRASBOURG),  # one letter too many
        ("Velmora", "GPE", "", None),  # no candidate: NIL
    ],
)
def test_link(surface: str, ner_type: str | None, context: str, qid: int | None) -> None:
    link = linker().link(surface, ner_type, context, allow_fuzzy=True)
    assert link.qid == qid
    assert len(link.candidates) == (0 if qid is None else len(link.candidates))
    assert sum(candidate["score"] for candidate in link.candidates) <= 1.0


def test_low_confidence_is_nil_but_keeps_its_candidates() -> None:
    link = linker(min_confidence=0.999).link("Paris", None, "", allow_fuzzy=True)
    assert link.qid is None
    assert [candidate["qid"] for candidate in link.candidates][0] == CITY
    assert 0 < link.confidence < 0.999


def test_fuzzy_is_asked_only_where_allowed() -> None:
    assert linker().link("Strassbourg", "GPE", "", allow_fuzzy=False).qid is None
    assert linker(fuzzy=False).link("Strassbourg", "GPE", "", allow_fuzzy=True).qid is None


def test_top_k() -> None:
    assert len(linker(top_k=2).link("Paris", None, "", allow_fuzzy=True).candidates) == 2


def test_candidates() -> None:
    assert is_known("the Paris", Index())
    assert exact_candidates("Paris", Index()).similarity.tolist() == [1.0, 1.0, 1.0]
    assert exact_candidates("the Paris", Index()).similarity[0] < 1
    assert fuzzy_candidates("Michael Jordan", Index(), 90).qids.tolist() == [5]  # swapped words
    assert len(fuzzy_candidates("Zzzzzzz", Index(), 90).qids) == 0


def test_log_prior_is_a_distribution_and_counts_win() -> None:
    prior = log_prior(np.array([0, 9]), np.array([1000, 1]))
    assert np.exp(prior).sum() == pytest.approx(1.0)
    assert prior[1] > prior[0]
    assert log_prior(np.array([0]), np.array([0])).tolist() == [0.0]


def test_context_score_counts_shared_terms_only() -> None:
    terms = np.array(sorted([term_hash("river"), term_hash("france")]), np.uint32)
    entities = [np.array([term_hash("river")], np.uint32), np.array([term_hash("moon")], np.uint32)]
    scores = context_score(terms, entities, np.full(1 << 22, 4.0, np.float32))
    assert scores.tolist() == [pytest.approx(4 / 16), 0.0]
    assert context_score(np.empty(0, np.uint32), entities, Store.idf).tolist() == [0.0, 0.0]


@given(st.lists(st.tuples(st.floats(-9, 0), st.floats(0, 1)), min_size=1, max_size=8))
def test_probabilities_leave_room_for_nil(values: list[tuple[float, float]]) -> None:
    prior, string = (np.array(column, np.float32) for column in zip(*values, strict=True))
    scores = Scores(prior, string, np.zeros_like(prior), np.zeros_like(prior))
    found = probabilities(scores, -2.0, (0.5, 3.0, 2.0, 1.0))
    assert found.min() >= 0
    assert found.sum() < 1
    better = prior * 0.5 + string * 3
    assert found[int(np.argmax(better))] == found.max()


def test_ranked_breaks_ties_by_popularity_then_id() -> None:
    order = ranked(np.array([0.2, 0.2, 0.2]), np.array([1, 5, 5]), np.array([1, 9, 3]))
    assert order.tolist() == [2, 1, 0]


def test_string_score() -> None:
    scores = string_score("Paris", ["Paris", "Paris Hilton"], np.ones(2, np.float32))
    assert scores[0] == pytest.approx(1.0)
    assert scores[0] > scores[1]


def types_of(parents: dict[int, list[int]]) -> dict[int, int]:
    edges = np.array([(child, above) for child in parents for above in parents[child]], np.uint32).reshape(-1, 2)
    classes, bits = class_types(edges[:, 0], edges[:, 1])
    return dict(zip(classes.tolist(), bits.tolist(), strict=True))


def climbed(class_qid: int, parents: dict[int, list[int]]) -> int:
    """Breadth first from one class: the plain way."""
    seen, level = {class_qid}, [class_qid]
    for _ in range(MAX_CLIMB):
        bits = 0
        for qid in level:
            bits |= ROOTS.get(qid, 0)
        if bits or not level:
            return bits
        level = list({above for qid in level for above in parents.get(qid, [])} - seen)
        seen |= set(level)
    return 0


CLASS = st.sampled_from([*range(100, 112), 5, 515, 43229, 95074])


@given(st.lists(st.tuples(CLASS, CLASS), max_size=25))
def test_types_of_all_classes_are_those_of_each(edges: list[tuple[int, int]]) -> None:
    parents: dict[int, list[int]] = {}
    for child, above in edges:
        parents.setdefault(child, []).append(above)
    for qid, bits in types_of(parents).items():
        assert bits == climbed(qid, parents)


def test_types_of_long_chains() -> None:
    parents = {1000 + place: [1001 + place] for place in range(14)} | {1014: [515]}
    for qid, bits in types_of(parents).items():
        assert bits == climbed(qid, parents), qid


def test_types() -> None:
    classes = types_of({999: [1000], 1000: [6256]})
    assert (classes[515], classes[999], classes[1000]) == (PLACE, PLACE, PLACE)
    assert types_of({7: [8], 8: [7]})[7] == 0  # a cycle ends
    table = type_table("PERSON")
    assert table[PERSON] == 1.0
    assert table[PLACE] == 0.0
    assert table[PERSON | PLACE] == 1.0
    assert table[0] == 0.5
    assert type_table("ORG")[ORGANISATION] == 1.0
