"""Candidates that a mention cannot mean: languages of a nationality, and codes."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.index.entity_types import GROUP, LANGUAGE, ORGANISATION, PERSON, PLACE
from pipeline.link.candidates import EXACT, INFLECTED, PARTIAL
from pipeline.link.impossible import LANGUAGE_READING, NATION, are_codes, misread, reading_of


@pytest.mark.parametrize(
    ("text", "label", "wanted"),
    [
        ("[Russian] ballet dancer", "NORP", NATION),
        ("[Russian]-born dancer", "NORP", NATION),
        ("[Russian], Polish and Czech athletes", "NORP", NATION),
        ("[Russian] and Polish", "NORP", ""),
        ("the [Russian] and Polish armies", "NORP", NATION),
        ("Polish (3 %), [Russian] (2 %) and Urdu (1 %)", "NORP", ""),
        (
            "languages like Finnish, [Russian], Serbo-Croatian and Bulgarian",
            "NORP",
            LANGUAGE_READING,
        ),
        ("[Russian]", "NORP", ""),
        ("[Russian] comedy film of", "NORP", ""),  # may be in Russian
        ("a [Russian] film director and", "NORP", NATION),  # the last word says what is meant
        ("[Russian] television reported", "NORP", NATION),
        ("[Russian] 1990 games", "NORP", ""),
        ("from the [Greek] ἄβαξ", "NORP", LANGUAGE_READING),  # letters of no Latin script
        ("by its [Dutch] name", "NORP", LANGUAGE_READING),
        ("[Russian] ballet dancer", "LANGUAGE", ""),  # the recogniser says so
        ("[Russian] ballet dancer", None, ""),
        ("She wrote in [Russian].", "NORP", LANGUAGE_READING),
        ("Signs are in Dutch and in [French] there", "NORP", LANGUAGE_READING),
        ("an ort ([Swedish]: tätort)", "NORP", LANGUAGE_READING),
        ("from [Greek] words", "NORP", LANGUAGE_READING),  # written in it
        ("in [Dutch] society", "NORP", NATION),  # a noun follows
        ("[Russian] is spoken in the north", "NORP", LANGUAGE_READING),
        ("The language of the country is [Polish].", "NORP", LANGUAGE_READING),
        ("the first poet of the [Greek] language", "NORP", LANGUAGE_READING),
        ("They speak a dialect. He met the [Greeks].", "NORP", NATION),  # another sentence
        ("He met the [French].", "NORP", NATION),
        ("They were [Swedish].", "NORP", NATION),
    ],
)
def test_the_words_around_say_what_a_nationality_is(text: str, label: str | None, wanted) -> None:
    start, end = text.index("["), text.index("]") - 1
    assert reading_of(text.replace("[", "").replace("]", ""), start, end, label) == wanted


def test_languages_and_nations_give_way_where_the_other_has_the_name() -> None:
    # Mention 0 is a nation with a country, 1 one without, 2 neither, 3 a language, 4 one without.
    mention_of = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4])
    matches = np.array(
        [EXACT, INFLECTED, EXACT, EXACT, PARTIAL, EXACT, EXACT, EXACT, INFLECTED, EXACT, EXACT]
        + [PARTIAL],
        np.uint8,
    )
    types = np.array(
        [LANGUAGE, PLACE, LANGUAGE | GROUP, LANGUAGE, PLACE, LANGUAGE, PLACE, LANGUAGE, PLACE]
        + [LANGUAGE | GROUP, PLACE, LANGUAGE],
        np.uint8,
    )
    readings = [NATION, NATION, "", LANGUAGE_READING, LANGUAGE_READING]
    gone = misread(readings, mention_of, matches, types)
    assert np.flatnonzero(gone).tolist() == [0, 8]
    assert not misread([""] * 5, mention_of, matches, types).any()
    assert not misread([], mention_of[:0], matches[:0], types[:0]).any()


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
        ("Ltd.", "Limited company", ORGANISATION, False),
        ("Met", "Metropolitan Museum of Art", ORGANISATION, False),  # a short name
    ],
)
def test_codes(surface: str, label: str, types: int, wanted) -> None:
    found = are_codes(
        ["Some other name", surface], np.array([0, 1]), lambda _: label, np.full(2, types, np.uint8)
    )
    assert found.tolist() == [False, wanted]
