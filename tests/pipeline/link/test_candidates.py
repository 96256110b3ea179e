"""Candidates: each way they are found, the order of the ways, and that nothing is searched for in
vain.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.link.candidates import (
    EXACT,
    FUZZY,
    INFLECTED,
    MATCHES,
    MAX_FUZZY_KEYS,
    MAX_REUSED,
    PARTIAL,
    REUSED,
    VARIANT,
    Candidate,
    Reach,
    exact_candidates,
    find_candidates,
    fuzzy_candidates,
    partial_items,
    with_reused,
)
from tests.pipeline.link.small_world import ANCHOR, LABEL, TITLE, Index

CITY, TEXAS, HILTON, STRASBOURG, JORDAN, LINCOLN, TODD, RIVER, ROWING = (
    90,
    830,
    47,
    66,
    5,
    91,
    92,
    40,
    41,
)
KEYS = {
    "paris": [(CITY, 40, LABEL | ANCHOR), (TEXAS, 2, LABEL)],
    "paris hilton": [(HILTON, 0, LABEL)],
    "strasbourg": [(STRASBOURG, 1, LABEL)],
    "michael jordan": [(JORDAN, 0, LABEL | TITLE)],
    "hague": [(7, 0, LABEL)],
    "malaga": [(8, 0, LABEL)],
    "abraham lincoln": [(LINCOLN, 3, LABEL)],
    "mary todd lincoln": [(TODD, 0, LABEL)],
    "lincoln": [(LINCOLN, 9, ANCHOR)],
    "river": [(RIVER, 5, LABEL)],
    "rowing": [(ROWING, 5, LABEL)],
    "stream": [(RIVER, 5, ANCHOR), (44, 0, LABEL)],
    "torrent": [(RIVER, 5, ANCHOR)],
}
RANKS = (LINCOLN, TODD, HILTON, JORDAN)


def found(surface: str, *, allow_fuzzy: bool = True, **reach: object) -> dict[int, str]:
    candidates = find_candidates(
        surface, Index(KEYS, RANKS), Reach(**reach), allow_fuzzy=allow_fuzzy
    )
    return {qid: MATCHES[candidate.match] for qid, candidate in candidates.items()}


@pytest.mark.parametrize(
    ("surface", "wanted"),
    [
        ("Paris", {CITY: "exact", TEXAS: "exact", HILTON: "partial"}),  # longer names come last
        ("PARIS", {CITY: "exact", TEXAS: "exact", HILTON: "partial"}),
        ("the Hague", {7: "variant"}),  # without the article
        ("Málaga", {8: "variant"}),  # without diacritics
        ("Hague's", {7: "variant"}),  # without the possessive
        ("rivers", {RIVER: "variant"}),  # the commonest plural is looked up at once
        ("rowers", {ROWING: "inflected"}),
        ("streams", {RIVER: "variant", 44: "variant"}),
        ("streaming", {44: "inflected"}),  # what only the text of a link says is not bent
        ("torrential", {}),
        ("Strassbourg", {STRASBOURG: "fuzzy"}),
        ("torent", {}),  # nor is it misspelt
        ("Jordan Michael", {JORDAN: "fuzzy"}),  # words in another order: before the partial match
        ("Todd Lincoln", {TODD: "partial"}),
        ("Lincoln", {LINCOLN: "exact", TODD: "partial"}),  # found once, as it was found first
        ("Velmora", {}),
        ("", {}),
    ],
)
def test_find_candidates(surface: str, wanted: dict[int, str]) -> None:
    assert found(surface) == wanted
    assert list(found(surface)) == list(wanted), "the surest first"


def test_the_ways_are_in_the_order_of_their_trust() -> None:
    assert [MATCHES.index(name) for name in MATCHES] == [
        EXACT,
        VARIANT,
        INFLECTED,
        REUSED,
        PARTIAL,
        FUZZY,
    ]


@pytest.mark.parametrize(
    ("surface", "settings", "wanted"),
    [
        ("Strassbourg", {"allow_fuzzy": False, "slips": False}, {}),
        ("Strassbourg", {"allow_fuzzy": False}, {STRASBOURG: "fuzzy"}),  # a slip in a long name
        ("Strassbourg", {"fuzzy_cutoff": 99.0}, {STRASBOURG: "fuzzy"}),  # one edit is never too far
        ("Strassbourgh", {"fuzzy_cutoff": 99.0}, {}),
        ("Strassbourgh", {}, {STRASBOURG: "fuzzy"}),
        ("rowers", {"inflect": False, "allow_fuzzy": False}, {}),
        ("Paris", {"max_partial": 0}, {CITY: "exact", TEXAS: "exact"}),
        (
            "Lincoln",
            {"max_partial": 1},
            {LINCOLN: "exact"},
        ),  # the most popular one, which is there already
        ("Strasb", {}, {}),  # too far
    ],
)
def test_how_far_is_looked(surface: str, settings: dict, wanted: dict[int, str]) -> None:
    assert found(surface, **settings) == wanted


@pytest.mark.parametrize(
    ("surface", "scans"),
    [
        ("Paris", 0),
        ("the Hague", 0),
        ("rowers", 0),
        ("Strassbourg", 1),
        ("Velmora", 1),
        ("Vel", 0),
        ("19900", 0),
    ],
)
def test_similar_keys_are_asked_for_only_where_no_name_fits(surface: str, scans: int) -> None:
    index = Index(KEYS)
    find_candidates(surface, index, Reach(), allow_fuzzy=True)
    assert index.scans == scans
    assert index.probes < 40


def test_what_a_candidate_tells() -> None:
    candidates = find_candidates("Paris", Index(KEYS), Reach(), allow_fuzzy=True)
    assert candidates[CITY] == Candidate(40, LABEL | ANCHOR, EXACT, 1.0)
    assert candidates[HILTON] == Candidate(0, 0, PARTIAL, 0.0)
    assert exact_candidates("the Hague", Index(KEYS))[7] == Candidate(0, LABEL, VARIANT, 1.0)
    misspelt = fuzzy_candidates("Strassbourg", Index(KEYS), 88.0)[STRASBOURG]
    assert (misspelt.match, misspelt.links) == (FUZZY, 1)
    assert 0.9 < misspelt.similarity < 1
    swapped = fuzzy_candidates("Jordan Michael", Index(KEYS), 88.0)[JORDAN]
    assert swapped.similarity == pytest.approx(0.95)  # another order is no better than a slip
    bent = find_candidates("rowers", Index(KEYS), Reach(), allow_fuzzy=False)[ROWING]
    assert 0 < bent.similarity < 1


def test_words_of_other_names_are_not_misspelt() -> None:
    assert set(fuzzy_candidates("Mikhal Jordan", Index(KEYS), 88.0)) == {JORDAN}
    assert not fuzzy_candidates(
        "Mikhal Jordan", Index(KEYS | {"mikhal town": [(9, 0, LABEL)]}), 88.0
    )
    assert set(
        fuzzy_candidates("Michel Jordan", Index(KEYS | {"michel town": [(9, 0, LABEL)]}), 88.0)
    ) == {JORDAN}


def test_few_keys_are_fuzzy() -> None:
    index = Index(
        {f"strasbour{letter}": [(number, 0, LABEL)] for number, letter in enumerate("abcdefgh", 1)}
    )
    assert len(fuzzy_candidates("strasbourg", index, 80.0)) <= MAX_FUZZY_KEYS
    assert len(fuzzy_candidates("strasbour", index, 80.0)) == MAX_FUZZY_KEYS


WORD = st.sampled_from(["ann", "lee", "ray", "of", "the", "bo", "x", "town", "hall"])


@given(
    st.lists(st.lists(WORD, min_size=1, max_size=4), max_size=12),
    st.lists(WORD, max_size=7),
    st.integers(0, 4),
)
def test_partial_items_hold_all_words(names: list[list[str]], words: list[str], limit: int) -> None:
    index = Index({" ".join(name): [(qid, 0, LABEL)] for qid, name in enumerate(names, 1)})
    key = " ".join(words)
    content = set(words) - {"of", "the"}
    by_item = {
        qid: {
            word
            for key, rows in index.keys.items()
            if len(key.split()) > 1 and rows[0][0] == qid
            for word in key.split()
        }
        for qid in range(1, len(names) + 1)
    }
    wanted = [
        qid
        for qid, own in by_item.items()
        if content and len(content) <= 5 and content <= own and len(key) > 1
    ]
    assert partial_items(key, index, limit) == wanted[:limit]


@pytest.mark.parametrize(
    ("own", "longer", "wanted"),
    [
        ({}, [{1: EXACT}], {1: REUSED}),
        ({1: EXACT}, [{1: EXACT}], {1: EXACT}),  # as its own name it is known better
        ({1: PARTIAL}, [{1: EXACT}], {1: REUSED}),  # but a longer name is surer than a part of one
        ({2: FUZZY, 3: INFLECTED}, [{1: VARIANT}], {3: INFLECTED, 1: REUSED, 2: FUZZY}),
        ({}, [{1: PARTIAL, 2: FUZZY, 3: INFLECTED}], {}),  # whole names only
        ({}, [{number: EXACT for number in range(1, 7)}], {number: REUSED for number in range(1, 1 + MAX_REUSED)}),
        ({}, [{1: EXACT}, {2: EXACT, 1: EXACT}], {1: REUSED, 2: REUSED}),
        ({2: PARTIAL}, [], {2: PARTIAL}),
    ],
)  # fmt: skip
def test_with_reused(
    own: dict[int, int], longer: list[dict[int, int]], wanted: dict[int, int]
) -> None:
    def of(matches: dict[int, int]) -> dict[int, Candidate]:
        return {qid: Candidate(3, LABEL, match, 1.0) for qid, match in matches.items()}

    merged = with_reused(of(own), [of(one) for one in longer])
    assert {qid: candidate.match for qid, candidate in merged.items()} == wanted
    assert list(merged) == list(wanted)
    assert all(candidate.links == 0 for candidate in merged.values() if candidate.match == REUSED)


@pytest.mark.parametrize("surface", ["He", "his", "I", "Who", "the"])
def test_function_words_name_nothing(surface: str) -> None:
    listed = Index({surface.lower(): [(9, 5, LABEL)]})
    assert find_candidates(surface, listed, Reach(), allow_fuzzy=True) == {}


@pytest.mark.parametrize("surface", ["US", "WHO", "The Who"])
def test_acronyms_and_names_of_function_words_name_something(surface: str) -> None:
    listed = Index({surface.lower(): [(9, 5, LABEL)]})
    assert set(find_candidates(surface, listed, Reach(), allow_fuzzy=True)) == {9}
