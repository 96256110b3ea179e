"""Plan and write the sentences of a corpus: who is named how often, what is stated, what is wrong.

Goes in: the pool of facts, the templates, the settings. Comes out: sentences with the code points
and the items of both names, in the order of the corpus, and what each states. Pure.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.synth.choices import generator, share_of, zipf_counts
from pipeline.synth.facts import Fact, Pool
from pipeline.synth.settings import SynthConfig
from pipeline.synth.templates import Templates
from pipeline.templates.filling import fill
from schemas.errors import ConfigError

# Draws before a search from the start: nearly all items are unrelated to a subject.
MAX_DRAWS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """Hold a sentence about a subject."""

    text: str
    template: str
    subject: int
    # The item that is named beside the subject.
    other: int
    # What it is meant to state; None in a distractor. Its object is `other`, unless the fact is
    # corrupted.
    fact: Fact | None
    # Half-open code points of the sentence.
    subject_span: tuple[int, int]
    other_span: tuple[int, int]
    # The items that the links lead to.
    subject_link: int
    other_link: int

    @property
    def is_corrupted(self) -> bool:
        """Say whether it states a wrong tail."""
        return self.fact is not None and self.fact.object != self.other

    @property
    def mentions(self) -> tuple[tuple[tuple[int, int], int, int], ...]:
        """Return span, true item and linked item of both names, in the order of the text."""
        subject = (self.subject_span, self.subject, self.subject_link)
        companion = (self.other_span, self.other, self.other_link)
        # Two names never overlap, so the order of their spans is that of the text.
        return tuple(sorted((subject, companion)))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Slot:
    """Hold a place for a sentence about a subject, before its words are chosen."""

    subject: int
    is_first: bool


def plan_sentences(pool: Pool, templates: Templates, config: SynthConfig) -> list[Sentence]:
    """Return the sentences of a corpus, in its order."""
    # Where the KB has too few subjects for both, those that stay unmentioned come first.
    num_subjects = min(config.subjects, max(len(pool.facts_of) - config.nowhere, 1))
    # The order of the pool is random, so the first subject may as well be the most frequent one.
    counts = zipf_counts(config.sentences, num_subjects, config.zipf)
    slots = [
        _Slot(subject=subject, is_first=number == 0)
        for subject, count in zip(pool.facts_of, counts, strict=False)
        for number in range(count)
    ]
    distractors = _distractor_slots(slots, config)

    # Numbers of fact sentences, counted without the distractors between them.
    writer = _Writer(pool, templates, config)
    num_facts = len(slots) - len(distractors)
    corrupted = share_of(num_facts, config.corrupt_facts, generator(config.seed, "corrupt facts"))
    sentences = []
    fact_number = 0
    for number, slot in enumerate(slots):
        if number in distractors:
            sentences.append(writer.distractor(slot.subject))
        else:
            sentences.append(writer.fact(slot.subject, is_corrupted=fact_number in corrupted))
            fact_number += 1

    # Until here the sentences about a subject stand side by side.
    generator(config.seed, "order of sentences").shuffle(sentences)
    return with_corrupted_links(sentences, config)


def _distractor_slots(slots: Sequence[_Slot], config: SynthConfig) -> set[int]:
    """Return the numbers of the slots that are distractors: exactly their share.

    The first sentence about a subject states a fact, as long as there are enough others.
    """
    chooser = generator(config.seed, "distractors")
    numbers = list(range(len(slots)))
    chooser.shuffle(numbers)
    # The sort is stable: beyond the order of first and other slots, it is random.
    numbers.sort(key=lambda number: slots[number].is_first)
    # A share so high that others do not suffice takes first sentences too.
    return set(numbers[: round(config.distractors * len(slots))])


class _Writer:
    """Write sentences one after the other; each kind of choice has its own generator."""

    def __init__(self, pool: Pool, templates: Templates, config: SynthConfig) -> None:
        self._pool, self._templates = pool, templates
        self._withheld = config.withheld
        self._objects_of = pool.objects_of()
        # Sorted: choices must not depend on how a set is laid out.
        self._all_objects = sorted({qid for qids in self._objects_of.values() for qid in qids})
        self._num_stated: dict[int, int] = {}
        self._distractor_chooser = generator(config.seed, "others")
        self._seed = config.seed

    def fact(self, subject: int, *, is_corrupted: bool) -> Sentence:
        """Write a sentence that states the next fact of a subject, or a wrong tail instead."""
        facts = self._pool.facts_of[subject]
        # The first fact of a subject is never withheld.
        num_usable = max(len(facts) - int(self._withheld * len(facts)), 1)
        # Facts take turns: a subject that is named often states all its usable facts alike.
        number = self._num_stated.get(subject, 0)
        self._num_stated[subject] = number + 1
        fact = facts[number % num_usable]

        # Each time that a fact comes round again it has another template, until all were used.
        templates = self._templates.relations[fact.predicate].known
        # A start of its own for each fact, or rare facts would all stand in the first template.
        offset = generator(self._seed, f"template of {tuple(fact)}").randrange(len(templates))
        template = templates[(offset + number // num_usable) % len(templates)]

        # The generator belongs to this sentence alone: other wrong tails stay the same when the
        # share changes.
        tail = fact.object
        if is_corrupted:
            chooser = generator(self._seed, f"wrong tail {number} of {tuple(fact)}")
            tail = self._unrelated(subject, self._objects_of[fact.predicate], chooser)
        return self._sentence(template, fact, subject, tail)

    def distractor(self, subject: int) -> Sentence:
        """Write a sentence that names a subject and an unrelated item."""
        # One generator for all distractors: none of them depends on the facts between them.
        template = self._distractor_chooser.choice(self._templates.distractors)
        companion = self._unrelated(subject, self._all_objects, self._distractor_chooser)
        return self._sentence(template, None, subject, companion)

    def _unrelated(self, subject: int, qids: Sequence[int], chooser: random.Random) -> int:
        """Return an item that no triple of the KB connects with the subject.

        Raises:
            ConfigError: there is none.
        """
        draws = (chooser.choice(qids) for _ in range(MAX_DRAWS))
        # First at random, then through all of the relation, at last through any object there is.
        for qid in itertools.chain(draws, qids, self._all_objects):
            if qid != subject and not self._pool.are_related(subject, qid):
                return qid
        raise ConfigError(
            f"Q{subject} is related to every object that the corpus may name, so nothing wrong can "
            "be said of it; use more relations or a higher --object-cap"
        )

    def _sentence(self, template: str, fact: Fact | None, subject: int, companion: int) -> Sentence:
        labels = self._pool.labels
        written = fill(template, labels[subject], labels[companion])
        return Sentence(
            text=written.text,
            template=template,
            subject=subject,
            other=companion,
            fact=fact,
            subject_span=written.subject,
            other_span=written.object,
            subject_link=subject,
            # Right, until some are corrupted.
            other_link=companion,
        )


def with_corrupted_links(sentences: Sequence[Sentence], config: SynthConfig) -> list[Sentence]:
    """Return the sentences with a share of their links, exactly, led to other items.

    The other items are some that the corpus names, so that an item outside of it stays outside.
    """
    items = sorted({qid for sentence in sentences for qid in (sentence.subject, sentence.other)})
    chooser = generator(config.seed, "corrupt links")
    corrupted = share_of(2 * len(sentences), config.corrupt_links, chooser)
    # Drawn for every link, so that what a link leads to does not depend on the share.
    drawn = [chooser.choice(items) for _ in range(2 * len(sentences))]

    changed = []
    for number, sentence in enumerate(sentences):
        links = [sentence.subject, sentence.other]
        for end, qid in enumerate(links):
            if 2 * number + end in corrupted:
                wrong = drawn[2 * number + end]
                # Another one, where the right item was drawn; an index of -1 is the last.
                links[end] = wrong if wrong != qid else items[items.index(wrong) - 1]
        changed.append(replace(sentence, subject_link=links[0], other_link=links[1]))
    return changed
