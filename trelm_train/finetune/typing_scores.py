"""Score sets of labels: strict accuracy, loose macro and loose micro (Ling & Weld 2012).

Micro sums over all rows what is right, predicted and in the gold. A row without gold labels counts in
precision alone. Labels that training has never seen stay in the gold: each is a miss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Labels = frozenset[str]


def typing_scores(gold: Sequence[Labels], predicted: Sequence[Labels]) -> dict[str, float]:
    """Return the figures that are published for typing, each between 0 and 1.

    Micro is what Open Entity reports; strict, macro and micro are the three of FIGER. Macro precision
    is the mean over all rows, 0 where nothing was predicted; macro recall is the mean over the rows
    that have gold labels. Where there is nothing to divide by, a figure is 0.
    """
    rows = list(zip(gold, predicted, strict=True))
    num_right = sum(len(true & said) for true, said in rows)
    num_predicted = sum(len(said) for _, said in rows)
    num_gold = sum(len(true) for true, _ in rows)

    macro_precision = _ratio(
        sum(len(true & said) / len(said) for true, said in rows if said), len(rows)
    )
    recalls = [len(true & said) / len(true) for true, said in rows if true]
    macro_recall = _ratio(sum(recalls), len(recalls))

    precision, recall = _ratio(num_right, num_predicted), _ratio(num_right, num_gold)
    return {
        "micro_precision": precision,
        "micro_recall": recall,
        "micro_f1": f1(precision, recall),
        "strict_accuracy": _ratio(sum(true == said for true, said in rows), len(rows)),
        "loose_macro_precision": macro_precision,
        "loose_macro_recall": macro_recall,
        "loose_macro_f1": f1(macro_precision, macro_recall),
    }


def f1(precision: float, recall: float) -> float:
    """Return the harmonic mean, 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def best_constant(gold: Sequence[Labels]) -> Labels:
    """Return the set of labels with the highest micro F1 when it is the answer to every row.

    It is chosen on the rows that it is scored on, so no model that answers all rows alike is better.
    The best set of k labels is that of the k most frequent ones: the gold is fixed, and only what is
    right grows with their counts.
    """
    counts = Counter(label for labels in gold for label in labels)
    # Equal counts by name, so that the answer is always the same one.
    ordered = sorted(counts, key=lambda label: (-counts[label], label))
    sets = [frozenset(ordered[:size]) for size in range(len(ordered) + 1)]
    return max(sets, key=lambda labels: typing_scores(gold, [labels] * len(gold))["micro_f1"])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
