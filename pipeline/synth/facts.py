"""Hold the facts that a corpus may state, and choose among those of a KB. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
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
        config: `many_tails`, `object_cap` and `object_share`.

    Returns:
        The facts by subject, each list in the same order; subjects without a fact are left out.
    """
    # Caps depend on how often an object would occur without any.
    uncapped = _chosen(facts, {}, many_tails=config.many_tails)
    answers: dict[int, Counter[int]] = defaultdict(Counter)
    for fact in uncapped:
        answers[fact.predicate][fact.object] += 1
    caps = {predicate: _cap(counts, config) for predicate, counts in answers.items()}

    facts_of: dict[int, list[Fact]] = defaultdict(list)
    for fact in _chosen(facts, caps, many_tails=config.many_tails):
        facts_of[fact.subject].append(fact)
    return dict(facts_of)


def _chosen(facts: Sequence[Fact], caps: Mapping[int, int], *, many_tails: bool) -> list[Fact]:
    """Return the facts that stay; a tail over its relation's cap gives way to the next one."""
    chosen = []
    pairs: set[tuple[int, int]] = set()
    questions: set[tuple[int, int]] = set()
    answers: Counter[tuple[int, int]] = Counter()
    for fact in facts:
        # A second fact of a pair would be stated by each sentence about the first one.
        pair, question = (fact.subject, fact.object), (fact.subject, fact.predicate)
        answer = (fact.predicate, fact.object)
        is_full = fact.predicate in caps and answers[answer] >= caps[fact.predicate]
        if pair in pairs or is_full or (question in questions and not many_tails):
            continue

        pairs.add(pair)
        questions.add(question)
        answers[answer] += 1
        chosen.append(fact)
    return chosen


def _cap(counts: Counter[int], config: SynthConfig) -> int:
    """Return how often one object may answer a relation, at least once.

    It is the largest number that is within the share of the facts that it leaves.
    """
    highest = max(counts.values())
    if config.object_cap:
        highest = min(highest, config.object_cap)

    for cap in range(highest, 1, -1):
        # A lower cap leaves fewer facts, so the share must be looked at again for each cap.
        num_left = sum(min(count, cap) for count in counts.values())
        if cap <= config.object_share * num_left:
            return cap
    return 1
