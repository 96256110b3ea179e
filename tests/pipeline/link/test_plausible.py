"""Names of the dictionary that the text speaks against, each with the evidence that decides."""

from __future__ import annotations

import pytest

from tests.pipeline.link.test_mentions import Names, spans_of

# Any label: the recogniser has looked at the text, and found this and nothing else.
ELSEWHERE = "Zork Quux"


def kept(
    text: str, names: list[str], *, recogniser: bool = True, linked: list[str] | None = None
) -> list[str]:
    """Texts of the dictionary's mentions that stay."""
    named = [(ELSEWHERE, "PERSON")] if recogniser else []
    whole = f"{text}\nHe met {ELSEWHERE} there." if recogniser and ELSEWHERE not in text else text
    spans = spans_of(whole, Names(names, linked or []), named)
    return [whole[span.start : span.end] for span in spans if span.detector == "dictionary"]


@pytest.mark.parametrize(
    ("text", "names", "wanted"),
    [
        # Common nouns in capitals
        ("He was Director of the Institute", ["director"], []),
        ("He met Prime Minister Medvedev", ["prime minister"], []),
        ("He read on Expressionism, and more", ["expressionism"], ["Expressionism"]),  # stands alone
        ("He read on Expressionism; all expressionism ends", ["expressionism"], []),  # has a small letter elsewhere
        ("He was in the House of Blues there", ["blues"], []),  # capitals near, function words passed over
        ("Colorectal cancer is rare", ["colorectal cancer"], ["Colorectal cancer"]),  # a sentence's capital
        ("Chemistry\nIt is old", ["chemistry"], ["Chemistry"]),  # a heading
        # Parts of longer capitalised runs
        ("at the Cavendish Radiation Laboratory there", ["Radiation", "laboratory"], []),
        ("in Fox-North coalition", ["Fox", "North"], []),
        ("he met President Obama there", ["Obama", "president"], ["Obama"]),  # a title before it
        ("he met Zork Quux in Paris Texas", ["Paris Texas"], ["Paris Texas"]),
        ("he heard the song New York City Serenade and several other old songs", ["New York City"], []),
        ("Fans See New York City Win Big", ["New York City"], ["New York City"]),  # a headline
        ("he read The Histories III there", ["The Histories"], ["The Histories"]),  # a number follows
        ("at the Velmora Police Service there", ["police service"], []),  # what an unknown body is
        # The beginning of a sentence
        ("Friends hide him. He ran", ["Friends"], []),
        ("Friends hide him. He saw Friends then", ["Friends"], ["Friends", "Friends"]),
        ("he ran. Share this. They share it", ["Share"], []),
    ],
)  # fmt: skip
def test_evidence(text: str, names: list[str], wanted: list[str]) -> None:
    assert kept(text, names) == wanted


def test_without_a_recogniser_a_name_may_open_a_sentence() -> None:
    assert kept("Texas won. He ran", ["Texas"], recogniser=False) == ["Texas"]
    assert kept("Share this. They share it", ["Share"], recogniser=False) == []


def test_the_corpus_own_links_overrule_the_evidence() -> None:
    text = "He was Director of the Institute"
    assert kept(text, ["director"], linked=["director"]) == ["Director"]


def test_other_detectors_vouch_for_their_spans() -> None:
    text = "He was Director of it"
    spans = spans_of(text, Names(["director"]), [("Director", "ORG")])
    assert [text[span.start : span.end] for span in spans] == ["Director"]


def test_a_word_before_a_person_is_a_title() -> None:
    assert kept("He met Sen. Zork Quux there", ["Sen"]) == []
    assert kept("He met Sen and Zork Quux there", ["Sen"]) == ["Sen"]
