"""Figures of relation classification by hand, and by a second implementation of both official scorers."""

import random
from collections import Counter

import pytest

from schemas.errors import ConfigError
from trelm_train.finetune.relation_scores import (
    best_constant,
    has_directions,
    negative_class,
    relation_scores,
    semeval_macro_f1,
)

NO = "no_relation"


def test_by_hand_without_the_negative_class() -> None:
    gold = ["a", "a", "b", NO, NO, NO]
    said = ["a", NO, "a", NO, "b", NO]
    scores = relation_scores(gold, said, NO)
    # Guessed: a, a, b; of the three relations one was found.
    assert scores["micro_precision"] == pytest.approx(1 / 3)
    assert scores["micro_recall"] == pytest.approx(1 / 3)
    assert scores["micro_f1"] == pytest.approx(1 / 3)
    assert scores["accuracy"] == pytest.approx(3 / 6)


def test_a_wrong_negative_class_would_raise_f1() -> None:
    gold, said = ["a", NO, NO, NO], [NO, NO, NO, NO]
    assert relation_scores(gold, said, NO)["micro_f1"] == 0
    assert relation_scores(gold, said, "NA")["micro_f1"] == 3 / 4


def test_nothing_guessed() -> None:
    scores = relation_scores(["a", "b", NO], [NO, NO, NO], NO)
    assert (scores["micro_precision"], scores["micro_recall"], scores["micro_f1"]) == (1, 0, 0)


def test_no_relation_in_the_gold() -> None:
    scores = relation_scores([NO, NO], [NO, "a"], NO)
    assert (scores["micro_precision"], scores["micro_recall"], scores["micro_f1"]) == (0, 0, 0)
    assert relation_scores([], [], NO)["micro_f1"] == 0


def test_without_a_negative_class_micro_f1_is_accuracy() -> None:
    scores = relation_scores(["a", "b", "c", "a"], ["a", "b", "b", "b"], None)
    assert scores["micro_f1"] == scores["accuracy"] == 1 / 2


def plain(gold: list[str], said: list[str], negative: str | None) -> tuple[float, float, float]:
    """TACRED's scorer, once more: counts by relation, then sums over them."""
    correct: Counter[str] = Counter()
    guessed: Counter[str] = Counter()
    actual: Counter[str] = Counter()
    for row in range(len(gold)):
        if gold[row] == negative and said[row] == negative:
            continue
        if gold[row] == negative:
            guessed[said[row]] += 1
        elif said[row] == negative:
            actual[gold[row]] += 1
        else:
            guessed[said[row]] += 1
            actual[gold[row]] += 1
            if gold[row] == said[row]:
                correct[said[row]] += 1
    precision = 1.0
    if sum(guessed.values()) > 0:
        precision = sum(correct.values()) / sum(guessed.values())
    recall = 0.0
    if sum(actual.values()) > 0:
        recall = sum(correct.values()) / sum(actual.values())
    f1 = 0.0
    if precision + recall > 0.0:
        f1 = 2.0 * precision * recall / (precision + recall)
    return precision, recall, f1


def test_a_second_implementation_agrees_on_1000_cases() -> None:
    for seed in range(1000):
        rng = random.Random(seed)
        labels = ["a", "b", "c", NO]
        gold = rng.choices(labels, [1, 2, 1, rng.choice([0, 4])], k=rng.choice([1, 5, 40]))
        said = [true if rng.random() < 0.5 else rng.choice(labels) for true in gold]
        negative = rng.choice([NO, NO, None])
        scores = relation_scores(gold, said, negative)
        found = (scores["micro_precision"], scores["micro_recall"], scores["micro_f1"])
        assert found == pytest.approx(plain(gold, said, negative)), (gold, said, negative)


