"""Candidates that a mention cannot mean: languages of a nationality, and codes."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.index.entity_types import GROUP, LANGUAGE, ORGANISATION, PERSON, PLACE
from pipeline.link.candidates import EXACT, INFLECTED, PARTIAL
from pipeline.link.impossible import are_codes, is_nationality, misread_as_language


@pytest.mark.parametrize(
    ("text", "label", "wanted"),
    [
        ("Russian ballet dancer", "NORP", True),
        ("Russian-born dancer", "NORP", True),
        ("Russian, Polish and Czech", "NORP", False),  # a list: nothing follows
        ("Russian and Polish", "NORP", False),
        ("Russian", "NORP", False),
        ("Russian comedy film of", "NORP", False),  # may be in Russian
        ("Russian 1990 games", "NORP", False),
        ("Russian ballet dancer", "LANGUAGE", False),  # the recogniser says so
        ("Russian ballet dancer", None, False),
    ],
)
def test_what_follows_a_nationality(text: str, label: str | None, wanted) -> None:
    assert is_nationality(text, len("Russian"), label) is wanted


def test_languages_give_way_where_a_country_or_people_has_the_name() -> None:
    # Mention 0 is a nationality with a country, 1 one without, 2 none.
    mention_of = np.array([0, 0, 0, 1, 1, 2, 2])
    matches = np.array([EXACT, INFLECTED, EXACT, EXACT, PARTIAL, EXACT, EXACT], np.uint8)
    types = np.array(
        [LANGUAGE, PLACE, LANGUAGE | GROUP, LANGUAGE, PLACE, LANGUAGE, PLACE], np.uint8
    )
    gone = misread_as_language(np.array([True, True, False]), mention_of, matches, types)
    assert gone.tolist() == [True, False, False, False, False, False, False]
    assert not misread_as_language(np.zeros(3, bool), mention_of, matches, types).any()


@pytest.mark.parametrize(
    ("surface", "label", "types", "wanted"),
    [
        ("He", "Hebrew", LANGUAGE, True),
        ("GA", "Irish", LANGUAGE, True),  # no language is called by its code
        ("Fo", "Faroe Islands", PLACE, True),
        ("UAE", "United Arab Emirates", PLACE, False),  # an abbreviation
        ("nba", "National Basketball Association", ORGANISATION, False),  # all in one case
        ("Bo", "Bo Derek", PERSON, False),  # a word of the label
        ("Ohio", "Ohio", PLACE, False),
        ("U.S", "United States", PLACE, False),
    ],
)
def test_codes(surface: str, label: str, types: int, wanted) -> None:
    found = are_codes(
        ["Some other name", surface], np.array([0, 1]), lambda _: label, np.full(2, types, np.uint8)
    )
    assert found.tolist() == [False, wanted]
