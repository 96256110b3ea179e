"""Write and read the ids of items: those of Wikidata (Q42) and those that a user adds (U7).

Tables hold both as uint32. Wikidata has 140 million items and gains 15 million a year, so the
numbers from FIRST_OWN on stay free for centuries: U7 is FIRST_OWN + 7. There are 94,967,295 of
them.
"""

from __future__ import annotations

import re

FIRST_OWN = 4_200_000_000
UINT32_END = 1 << 32
# Redirects that are followed from a merged item. Real chains are short: a longer one is a mistake or
# a cycle.
MAX_HOPS = 5
_ITEM = re.compile(r"([QU])([1-9][0-9]{0,9})", re.IGNORECASE)


def is_own(number: int) -> bool:
    """Say whether an item is one that a user added."""
    return number >= FIRST_OWN


def item_id(number: int) -> str:
    """Return an item's id as text.

    >>> item_id(42), item_id(4_200_000_007)
    ('Q42', 'U7')
    """
    return f"U{number - FIRST_OWN}" if is_own(number) else f"Q{number}"


def parse_item_id(text: str) -> int | None:
    """Return the number of an item's id; None if the text is none, or does not fit the columns.

    >>> parse_item_id("Q42"), parse_item_id("U7"), parse_item_id("P31")
    (42, 4200000007, None)
    """
    match = _ITEM.fullmatch(text)
    if match is None:
        return None
    letter, digits = match.groups()
    number = int(digits)
    if letter in "Uu":
        number += FIRST_OWN
        return number if number < UINT32_END else None
    # An id of Wikidata may not fall into the range of the others.
    return number if number < FIRST_OWN else None
