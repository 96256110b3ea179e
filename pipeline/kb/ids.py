"""Ids of entities: Q42, P31, L7. QIDs and PIDs fit 32 bits; the letter keeps kinds apart."""

from __future__ import annotations

import re

from pipeline.kb.model import EntityValue

ENTITY_ID = re.compile(r"([A-Z])([1-9][0-9]{0,9})")
KIND_LETTERS = {"item": "Q", "property": "P", "": "Q"}
UINT32_END = 1 << 32


def parse_id(text: str) -> tuple[str, int] | None:
    """Kind and number of an id ("Q42" is ("Q", 42)); None if it is none, or exceeds 32 bits."""
    found = ENTITY_ID.fullmatch(text)
    if not found or int(found.group(2)) >= UINT32_END:
        return None
    return found.group(1), int(found.group(2))


class _PropertyNumbers(dict[str, int]):
    """Numbers of property ids, parsed once; 0 for what is none."""

    def __missing__(self, key: str) -> int:
        parsed = parse_id(key)
        if parsed is None or parsed[0] != "P":
            return 0
        self[key] = parsed[1]
        return parsed[1]


PROPERTY_NUMBERS = _PropertyNumbers()


def entity_number(value: EntityValue, letter: str = "Q") -> int | None:
    """Number of the item (or of another kind) that a value names; None if it names none."""
    number = value.numeric_id
    if number is None:
        parsed = parse_id(value.id)
        return parsed[1] if parsed and parsed[0] == letter else None
    kind = (
        KIND_LETTERS.get(value.entity_type) if value.entity_type or not value.id else value.id[:1]
    )
    return number if kind == letter and 0 < number < UINT32_END else None
