"""Which mentions stand for a person whom no index knows."""

from __future__ import annotations

import pytest

from pipeline.link.spans import Span
from pipeline.link.unknown_persons import stand_for_unknown_persons

Mentioned = tuple[str, str | None, bool]
PAT: Mentioned = ("Pat Riley", "PERSON", False)


@pytest.mark.parametrize(
    ("others", "mention", "wanted"),
    [
        ([PAT], ("Riley", "PERSON", True), True),
        ([PAT], ("Riley", None, True), True),
        ([PAT], ("Riley", "ORG", True), False),  # a body, as the recogniser says
        ([PAT], ("Riley", "GPE", True), False),
        ([PAT], ("Pat", "PERSON", True), True),
        ([PAT], ("Pat", None, True), False),  # any other word
        ([PAT], ("riley", "PERSON", True), False),  # in lower case
        ([PAT], ("Pat Riley", "PERSON", False), False),  # the full name itself
        ([("Pat Riley", "PERSON", True)], ("Riley", "PERSON", True), False),  # known in full
        ([PAT, ("Joe Riley", None, True)], ("Riley", "PERSON", True), False),  # a known one too
        ([("Kosovo Vilayet", "GPE", False)], ("Kosovo", "GPE", True), False),  # no person
        ([("Riley, Diaz", "PERSON", False)], ("Diaz", "PERSON", True), False),  # no one name
        ([("The Old Pat Riley", "PERSON", False)], ("Riley", "PERSON", True), False),  # too long
        ([], ("Riley", "PERSON", True), False),
    ],
)
def test_names_of_a_person(others: list[Mentioned], mention: Mentioned, wanted) -> None:
    mentions = [*others, mention]
    spans = [
        Span(10 * place, 10 * place + 9, "ner", label, known=known)
        for place, (_, label, known) in enumerate(mentions)
    ]
    found = stand_for_unknown_persons(spans, [surface for surface, *_ in mentions])
    assert found == [False] * len(others) + [wanted]
