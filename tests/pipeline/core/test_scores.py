"""Scores against gold, by hand."""

from __future__ import annotations

import pytest

from pipeline.core.scores import Gold, Outcome, at_gold_spans, end_to_end

A, B, C, D, E = (("d", place, place + 3) for place in range(0, 50, 10))
GOLD = [
    Gold(A, 1, True, ("head",)),
    Gold(B, 2, True, ("tail", "rare")),
    Gold(C, 3, True, ("tail", "rare")),
    Gold(D, None, False),  # NIL
    Gold(E, 9, False),  # not in the KB
]
LINKS = {
    A: Outcome(1, (1,), ("head",)),
    B: Outcome(2, (2, 7), ("tail", "rare")),  # right although rare
    C: Outcome(8, (8, 3), ("head",)),  # wrong item
    D: Outcome(5, (5,), ("tail",)),  # links a NIL
    ("d", 99, 100): Outcome(6, (6,), ("head",)),  # no gold span
}


def test_end_to_end() -> None:
    scores = end_to_end(GOLD, LINKS)
    assert scores["precision"] == pytest.approx(2 / 5)
    assert scores["recall"] == pytest.approx(2 / 3, abs=1e-4)
    assert scores["f1"] == pytest.approx(4 / 8)
    assert (scores["wrong_item"], scores["no_gold_span"]) == (2, 1)
    assert scores["detection_recall"] == pytest.approx(4 / 5)
    assert scores["nil_left_unlinked"] == pytest.approx(1 / 2)
    assert scores["slices"]["rare"] == {"gold": 2, "predicted": 1, "precision": 1.0, "recall": 0.5, "f1": 0.6667}
    assert scores["slices"]["tail"] == {"gold": 2, "predicted": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert scores["slices"]["head"] == {"gold": 1, "predicted": 3, "precision": 0.3333, "recall": 1.0, "f1": 0.5}


def test_an_undetected_rare_mention_still_counts() -> None:
    assert end_to_end(GOLD, {A: LINKS[A]})["slices"]["rare"]["recall"] == 0.0


def test_at_gold_spans() -> None:
    scores = at_gold_spans(GOLD, LINKS)
    assert scores["accuracy"] == pytest.approx(2 / 3, abs=1e-4)
    assert scores["candidate_recall"] == 1.0
    assert scores["slices"]["rare"]["accuracy"] == 0.5
    assert scores["slices"]["rare"]["candidate_recall"] == 1.0
    below = at_gold_spans(GOLD, {**LINKS, A: Outcome(None, (1,))})
    assert below["accuracy"] == pytest.approx(1 / 3, abs=1e-4)  # NIL decisions count
    assert below["accuracy_best_candidate"] == pytest.approx(2 / 3, abs=1e-4)


def test_nothing_to_score() -> None:
    assert end_to_end([], {})["f1"] is None
    assert at_gold_spans([], {})["accuracy"] is None
