"""The class of a fact by the sentences of a corpus."""

from __future__ import annotations

import pytest

from pipeline.synth.classes import KB_ONLY, MISSTATED, NO_CLASS, NOWHERE, classify
from pipeline.synth.corpus import Sentence
from pipeline.synth.facts import Fact, Pool
from pipeline.synth.settings import SynthConfig
from pipeline.templates.filling import fill

SPOUSE = 26
LABELS = {1: "Ann", 2: "Bob", 3: "Cyd", 4: "Dan"}
THERE, BACK = Fact(1, SPOUSE, 2), Fact(2, SPOUSE, 1)
POOL = Pool(
    facts_of={1: [THERE], 2: [BACK], 4: [Fact(4, SPOUSE, 3)]},
    labels=LABELS,
    pairs=frozenset({(1, 2), (2, 1), (4, 3)}),
)


def states(fact: Fact, tail: int) -> Sentence:
    """A sentence that is meant to state a fact, with some tail."""
    written = fill("[X] married [Y].", LABELS[fact.subject], LABELS[tail])
    return Sentence(
        text=written.text, template="[X] married [Y].", subject=fact.subject, other=tail, fact=fact,
        subject_span=written.subject, other_span=written.object, subject_link=fact.subject, other_link=tail,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sentences", "expected"),
    [
        ([states(THERE, 2), states(BACK, 1)], "stated-rare"),
        ([states(BACK, 3)], MISSTATED),
        # "Ann married Bob." is true of both, so this is no fact that is misstated alone.
        ([states(THERE, 2), states(BACK, 3)], NO_CLASS),
        ([states(THERE, 2)], NO_CLASS),
        ([states(THERE, 3), states(Fact(4, SPOUSE, 3), 2)], KB_ONLY),
        ([states(THERE, 3)], NOWHERE),
    ],
)
def test_the_class_of_a_fact(sentences: list[Sentence], expected: str) -> None:
    facts = {known.fact: known.kind for known in classify(sentences, POOL, SynthConfig())}
    assert facts[BACK] == expected
