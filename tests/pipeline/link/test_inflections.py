"""Other forms of a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.link.inflections import ADDED, DROPPED, inflections, plurals


@pytest.mark.parametrize(
    ("key", "form"),
    [
        ("prime numbers", "prime number"),
        ("cities", "city"),
        ("wolves", "wolf"),
        ("policemen", "policeman"),
        ("churches", "church"),
        ("crises", "crisis"),
        ("cacti", "cactus"),
        ("bacteria", "bacterium"),
        ("rowers", "rowing"),  # the person and the thing
        ("rower", "rowing"),
        ("triathlete", "triathlon"),
        ("buddhists", "buddhism"),
        ("botanist", "botany"),
        ("canadian", "canada"),
        ("chemist", "chemistry"),
        ("physicists", "physics"),
        ("italian", "italy"),
        ("bavarian", "bavaria"),  # adjective and noun
        ("american", "america"),
        ("romantic", "romanticism"),
        ("optical", "optics"),
        ("liberal", "liberalism"),
        ("animated", "animation"),
        ("river", "rivers"),
        ("basketball player", "basketball"),
        ("french language", "french"),
    ],
)
def test_a_form_is_among_the_others(key: str, form: str) -> None:
    assert form in inflections(key)


@pytest.mark.parametrize(
    ("key", "form"),
    [
        ("class", "clas"),  # no plural
        ("as", "a"),  # nothing is left
        ("bus stop", "bu stop"),  # only the last word has forms
        ("of us", "of u"),
        ("rivers", "riverss"),
    ],
)
def test_no_form(key: str, form: str) -> None:
    assert form not in inflections(key)


def test_plurals_are_tried_first_and_alone_where_asked() -> None:
    assert plurals("cities")[0] == "city"
    assert inflections("cities")[0] == "city"
    assert plurals("rower") == []
    assert set(plurals("rowers")) < set(inflections("rowers"))


KEY = st.text("abceilmnorstuy ", max_size=14).map(lambda text: " ".join(text.split()))


@given(
    KEY
    | st.builds(
        str.__add__, KEY, st.sampled_from(["ies", "ists", "ian", "men", "ical", "ing", *DROPPED])
    )
)
def test_forms_are_distinct_others_and_few(key: str) -> None:
    forms = inflections(key)
    assert len(set(forms)) == len(forms) <= 32, "each costs a look-up"
    assert key not in forms
    assert "" not in forms
    assert set(plurals(key)) - {key, ""} <= set(forms)
    before = key.rpartition(" ")[0]
    dropped = {key[: -len(ending)] for ending in DROPPED if key.endswith(ending)}
    assert all(form.rpartition(" ")[0] == before for form in set(forms) - dropped), (
        "only the last word changes"
    )
    if not key.endswith("s") and key:
        assert {f"{key}{ending}" for ending in ADDED} <= set(forms)
