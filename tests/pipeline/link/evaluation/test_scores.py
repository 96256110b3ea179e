"""Scores against gold, by hand; every wrong mention has one class of error."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.link.evaluation.scores import (
    ERROR_CLASSES,
    NIL_LINKED,
    Gold,
    ItemFacts,
    OverlapFinder,
    Prediction,
    SpanKey,
    at_gold_spans,
    candidate_recall,
    count_errors,
    detection,
    end_to_end,
    find_errors,
    is_rare,
)

A, B, C, D, E = (("d", place, place + 3) for place in range(0, 50, 10))
GOLD = [
    Gold(A, 1, True, ("head",)),
    Gold(B, 2, True, ("tail", "rare")),
    Gold(C, 3, True, ("tail", "rare")),
    Gold(D, None, False),  # NIL
    Gold(E, 9, False),  # not in the KB
]
LINKS = {
    A: Prediction(1, (1,), ("head",)),
    B: Prediction(2, (2, 7), ("tail", "rare")),  # right although rare
    C: Prediction(8, (8, 3), ("head",)),  # wrong item
    D: Prediction(5, (5,), ("tail",)),  # links a NIL
    ("d", 99, 100): Prediction(6, (6,), ("head",)),  # no gold span
}


def test_end_to_end() -> None:
    scores = end_to_end(GOLD, LINKS)
    assert scores["precision"] == pytest.approx(2 / 5)
    assert scores["recall"] == pytest.approx(2 / 3, abs=1e-4)
    assert scores["f1"] == pytest.approx(4 / 8)
    assert (scores["wrong_item"], scores["no_gold_span"]) == (2, 1)
    assert scores["detection_recall"] == pytest.approx(4 / 5)
    assert scores["nil_left_unlinked"] == pytest.approx(1 / 2)
    assert scores["slices"]["rare"] == {
        "gold": 2,
        "predicted": 1,
        "precision": 1.0,
        "recall": 0.5,
        "f1": 0.6667,
    }
    assert scores["slices"]["tail"] == {
        "gold": 2,
        "predicted": 2,
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
    }
    assert scores["slices"]["head"] == {
        "gold": 1,
        "predicted": 3,
        "precision": 0.3333,
        "recall": 1.0,
        "f1": 0.5,
    }


def test_an_undetected_rare_mention_still_counts() -> None:
    assert end_to_end(GOLD, {A: LINKS[A]})["slices"]["rare"]["recall"] == 0.0


def test_at_gold_spans() -> None:
    scores = at_gold_spans(GOLD, LINKS)
    assert scores["accuracy"] == pytest.approx(2 / 3, abs=1e-4)
    assert scores["candidate_recall"] == 1.0
    assert scores["slices"]["rare"]["accuracy"] == 0.5
    assert scores["slices"]["rare"]["candidate_recall"] == 1.0
    below = at_gold_spans(GOLD, {**LINKS, A: Prediction(None, (1,))})
    assert below["accuracy"] == pytest.approx(1 / 3, abs=1e-4)  # NIL decisions count
    assert below["accuracy_best_candidate"] == pytest.approx(2 / 3, abs=1e-4)


def test_nothing_to_score() -> None:
    assert end_to_end([], {})["f1"] is None
    assert at_gold_spans([], {})["accuracy"] is None
    assert detection([], {})["span_recall"] is None
    assert count_errors([], [])["classes"]["nil"] == {
        "count": 0,
        "share": None,
        "share_of_gold": None,
    }


def test_rare_is_a_candidate_that_is_not_the_most_pointed_to() -> None:
    in_degree = {7: 5, 8: 5, 9: 4}
    assert is_rare(9, (9, 7), in_degree)
    assert not is_rare(7, (9, 7), in_degree)
    assert is_rare(8, (8, 7), in_degree), "of equals the lowest QID is the most pointed to"
    assert not is_rare(7, (8, 7), in_degree)
    assert not is_rare(3, (2, 4), in_degree), "no candidate"
    assert is_rare(3, (3, 2), in_degree), "nothing points to either"
    assert not is_rare(3, (), in_degree)


HERE = ("d", 10, 15)
PERSON, PLACE = 1, 4
# Triples that point to 1, 2, 3: 10, 5, 0. 1 and 2 are persons, 3 is a place, 4 is of no known type.
FACTS = ItemFacts({1: 10, 2: 5}, {1: PERSON, 2: PERSON | 8, 3: PLACE, 4: 0})


@pytest.mark.parametrize(
    ("gold", "links", "name"),
    [
        (1, {}, "not_detected"),
        (
            1,
            {("d", 15, 18): Prediction(1, (1,)), ("d", 5, 10): Prediction(1, (1,))},
            "not_detected",
        ),  # touching is not over
        (1, {("e", 10, 15): Prediction(1, (1,))}, "not_detected"),  # another document
        (1, {("d", 10, 16): Prediction(1, (1,))}, "wrong_span"),  # although the item is right
        (1, {("d", 0, 11): Prediction(None)}, "wrong_span"),
        (1, {HERE: Prediction(None)}, "no_candidate"),
        (1, {HERE: Prediction(2, (2, 3))}, "no_candidate"),
        (1, {HERE: Prediction(None, (1, 2))}, "nil"),  # the best candidate, not believed
        (1, {HERE: Prediction(None, (2, 1))}, "nil"),  # not the best one either
        (1, {HERE: Prediction(3, (3, 1))}, "type"),  # a place for a person
        (2, {HERE: Prediction(3, (3, 2))}, "type"),  # goes before rare and popular
        (2, {HERE: Prediction(1, (1, 2))}, "rare"),  # one type in common
        (4, {HERE: Prediction(1, (1, 4))}, "rare"),  # unknown type
        (1, {HERE: Prediction(2, (2, 1))}, "popular"),
        (1, {HERE: Prediction(4, (4, 1))}, "popular"),  # chosen item of unknown type
        (1, {HERE: Prediction(1, (2, 1))}, None),  # right
        (1, {HERE: Prediction(1)}, None),  # right, listed or not
    ],
)
def test_class_of_an_error(gold: int, links: dict[SpanKey, Prediction], name: str | None) -> None:
    found = list(find_errors([Gold(HERE, gold, True)], links, FACTS))
    assert [error.name for error in found] == ([] if name is None else [name])


@pytest.mark.parametrize("qid", [None, 99])
def test_linked_though_nil_or_not_in_the_kb(qid: int | None) -> None:
    gold = [Gold(HERE, qid, False)]
    assert [error.name for error in find_errors(gold, {HERE: Prediction(1, (1,))}, FACTS)] == [
        NIL_LINKED
    ]
    assert not list(find_errors(gold, {HERE: Prediction(None, (1,))}, FACTS))
    assert not list(find_errors(gold, {("d", 9, 15): Prediction(1, (1,))}, FACTS)), (
        "another span is another mention"
    )


def test_error_names_the_mention_at_the_span_or_over_it() -> None:
    links = {HERE: Prediction(2, (2, 1)), ("d", 9, 20): Prediction(1, (1,))}
    gold = [Gold(HERE, 1, True), Gold(("d", 18, 19), 1, True), Gold(("d", 30, 31), 1, True)]
    assert [error.mention for error in find_errors(gold, links, FACTS)] == [
        HERE,
        ("d", 9, 20),
        None,
    ]


def test_counts_and_shares_of_errors() -> None:
    counted = count_errors(find_errors(GOLD, LINKS, FACTS), GOLD)
    assert counted["wrong_in_kb"] == 1
    assert counted["classes"]["rare"] == {"count": 0, "share": 0.0, "share_of_gold": 0.0}
    assert counted["classes"]["popular"] == {"count": 1, "share": 1.0, "share_of_gold": 0.3333}
    assert counted[NIL_LINKED] == {"count": 1, "share_of_gold": 0.5}
    assert tuple(counted["classes"]) == ERROR_CLASSES


QIDS = st.integers(1, 5)
SPANS = st.tuples(st.sampled_from("de"), st.integers(0, 20), st.integers(1, 6)).map(
    lambda span: (span[0], span[1], span[1] + span[2])
)


@st.composite
def outcomes(draw: st.DrawFn) -> Prediction:
    candidates = tuple(draw(st.lists(QIDS, max_size=4, unique=True)))
    return Prediction(draw(st.sampled_from([None, *candidates])), candidates)


@pytest.mark.slow
@given(
    st.dictionaries(SPANS, st.tuples(QIDS, st.booleans()), max_size=12),
    st.dictionaries(SPANS, outcomes(), max_size=12),
    st.dictionaries(QIDS, st.integers(0, 3)),
    st.dictionaries(QIDS, st.integers(0, 7)),
)
def test_classes_partition_the_wrong_mentions(spans, links, in_degree, types) -> None:
    gold = [Gold(key, qid, in_kb) for key, (qid, in_kb) in spans.items()]
    facts = ItemFacts(in_degree, types)
    found = list(find_errors(gold, links, facts))
    wrong = {
        one.key for one in gold if one.in_kb and links.get(one.key, Prediction(None)).qid != one.qid
    }
    assert Counter(error.gold.key for error in found if error.gold.in_kb) == Counter(wrong)
    assert {error.name for error in found if error.gold.in_kb} <= set(ERROR_CLASSES)
    assert {error.name for error in found if not error.gold.in_kb} <= {NIL_LINKED}
    counted = count_errors(found, gold)
    assert (
        counted["wrong_in_kb"]
        == len(wrong)
        == sum(part["count"] for part in counted["classes"].values())
    )
    right = sum(one.in_kb for one in gold) - len(wrong)
    assert end_to_end(gold, links)["recall"] == (
        round(right / (right + len(wrong)), 4) if right + len(wrong) else None
    )


@given(st.lists(SPANS, max_size=15), SPANS)
def test_overlap_equals_a_look_at_every_mention(keys: list[SpanKey], span: SpanKey) -> None:
    over = {key for key in keys if key[0] == span[0] and key[1] < span[2] and span[1] < key[2]}
    found = OverlapFinder(keys).overlapping(span)
    assert found in over if over else found is None


def test_candidate_recall_at_cutoffs() -> None:
    many = tuple(range(100, 130))
    links = {
        A: Prediction(1, (1,)),
        B: Prediction(7, (7, 2)),
        C: Prediction(100, (*many[:19], 3)),
        D: Prediction(5, (5,)),
    }
    gold = [*GOLD, Gold(E[:2] + (60,), 129, True)]
    links[gold[-1].key] = Prediction(100, many)
    assert candidate_recall(gold, links, 64) == {"1": 0.25, "5": 0.5, "20": 0.75, "all": 1.0}
    assert candidate_recall(gold, links, 8) == {"1": 0.25, "5": 0.5, "20": None, "all": 1.0}, (
        "link.top_k is 8"
    )
    assert candidate_recall(GOLD, {}, 20) == {"1": 0.0, "5": 0.0, "20": 0.0, "all": 0.0}, (
        "a span not found lists none"
    )
    assert candidate_recall([], {}, 64) == {"1": None, "5": None, "20": None, "all": None}


def test_detection() -> None:
    gold = [
        Gold(A, 1, True, surface="Ada"),
        Gold(B, 2, True, surface="1812"),
        Gold(C, 3, True, surface="river"),
        Gold(D, 4, True, surface="\u4eac"),  # no letter case
        Gold(E, None, False, surface="Eve"),  # NIL: counts nowhere
    ]
    links = {
        A: Prediction(1, detector="ner+dictionary"),
        B: Prediction(7, detector="dictionary"),
        (D[0], D[1], D[2] + 1): Prediction(4, detector="anchor"),  # another span
        E: Prediction(5, detector="ner"),
    }
    assert detection(gold, links) == {
        "span_recall": 0.5,
        "span_recall_by_first_character": {
            "capital": {"gold": 1, "recall": 1.0},
            "digit": {"gold": 1, "recall": 1.0},
            "lower case": {"gold": 1, "recall": 0.0},
            "other": {"gold": 1, "recall": 0.0},
        },
        "item_accuracy_at_found_spans": 0.5,
        "detectors": {
            "anchor": {"recall": 0.0, "recall_only_by_it": 0.0},
            "dictionary": {"recall": 0.5, "recall_only_by_it": 0.25},
            "ner": {"recall": 0.25, "recall_only_by_it": 0.0},
        },
    }
