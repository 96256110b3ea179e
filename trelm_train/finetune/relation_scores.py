"""Score relations as the official scorers of TACRED and of SemEval-2010 task 8 do.

The negative class, such as `no_relation`, says that there is no relation. It counts neither as found
nor as missed. A task like FewRel has none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from schemas.errors import ConfigError
from trelm_train.finetune.typing_scores import f1

# How published files of relations call it.
NEGATIVES = ("no_relation", "NA", "Other", "na", "other", "None", "none")
_DIRECTION = re.compile(r"\((?:e1,e2|e2,e1)\)$")


def relation_scores(
    gold: Sequence[str], predicted: Sequence[str], negative: str | None
) -> dict[str, float]:
    """Return micro figures without the negative class, accuracy over all, and SemEval's F1 if it fits.

    Where no relation was guessed, precision is 1, as in TACRED's official scorer, and F1 is 0. Where
    the gold has no relation, recall is 0.
    """
    rows = list(zip(gold, predicted, strict=True))
    num_right = sum(true == said != negative for true, said in rows)
    num_guessed = sum(said != negative for _, said in rows)
    num_gold = sum(true != negative for true, _ in rows)

    precision = num_right / num_guessed if num_guessed else 1.0
    recall = num_right / num_gold if num_gold else 0.0
    scores = {
        "micro_precision": precision,
        "micro_recall": recall,
        "micro_f1": f1(precision, recall),
        "accuracy": sum(true == said for true, said in rows) / len(rows) if rows else 0.0,
    }
    if has_directions(gold, negative):
        scores["semeval_macro_f1"] = semeval_macro_f1(gold, predicted, negative)
    return scores


def has_directions(labels: Iterable[str], negative: str | None) -> bool:
    """Say whether every label but the negative one names its direction, as SemEval's do."""
    relations = set(labels) - {negative}
    return bool(relations) and all(_DIRECTION.search(label) for label in relations)


def semeval_macro_f1(gold: Sequence[str], predicted: Sequence[str], negative: str | None) -> float:
    """Return SemEval's official score: the mean F1 of the relations, direction taken into account.

    A relation with the wrong direction was guessed, and is wrong. The mean is over the relations of
    the gold, without their direction and without the negative class: nine in the whole test set.
    """
    right: Counter[str] = Counter()
    for true, said in zip(gold, predicted, strict=True):
        right[_undirected(true)] += true == said
    num_gold = Counter(map(_undirected, gold))
    num_guessed = Counter(map(_undirected, predicted))

    relations = sorted(set(num_gold) - {negative})
    if not relations:
        return 0.0
    # F1 from counts: 2 right / (guessed + gold); 0 where none is right.
    figures = [2 * right[name] / (num_guessed[name] + num_gold[name]) for name in relations]
    return sum(figures) / len(figures)


def _undirected(label: str) -> str:
    return _DIRECTION.sub("", label)


def negative_class(labels: Iterable[str], given: str | None) -> str | None:
    """Return the negative class of some labels; None where there is none.

    Args:
        labels: of the rows of all parts.
        given: by the user; None finds it by its name.

    Raises:
        ConfigError: the given one does not occur, or is not the one that the labels have. With a wrong
            negative class, the true one would count as a relation that is easy to find.
    """
    known = set(labels)
    named = [name for name in NEGATIVES if name in known]
    if given is None:
        if len(named) > 1:
            raise ConfigError(
                f"the labels have {' and '.join(map(repr, named))}: give the negative class by --negative"
            )
        return named[0] if named else None

    if given not in known:
        hint = f"; give --negative {named[0]!r}" if named else ", nor any other negative class"
        raise ConfigError(f"--negative {given!r}: no row has this label{hint}")
    others = [name for name in named if name != given]
    if others:
        raise ConfigError(
            f"--negative {given!r}: the labels have {others[0]!r}, which would then count as a "
            f"relation and raise F1; give --negative {others[0]!r}, or rename it"
        )
    return given


def best_constant(gold: Sequence[str], negative: str | None) -> str | None:
    """Return the relation with the highest micro F1 when it is the answer to every row.

    It is chosen on the rows that it is scored on, so no model that answers all rows alike is better.
    None where the gold has no relation.
    """
    counts = Counter(label for label in gold if label != negative)
    # Equal counts by name, so that the answer is always the same one.
    return min(counts, key=lambda label: (-counts[label], label), default=None)
