"""Count how often a model is right, and how often it says the same, when a fact is asked in several
ways (ParaRel, Elazar et al. 2021). Pure numpy.

A pair of patterns agrees on a fact where both have the same best answer. An answer that another
candidate ties with is no answer: it is not right, and agrees with nothing.

Legend: P patterns, I items (facts) of one relation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import combinations

import numpy as np

from schemas.array_types import I64, Bools, Floats

# In `RelationAnswers.best_PI`: the best answer is not alone.
TIED = -1
VOWELS = tuple("aeiou")


@dataclass(frozen=True, kw_only=True, slots=True)
class RelationAnswers:
    """Hold what a model answered to the questions of one relation; the first pattern is the base."""

    # Of the right answer among the candidates, from 1; ties count against the model.
    rank_PI: I64
    # Number of the best candidate, such as its token id; TIED where another one is as good.
    best_PI: I64
    # Natural log-probability of the right answer, over the whole vocabulary.
    log_p_PI: Floats
    # Whether a pattern's article suits the right answer.
    fits_PI: Bools


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Hold what is divided by what; sums over relations give the micro rates."""

    items: int = 0
    # What one answer to everything would have right at best, and a blind guess on average.
    of_majority: int = 0
    by_chance: float = 0.0
    base_right: int = 0
    questions: int = 0
    right: int = 0
    # Items that several patterns ask, those where all patterns are right, and those where one answer
    # to everything would be.
    paraphrased: int = 0
    all_right: int = 0
    paraphrased_of_majority: int = 0
    # Pairs of patterns, item by item; the item is known where some pattern is right.
    known_pairs: int = 0
    known_agreeing: int = 0
    unknown_pairs: int = 0
    unknown_agreeing: int = 0

    def rates(self) -> dict[str, float | None]:
        """Divide; a rate is None where there is nothing to divide by."""
        return {
            "accuracy_base": _ratio(self.base_right, self.items),
            "accuracy_mean": _ratio(self.right, self.questions),
            "consistent_accuracy": _ratio(self.all_right, self.paraphrased),
            "consistency": _ratio(
                self.known_agreeing + self.unknown_agreeing, self.known_pairs + self.unknown_pairs
            ),
            "known_consistency": _ratio(self.known_agreeing, self.known_pairs),
            "unknown_consistency": _ratio(self.unknown_agreeing, self.unknown_pairs),
            "majority": _ratio(self.of_majority, self.items),
            "consistent_majority": _ratio(self.paraphrased_of_majority, self.paraphrased),
            "chance": _ratio(self.by_chance, self.items),
        }


def article_fits(pattern: str, label: str) -> bool:
    """Say whether "a" or "an" before [Y] suits a label, by its first letter alone.

    The authors' script leaves pairs out where it does not: the article gives the answer's first
    letter away.
    """
    words = pattern.split(" ")
    place = next(number for number, word in enumerate(words) if "[Y]" in word)
    article = words[place - 1].casefold() if place else ""
    if article not in ("a", "an"):
        return True
    return label.casefold().startswith(VOWELS) == (article == "an")


def count(answers: RelationAnswers, gold_I: I64, num_candidates: int) -> Counts:
    """Count the answers to one relation.

    Args:
        answers: to every question.
        gold_I: the number of each item's right answer.
        num_candidates: of the relation.
    """
    num_patterns, num_items = answers.rank_PI.shape
    is_right_PI = answers.rank_PI == 1
    is_known_I = (is_right_PI & answers.fits_PI).any(0)
    is_alone_PI = answers.best_PI != TIED

    pairs_I, agreeing_I = np.zeros(num_items, np.int64), np.zeros(num_items, np.int64)
    for one, other in combinations(range(num_patterns), 2):
        is_asked_I = answers.fits_PI[one] & answers.fits_PI[other]
        is_same_I = is_alone_PI[one] & (answers.best_PI[one] == answers.best_PI[other])
        pairs_I += is_asked_I
        agreeing_I += is_asked_I & is_same_I

    is_paraphrased = num_patterns > 1
    of_majority = int(np.unique(gold_I, return_counts=True)[1].max(initial=0))
    return Counts(
        items=num_items,
        of_majority=of_majority,
        by_chance=num_items / num_candidates if num_items else 0.0,
        base_right=int(is_right_PI[0].sum()),
        questions=is_right_PI.size,
        right=int(is_right_PI.sum()),
        paraphrased=num_items if is_paraphrased else 0,
        all_right=int(is_right_PI.all(0).sum()) if is_paraphrased else 0,
        paraphrased_of_majority=of_majority if is_paraphrased else 0,
        known_pairs=int(pairs_I[is_known_I].sum()),
        known_agreeing=int(agreeing_I[is_known_I].sum()),
        unknown_pairs=int(pairs_I[~is_known_I].sum()),
        unknown_agreeing=int(agreeing_I[~is_known_I].sum()),
    )


def micro(counts: Iterable[Counts]) -> dict[str, float | None]:
    """Pool relations: every item, question and pair counts alike."""
    rows = list(counts)
    totals = {field.name: sum(getattr(row, field.name) for row in rows) for field in fields(Counts)}
    return Counts(**totals).rates()


def macro(counts: Sequence[Counts]) -> dict[str, float | None]:
    """Average the rates over relations, each over those relations that have it."""
    rates = [row.rates() for row in counts]
    means: dict[str, float | None] = {}
    for name in Counts().rates():
        values = [value for row in rates if (value := row[name]) is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