def test_semeval_by_hand() -> None:
    gold = ["X(e1,e2)", "X(e2,e1)", "Y(e1,e2)", "Other"]
    said = ["X(e1,e2)", "X(e1,e2)", "Other", "Y(e1,e2)"]
    # X: one right of two guessed and two in the gold: the wrong direction is wrong. Y: none right.
    assert semeval_macro_f1(gold, said, "Other") == pytest.approx((1 / 2 + 0) / 2)
    scores = relation_scores(gold, said, "Other")
    assert scores["semeval_macro_f1"] == pytest.approx(1 / 4)
    # Micro over directed labels: one right of three guessed, three in the gold.
    assert scores["micro_f1"] == pytest.approx(1 / 3)


def test_only_labels_with_directions_have_semevals_score() -> None:
    assert has_directions(["X(e1,e2)", "Other"], "Other")
    assert not has_directions(["X(e1,e2)", "Y"], "Other")
    assert not has_directions(["Other"], "Other")
    assert "semeval_macro_f1" not in relation_scores(["a", NO], ["a", NO], NO)


def plain_semeval(gold: list[str], said: list[str]) -> float:
    """SemEval's scorer, once more: a confusion matrix with a class of its own for wrong directions."""
    matrix: dict[tuple[str, str], int] = {}
    for true, guess in zip(gold, said, strict=True):
        true_name, guess_name = true.split("(")[0], guess.split("(")[0]
        column = "WRONG" if true_name == guess_name and true != guess else guess_name
        matrix[(column, true_name)] = matrix.get((column, true_name), 0) + 1
    total, relations = 0.0, [name for name in {true.split("(")[0] for true in gold} if name != "Other"]  # fmt: skip
    for name in relations:
        right = matrix.get((name, name), 0)
        proposed = sum(count for (column, _), count in matrix.items() if column == name)
        answers = sum(count for (_, true), count in matrix.items() if true == name)
        precision = right / (proposed + matrix.get(("WRONG", name), 0)) if proposed else 0.0
        recall = right / answers
        total += 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return total / len(relations) if relations else 0.0


def test_a_second_semeval_scorer_agrees_on_1000_cases() -> None:
    labels = [f"{name}({way})" for name in "XYZ" for way in ("e1,e2", "e2,e1")] + ["Other"]
    for seed in range(1000):
        rng = random.Random(seed)
        gold = rng.choices(labels, k=rng.choice([1, 5, 40]))
        said = [true if rng.random() < 0.4 else rng.choice(labels) for true in gold]
        assert semeval_macro_f1(gold, said, "Other") == pytest.approx(plain_semeval(gold, said))


@pytest.mark.parametrize(
    ("labels", "given", "found"),
    [
        (["a", "no_relation"], None, "no_relation"),
        (["a", "Other"], None, "Other"),
        (["a", "b"], None, None),
        (["a", "nothing"], "nothing", "nothing"),  # a name of one's own
        (["a", "NA"], "NA", "NA"),
    ],
)
def test_the_negative_class(labels: list[str], given: str | None, found: str | None) -> None:
    assert negative_class(labels, given) == found


@pytest.mark.parametrize(
    ("labels", "given", "part"),
    [
        (
            ["a", "no_relation"],
            "NA",
            "no row has this label; give --negative 'no_relation'",
        ),
        (["a", "b"], "no_relation", "nor any other negative class"),
        (["a", "NA"], "a", "would then count as a relation"),  # the true one would be scored
        (["a", "NA", "Other"], None, "give the negative class by --negative"),
        (["a", "NA", "Other"], "NA", "'Other', which would then count"),
    ],
)
def test_a_wrong_negative_class_is_refused(labels: list[str], given: str | None, part: str) -> None:
    with pytest.raises(ConfigError, match=part.replace("(", r"\(")):
        negative_class(labels, given)


def test_no_constant_answer_is_better_than_the_best_one() -> None:
    labels = ["a", "b", "c", NO]
    for seed in range(200):
        rng = random.Random(seed)
        gold = rng.choices(labels, [1, 1, 1, 3], k=12)
        best = max(relation_scores(gold, [label] * 12, NO)["micro_f1"] for label in labels)
        found = best_constant(gold, NO)
        assert found is not None
        assert relation_scores(gold, [found] * 12, NO)["micro_f1"] == best
    assert best_constant([NO, NO], NO) is None
