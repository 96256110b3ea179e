"""Figures of typing by hand, and by a second implementation that follows the protocol row by row."""

import random
from itertools import chain, combinations

import pytest

from trelm_train.finetune.typing_scores import best_constant, typing_scores

S = frozenset


def test_by_hand_where_macro_is_not_micro() -> None:
    gold = [S("ab"), S("a"), S("abcd")]
    predicted = [S("ab"), S("b"), S("a")]
    scores = typing_scores(gold, predicted)
    # Right: 2 + 0 + 1; predicted: 2 + 1 + 1; gold: 2 + 1 + 4.
    assert scores["micro_precision"] == pytest.approx(3 / 4)
    assert scores["micro_recall"] == pytest.approx(3 / 7)
    assert scores["micro_f1"] == pytest.approx(6 / 11)
    # Per row: precision 1, 0, 1; recall 1, 0, 1/4.
    assert scores["loose_macro_precision"] == pytest.approx(2 / 3)
    assert scores["loose_macro_recall"] == pytest.approx(5 / 12)
    assert scores["loose_macro_f1"] == pytest.approx(2 * (2 / 3) * (5 / 12) / (2 / 3 + 5 / 12))
    assert scores["strict_accuracy"] == pytest.approx(1 / 3)


def test_empty_gold_counts_in_precision_alone() -> None:
    without = typing_scores([S("a")], [S("a")])
    silent = typing_scores([S("a"), S()], [S("a"), S()])
    wrong = typing_scores([S("a"), S()], [S("a"), S("b")])
    assert without["micro_f1"] == silent["micro_f1"] == 1
    assert wrong["micro_precision"] == 1 / 2
    assert wrong["micro_recall"] == wrong["loose_macro_recall"] == 1
    # Nothing was asked, and nothing was said: that is right.
    assert silent["strict_accuracy"] == 1
    assert wrong["strict_accuracy"] == 1 / 2


def test_labels_that_training_lacks_are_missed() -> None:
    scores = typing_scores([S(("known", "new"))], [S(("known",))])
    assert (scores["micro_precision"], scores["micro_recall"]) == (1, 1 / 2)


@pytest.mark.parametrize("gold", [[S("a"), S("b")], [S(), S()], []])
def test_nothing_predicted_is_0(gold: list[frozenset[str]]) -> None:
    scores = typing_scores(gold, [S()] * len(gold))
    strict = scores.pop("strict_accuracy")
    assert set(scores.values()) == {0}
    assert strict == (1 if gold == [S(), S()] else 0)


def plain(gold: list[list[str]], predicted: list[list[str]]) -> dict[str, float]:
    """The protocol, once more: ERNIE's `loose_macro`, `loose_micro` and accuracy as loops."""
    tp = fp = fn = strict = 0
    p_sum = r_sum = 0.0
    with_gold = 0
    for true, said in zip(gold, predicted, strict=True):
        hits = 0
        for label in said:
            if label in true:
                hits += 1
        tp += hits
        fp += len(said) - hits
        fn += len(true) - hits
        if len(said) > 0:
            p_sum += hits / len(said)
        if len(true) > 0:
            with_gold += 1
            r_sum += hits / len(true)
        strict += sorted(true) == sorted(said)

    def harmonic(p: float, r: float) -> float:
        return 0.0 if p == 0 or r == 0 else 2 / (1 / p + 1 / r)

    p = tp / (tp + fp) if tp + fp else 0.0
    r = tp / (tp + fn) if tp + fn else 0.0
    macro_p = p_sum / len(gold) if gold else 0.0
    macro_r = r_sum / with_gold if with_gold else 0.0
    return {
        "micro_precision": p, "micro_recall": r, "micro_f1": harmonic(p, r),
        "strict_accuracy": strict / len(gold) if gold else 0.0,
        "loose_macro_precision": macro_p, "loose_macro_recall": macro_r, "loose_macro_f1": harmonic(macro_p, macro_r),
    }  # fmt: skip


def drawn(rng: random.Random) -> list[list[str]]:
    return [rng.sample("abcdef", rng.choice([0, 1, 1, 2, 3])) for _ in range(rng.choice([0, 1, 5, 20]))]  # fmt: skip


def test_a_second_implementation_agrees_on_1000_cases() -> None:
    different = 0
    for seed in range(1000):
        rng = random.Random(seed)
        gold = drawn(rng)
        predicted = [
            true if rng.random() < 0.4 else rng.sample("abcdef", rng.randrange(4)) for true in gold
        ]
        scores = typing_scores([S(true) for true in gold], [S(said) for said in predicted])
        assert scores == pytest.approx(plain(gold, predicted)), (gold, predicted)
        different += abs(scores["micro_f1"] - scores["loose_macro_f1"]) > 0.01
    # A case where both are the same would show nothing.
    assert different > 300


def test_no_constant_answer_is_better_than_the_best_one() -> None:
    for seed in range(200):
        gold = [S(true) for true in drawn(random.Random(seed))]
        every = chain.from_iterable(combinations("abcdef", size) for size in range(7))
        best = max(typing_scores(gold, [S(some)] * len(gold))["micro_f1"] for some in every)
        found = typing_scores(gold, [best_constant(gold)] * len(gold))["micro_f1"]
        assert found == pytest.approx(best)
