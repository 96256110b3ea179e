"""Longer names that a mention may be short for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.index.name_keys import normalise
from pipeline.link.mentions import initials_of
from pipeline.link.short_forms import MAX_LONGER, MAX_PER_WORD, longer_names


@pytest.mark.parametrize(
    ("surfaces", "wanted"),
    [
        (["Mikhail Bakunin", "Bakunin"], [(), ("Mikhail Bakunin",)]),
        (
            ["Bakunin", "Mikhail Bakunin"],
            [("Mikhail Bakunin",), ()],
        ),  # a headline comes before the name
        (
            ["Mikhail Bakunin", "bakunin"],
            [(), ("Mikhail Bakunin",)],
        ),  # keys, so letter case says nothing
        (["Mikhail Bakunin", "Bakuni"], [(), ()]),  # whole words
        (["Ann Lee Ray", "Ray Ann"], [(), ("Ann Lee Ray",)]),  # all words of it, in any order
        (["Ann Lee", "Ann Ray"], [(), ()]),
        (["Ann Lee", "Ann Lee"], [(), ()]),  # no longer
        (["Ann-Lee", "Ann Lee"], [(), ()]),  # the same key
        (
            ["Ann Lee", "Bo Lee", "Cy Lee", "Lee"],
            [(), (), (), ("Ann Lee", "Bo Lee")],
        ),  # the first ones
        (["National Hockey League", "NHL"], [(), ("National Hockey League",)]),
        (["National Hockey League", "Nhl"], [(), ()]),  # initials are capitals
        (["Ann lee", "A"], [(), ()]),  # one letter is no acronym
        (
            ["NHL Draft", "National Hockey League", "NHL"],
            [(), (), ("NHL Draft", "National Hockey League")],
        ),
        (["...", "Ann Lee"], [(), ()]),
        ([], []),
    ],
)
def test_longer_names(surfaces: list[str], wanted: list[tuple[str, ...]]) -> None:
    assert longer_names(surfaces) == wanted


SURFACE = st.lists(
    st.sampled_from(["Ann", "Lee", "ray", "AL", "Bo", "lee", "-", "ALR"]), min_size=1, max_size=3
)


@given(st.lists(SURFACE.map(" ".join), max_size=6))
def test_equals_a_look_at_all_pairs(surfaces: list[str]) -> None:
    """Few names, so that no bound of work is met; which of more than MAX_LONGER are kept is left
    open.
    """
    distinct = list(dict.fromkeys(surfaces))
    for surface, found in zip(surfaces, longer_names(surfaces), strict=True):
        words = set(normalise(surface).split())
        wanted = {other for other in distinct if words and words < set(normalise(other).split())}
        if surface.isupper():
            wanted |= {
                other
                for other in distinct
                if len(set(normalise(other).split())) > 1 and words and initials_of(other) == normalise(surface)
                and len(normalise(surface)) > 1
            }  # fmt: skip
        assert set(found) <= wanted
        assert len(set(found)) == min(len(wanted), MAX_LONGER)


def test_a_word_of_many_names_costs_little() -> None:
    surfaces = [f"Lee {number}" for number in range(50)]
    assert longer_names([*surfaces, "Lee"])[-1] == ("Lee 0", "Lee 1")
    assert longer_names([*surfaces, "Lee Old Town", "Lee Town"])[-1] == ("Lee Old Town",), (
        "the rarest word leads"
    )
    many = [f"Lee Town {number}" for number in range(MAX_PER_WORD)]
    assert longer_names([*[f"{name} of" for name in surfaces], *many, "Town Lee"])[-1] == tuple(
        many[:MAX_LONGER]
    )


def test_of_equally_rare_words_the_first_counts() -> None:
    """Each word has more names than are looked at; which one is asked must not hang on the
    process's hash seed.
    """
    code = (
        "from pipeline.link.short_forms import longer_names\n"
        "names = [f'Beta B{n}' for n in range(8)] + ['Alpha Beta Gamma'] + [f'Alpha A{n}' for n in range(8)]\n"
        "print(longer_names([*names, 'Alpha Beta', 'Beta Alpha'])[-2:])\n"
    )
    seeds = ("0", "1", "2", "3")
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in seeds
    }
    assert found == {b"[('Alpha Beta Gamma',), ()]\n"}


def test_a_name_is_not_short_for_what_lies_in_it() -> None:
    """ "South Bend, Indiana" is no longer name of Indiana, but one of South Bend."""
    found = longer_names(["South Bend, Indiana", "Indiana", "Bend"])
    assert found == [(), (), ("South Bend, Indiana",)]
