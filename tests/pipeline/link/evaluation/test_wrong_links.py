"""Every wrong link has one class, the first that fits."""

from __future__ import annotations

import pytest

from pipeline.index.entity_types import GROUP, LANGUAGE, PLACE
from pipeline.link.evaluation.scores import Gold, ItemFacts, Prediction
from pipeline.link.evaluation.wrong_links import WRONG_LINKS, count_wrong_links, wrong_links

TEXT = (
    "In November the Radiation Laboratory of Russian war memorials was Stadium-like at the stadium"
)
FACTS = ItemFacts({}, {1: PLACE, 2: LANGUAGE, 3: GROUP | PLACE})


def key_of(surface: str, start: int = 0) -> tuple[str, int, int]:
    found = TEXT.index(surface, start)
    return "d", found, found + len(surface)


GOLDS = [
    Gold(key_of("Radiation Laboratory"), None, in_kb=False),
    Gold(key_of("Russian"), 4, in_kb=True),
    Gold(key_of("war"), 5, in_kb=True),
]


@pytest.mark.parametrize(
    ("surface", "link", "wanted"),
    [
        ("November", Prediction(1), "date"),
        ("November", Prediction(1, match="fuzzy"), "date"),  # the first class that fits
        ("Stadium", Prediction(1, match="fuzzy"), "fuzzy"),
        ("Russian", Prediction(1, (1, 4), ner_type="NORP"), "nationality"),
        ("Russian", Prediction(2, (2, 4)), "nationality"),  # the item is a language
        ("Russian", Prediction(3, (3, 4)), "wrong_candidate"),  # a place too
        ("Radiation", Prediction(1), "part_of_name"),
        ("war memorials", Prediction(1), "boundary"),
        ("Radiation Laboratory", Prediction(1), "nil"),
        ("war", Prediction(1, (1,)), "not_listed"),
        ("war", Prediction(1, (1, 5)), "wrong_candidate"),
        ("Stadium", Prediction(1), "common_noun"),
        ("In", Prediction(1), "no_gold"),
    ],
)
def test_classes(surface: str, link: Prediction, wanted: str) -> None:
    key = key_of(surface)
    link = Prediction(
        link.qid, link.candidates, match=link.match, ner_type=link.ner_type, surface=surface
    )
    assert list(wrong_links(GOLDS, {key: link}, {"d": TEXT}, FACTS)) == [(key, wanted)]


def test_right_links_and_nil_have_no_class() -> None:
    links = {
        key_of("war"): Prediction(5, (5,), surface="war"),
        key_of("Stadium"): Prediction(None, (1,), surface="Stadium"),
    }
    assert list(wrong_links(GOLDS, links, {"d": TEXT}, FACTS)) == []


def test_counts() -> None:
    counts = count_wrong_links(["date", "date", "nil"], 4)
    assert list(counts) == list(WRONG_LINKS)
    assert counts["date"] == {"count": 2, "share_of_links": 0.5}
    assert counts["fuzzy"] == {"count": 0, "share_of_links": 0.0}
    assert count_wrong_links([], 0)["date"]["share_of_links"] is None
