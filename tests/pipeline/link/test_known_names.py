"""What is a name: the real index against its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.index.alias_index import AliasIndex
from pipeline.index.words import word_hash
from pipeline.link import known_names as names
from pipeline.link.known_names import IndexNames
from tests.pipeline.index.test_alias_index import build
from tests.pipeline.link.small_world import Entity, Store

ROWS = [
    ("Paris", 90, "label", 1), ("Málaga", 8851, "label", 1), ("prime number", 49008, "label", 1),
    ("river", 4022, "label", 1), ("river", 4022, "anchor", 30), ("Brook", 47521, "label", 1), ("brook", 47521, "anchor", 2),
    ("Paris", 90, "anchor", 68), ("Class", 5, "label", 1), ("Lost Town", 404, "label", 1),
]  # fmt: skip
STORE = Store(
    {
        90: Entity("Paris"),
        8851: Entity("Málaga"),
        49008: Entity("prime number"),
        4022: Entity("river"),
        5: Entity(""),
    }
)


@pytest.fixture
def index(tmp_path: Path) -> AliasIndex:
    return build(tmp_path, ROWS)


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("paris", True),
        ("malaga", True),
        ("málaga", True),
        ("pàris", True),  # diacritics that the name has not
        ("prime numbers", True),  # its singular is one
        ("primes number", False),
        ("parisian", False),  # other forms are no ground for a mention
        ("clas", False),
        ("", False),
    ],
)
def test_is_name(index: AliasIndex, key: str, wanted: bool) -> None:  # noqa: FBT001
    found = IndexNames(index, STORE, 0.1)
    assert [found.is_name(key), found.is_name(key)] == [wanted, wanted], (
        "the second answer is remembered"
    )


@pytest.mark.parametrize(
    ("share", "wanted"),
    [
        (0.02, ["river", "brook", "paris"]),
        (0.021, ["river", "paris"]),
        (0.5, ["paris"]),
        (1e-9, ["river", "brook", "paris"]),  # but never without a link
        (0.0, []),
    ],
)
def test_words_that_the_corpus_links_often(
    index: AliasIndex, share: float, wanted: list[str]
) -> None:
    """Of 100 links."""
    assert index.num_links == 100
    found = IndexNames(index, STORE, share)
    words = ["river", "brook", "paris", "nowhere", "class"]
    assert [word for word in words if found.is_linked(word)] == wanted
    assert [word for word in words if found.is_linked(word)] == wanted


def test_a_word_that_links_alone_state_is_no_name(tmp_path: Path) -> None:
    """It may have meant anything; another form of a stated name will do."""
    rows = [("available", 7, "anchor", 9), ("rowers", 8, "anchor", 9), ("Rowing", 8, "label", 1)]
    found = IndexNames(build(tmp_path, rows), STORE, 0.1)
    assert [found.is_linked(word) for word in ("available", "rowers")] == [False, True]


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("paris", True),
        ("prime number", False),
        ("class", False),
        ("lost town", False),
        ("nowhere", False),
    ],
)
def test_is_proper(index: AliasIndex, key: str, wanted: bool) -> None:  # noqa: FBT001
    """By the label of what it names: none, none in the store, or no such name is no proper name."""
    assert IndexNames(index, STORE, 0.1).is_proper(key) == wanted


def test_answers_are_forgotten_and_stay_the_same(
    index: AliasIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "CACHE_SIZE", 2)
    found = IndexNames(index, STORE, 0.1)
    keys = ["paris", "nowhere", "river", "brook", "class"]
    for _ in range(3):
        assert [found.is_name(key) for key in keys] == [True, False, True, True, True]
        assert [found.is_linked(key) for key in keys] == [True, False, True, False, False]
        assert len(found._is_name) <= 2
        assert len(found._is_linked) <= 2


def test_openings_are_those_of_the_index(index: AliasIndex) -> None:
    hashes = np.array([word_hash(word) for word in ("prime", "number", "paris")], np.uint32)
    found = IndexNames(index, STORE, 0.1).opens_name(hashes[:1], hashes[1:2])
    assert found.tolist() == [True]
