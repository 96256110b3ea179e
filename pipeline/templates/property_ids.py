"""Read ids of properties. Pure."""

from __future__ import annotations

from schemas.errors import ConfigError


def property_number(relation: str) -> int:
    """Return the number of a property: 19 for P19.

    Raises:
        ConfigError: it is no id of a property.
    """
    number = relation.removeprefix("P")
    if not relation.startswith("P") or not number.isdecimal():
        raise ConfigError(f"{relation!r} is not the id of a property; write for example P19")
    return int(number)
