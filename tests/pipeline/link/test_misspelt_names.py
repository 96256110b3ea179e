"""Which mentions of a document are likely misspelt."""

from __future__ import annotations

import pytest

from pipeline.link.misspelt_names import likely_misspelt


@pytest.mark.parametrize(
    ("known", "unknown", "wanted"),
    [
        (["schumer"], ["shumer"], [True]),
        (["sumner"], ["schumer"], [False]),  # too far
        (["schumer"], ["shumer", "shumer"], [False, False]),  # a spelling that comes back is a name
        ([], ["shumer"], [False]),  # the right spelling is not in the document
        (["iraq"], ["irak"], [False]),  # short names are near to others
        (["charles schumer"], ["charlse shumer"], [True]),  # two edits in a long name
        (["schumer"], ["schummre"], [False]),  # two edits in a short one
    ],
)
def test_evidence(known: list[str], unknown: list[str], wanted: list[bool]) -> None:
    are_known = [True] * len(known) + [False] * len(unknown)
    assert likely_misspelt([*known, *unknown], are_known) == [False] * len(known) + wanted


def test_known_names_are_never_misspelt() -> None:
    assert likely_misspelt(["gross", "cross"], [True, True]) == [False, False]
