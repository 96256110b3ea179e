"""Claims of an entity: best ranks, item values, and the rows of `statements`.

Best rank of a property: preferred if any of its statements is preferred (even one without a value), else normal;
deprecated statements are never the best. Claims to merged ids stay as they are: `redirects` says where they lead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from pipeline.core.wikidata_model import EntityValue, Snak, Statement
from pipeline.core.wikidata_values import NOTHING, Value, parse_value

ENTITY_ID = re.compile(r"([A-Z])([1-9]\d{0,9})$")
KIND_LETTERS = {"item": "Q", "property": "P", "": "Q"}
UINT32_END = 1 << 32
_ENTITY_VALUE = msgspec.json.Decoder(EntityValue)


def parse_id(text: str) -> tuple[str, int] | None:
    """Kind and number of an id ("Q42" is ("Q", 42)); None if it is none, or exceeds 32 bits."""
    found = ENTITY_ID.match(text)
    if not found or int(found.group(2)) >= UINT32_END:
        return None
    return found.group(1), int(found.group(2))


def target_of(snak: Snak[Any], letter: str = "Q") -> int | None:
    """Number of the item (or of another kind) that a snak points to; None if it points to none."""
    data = snak.datavalue
    if data is None:
        return None
    value = data.value
    if isinstance(value, msgspec.Raw):
        value = _entity_value(data.type, value)
    if not isinstance(value, EntityValue):
        return None
    if value.id:
        parsed = parse_id(value.id)
        return parsed[1] if parsed and parsed[0] == letter else None
    number = value.numeric_id
    if number is None or KIND_LETTERS.get(value.entity_type) != letter:
        return None
    return number if 0 < number < UINT32_END else None


def _entity_value(kind: str, raw: msgspec.Raw) -> EntityValue | None:
    if kind != "wikibase-entityid":
        return None
    try:
        return _ENTITY_VALUE.decode(raw)
    except msgspec.MsgspecError:
        return None


def best_rank(statements: list[Statement[Any]]) -> str:
    """The rank whose statements count as true."""
    return "preferred" if any(statement.rank == "preferred" for statement in statements) else "normal"


def best_targets(statements: list[Statement[Any]], letter: str = "Q") -> list[int]:
    """Targets of the best-rank statements of one property, each once, in order."""
    rank = best_rank(statements)
    targets = (target_of(statement.mainsnak, letter) for statement in statements if statement.rank == rank)
    return list(dict.fromkeys(target for target in targets if target is not None))


def claims_in(claims: object) -> dict[int, list[Statement[Any]]]:
    """Statements by PID; empty for an empty or missing map."""
    if not isinstance(claims, dict):
        return {}
    parsed = ((parse_id(key), statements) for key, statements in claims.items())
    return {key[1]: statements for key, statements in parsed if key and key[0] == "P"}


def count_oddities(claims: dict[int, list[Statement[Any]]], counts: Counter[str]) -> int:
    """Count what is kept out of the tables or lacks something; comes back with the number of statements."""
    total = 0
    for statements in claims.values():
        total += len(statements)
        for statement in statements:
            if statement.rank == "deprecated":
                counts["statements_deprecated"] += 1
            if statement.mainsnak.snaktype != "value":
                counts[f"statements_{statement.mainsnak.snaktype}"] += 1
            if not statement.mainsnak.datatype:
                counts["statements_without_datatype"] += 1
    return total


def other_statements(
    claims: dict[int, list[Statement[msgspec.Raw]]],
) -> Iterator[tuple[int, int, Statement[msgspec.Raw], Value]]:
    """PID, ordinal, statement and value of every statement that points to no item; all ranks."""
    for pid, statements in claims.items():
        for ordinal, statement in enumerate(statements):
            if target_of(statement.mainsnak) is None:
                data = statement.mainsnak.datavalue
                has_value = data is not None and data.value is not None
                value = parse_value(data.type, bytes(data.value)) if data is not None and has_value else NOTHING
                yield pid, ordinal, statement, value
