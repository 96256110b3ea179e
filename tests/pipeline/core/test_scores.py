"""Scores against gold, by hand."""

from __future__ import annotations

import pytest

from pipeline.core.scores import Gold, Outcome, at_gold_spans, end_to_end

A, B, C, D, E = (("d", place, place + 3) for place in range(0, 50, 10))


def outcome(qid: int | None, *candidates: tuple[int, float]) -> Outcome:
    return Outcome(qid, candidates)


GOLD = [
    Gold(A, 1, True, "head"),
    Gold(B, 2, True, "tail"),
    Gold(C, 3, True, "tail"),
    Gold(D, None, False, "not linked"),  # NIL
    Gold(E, 9, False, "not linked"),  # not in the KB
]
LINKS = {
    A: outcome(1, (1, -0.1)),
    B: outcome(2, (2, -2.0), (7, -0.1)),  # right although rare
    C: outcome(8, (8, -0.1), (3, -3.0)),  # wrong item, the gold one is rare
    D: outcome(5, (5, -0.1)),  # links a NIL
    ("d", 99, 100): outcome(6, (6, 0.0)),  # no gold span
}


def test_end_to_end() -> None:
    scores = end_to_end(GOLD, LINKS)
    assert scores["precision"] == pytest.approx(2 / 5)
    assert scores["recall"] == pytest.approx(2 / 3, abs=1e-4)
    assert scores["f1"] == pytest.approx(4 / 8)
    assert (scores["wrong_item"], scores["no_gold_span"]) == (2, 1)
    assert scores["detection_recall"] == pytest.approx(4 / 5)
    assert scores["nil_left_unlinked"] == pytest.approx(1 / 2)
    assert scores["slices"]["rare"] == {"n": 2, "right": 0.5, "candidate_recall": 1.0}
    assert scores["slices"]["band tail"] == {"n": 2, "right": 0.5, "candidate_recall": 1.0}
    missed = end_to_end(GOLD, {A: LINKS[A]})["slices"]["band tail"]
    assert missed == {"n": 2, "right": 0.0, "candidate_recall": 0.0}


def test_at_gold_spans() -> None:
    scores = at_gold_spans(GOLD, LINKS)
    assert scores["accuracy"] == pytest.approx(2 / 3, abs=1e-4)
    assert scores["candidate_recall"] == 1.0
    below = at_gold_spans(GOLD, {**LINKS, A: outcome(None, (1, -0.1))})
    assert below["accuracy"] == pytest.approx(1 / 3, abs=1e-4)  # NIL decisions count
    assert below["accuracy_best_candidate"] == pytest.approx(2 / 3, abs=1e-4)


def test_nothing_to_score() -> None:
    assert end_to_end([], {})["f1"] is None
