"""Read ids of entities, such as Q42, P31 and L7, into a kind and a number.

The numbers of items (QIDs) and of properties (PIDs) fit 32 bits; the letter keeps the kinds apart.
"""

from __future__ import annotations

import re

from pipeline.kb.model import EntityValue
from schemas.ids import FIRST_OWN, UINT32_END

ENTITY_ID = re.compile(r"([A-Z])([1-9][0-9]{0,9})")
# The letter of an entity type as values spell it; a value without a type names an item.
KIND_LETTERS = {"item": "Q", "property": "P", "": "Q"}
# One past the last number of a kind: items above it are those that a user adds.
ENDS = {"Q": FIRST_OWN}


def parse_id(text: str) -> tuple[str, int] | None:
    """Return the letter and the number of an id: ("Q", 42) for "Q42".

    Return None if the text is no such id, or if its number exceeds 32 bits; an item's number must
    also be below those that users give (`schemas.ids`).
    """
    match = ENTITY_ID.fullmatch(text)
    if not match or int(match.group(2)) >= ENDS.get(match.group(1), UINT32_END):
        return None
    return match.group(1), int(match.group(2))


class _PropertyNumbers(dict[str, int]):
    """Map property ids to numbers, parsing each id once; any other text gives 0."""

    def __missing__(self, key: str) -> int:
        parsed = parse_id(key)

        # Only real ids are remembered: faulty input could have any number of other keys.
        if parsed is None or parsed[0] != "P":
            return 0

        self[key] = parsed[1]
        return parsed[1]


PROPERTY_NUMBERS = _PropertyNumbers()


def entity_number(value: EntityValue, letter: str = "Q") -> int | None:
    """Return the number of the entity that a value names; None if it names none of this kind.

    Args:
        value: an entity as the value of a statement.
        letter: the kind looked for: Q for items, P for properties.
    """
    number = value.numeric_id
    if number is None:
        parsed = parse_id(value.id)
        return parsed[1] if parsed and parsed[0] == letter else None

    # The type decides; an id without a type gives the kind by its letter.
    is_typed = value.entity_type or not value.id
    kind = KIND_LETTERS.get(value.entity_type) if is_typed else value.id[:1]
    return number if kind == letter and 0 < number < ENDS.get(letter, UINT32_END) else None
