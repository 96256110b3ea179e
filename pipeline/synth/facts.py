"""Hold the facts that a corpus may state, and choose among those of a KB. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.synth.settings import SynthConfig


class Fact(NamedTuple):
    """Hold a triple."""

    subject: int
    predicate: int
    object: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Hold what a corpus may say."""

    # Facts by subject; the order of both is the seed's. No pair of items has two facts.
    facts_of: dict[int, list[Fact]]
    # The name of every subject and object.
    labels: dict[int, str]
    # Subject and object of every triple of the KB between these items, of any relation.
    pairs: frozenset[tuple[int, int]]

    def are_related(self, one: int, other: int) -> bool:
        """Say whether the KB has a triple between two items, in either direction."""
        return (one, other) in self.pairs or (other, one) in self.pairs

    def objects_of(self) -> dict[int, list[int]]:
        """Return the objects of each relation, ascending."""
        objects: dict[int, set[int]] = defaultdict(set)
        for facts in self.facts_of.values():
            for fact in facts:
                objects[fact.predicate].add(fact.object)
        return {predicate: sorted(qids) for predicate, qids in objects.items()}


def choose_facts(facts: Sequence[Fact], config: SynthConfig) -> dict[int, list[Fact]]:
    """Keep one fact per pair of items, one tail per subject and relation, and capped objects.

    Args:
        facts: in the order in which they are preferred.
        config: `many_tails` and `object_cap`.

    Returns:
        The facts by subject, in the same order; subjects without a fact are left out.
    """
    facts_of: dict[int, list[Fact]] = defaultdict(list)
    pairs: set[tuple[int, int]] = set()
    questions: set[tuple[int, int]] = set()
    answers: Counter[tuple[int, int]] = Counter()
    for fact in facts:
        pair, question = (fact.subject, fact.object), (fact.subject, fact.predicate)
        answer = (fact.predicate, fact.object)
        is_full = config.object_cap and answers[answer] >= config.object_cap
        if pair in pairs or is_full or (question in questions and not config.many_tails):
            continue

        pairs.add(pair)
        questions.add(question)
        answers[answer] += 1
        facts_of[fact.subject].append(fact)
    return dict(facts_of)
