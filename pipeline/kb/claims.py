"""Claims of an entity: best ranks, item values, and the rows of `statements`.

Best rank of a property: preferred if any of its statements is preferred (even one without a value), else normal;
deprecated statements are never the best. Claims to merged ids stay as they are: `redirects` says where they lead.
Costs about 0.5 µs per statement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from pipeline.kb.ids import PROPERTY_NUMBERS, UINT32_END, entity_number
from pipeline.kb.model import EntityValue, Snak, Statement
from pipeline.kb.values import NOTHING, Value, parse_value

Claims = dict[str, list[Statement[Any]]]  # by property id
ENTITY_VALUE = (
    "wikibase-entityid",
    "",
)  # types of values that name an entity; odd data may lack it
_ENTITY_VALUE = msgspec.json.Decoder(EntityValue)


def target_of(snak: Snak[Any], letter: str = "Q") -> int | None:
    """Number of the item (or of another kind) that a snak points to; None if it points to none."""
    data = snak.datavalue
    if data is None or data.type not in ENTITY_VALUE:
        return None
    value = data.value
    if type(value) is msgspec.Raw:
        value = _entity_value(value)
    if type(value) is not EntityValue:
        return None
    if letter == "Q" and value.entity_type == "item" and value.numeric_id:  # nearly all
        return value.numeric_id if 0 < value.numeric_id < UINT32_END else None
    return entity_number(value, letter)


def _entity_value(raw: msgspec.Raw) -> EntityValue | None:
    try:
        return _ENTITY_VALUE.decode(raw)
    except msgspec.MsgspecError:
        return None


def best_statements(statements: list[Statement[Any]]) -> tuple[str, list[Statement[Any]]]:
    """The rank that counts as true, and the statements that have it."""
    is_preferred = any(statement.rank == "preferred" for statement in statements)
    rank = "preferred" if is_preferred else "normal"
    return rank, [statement for statement in statements if statement.rank == rank]


def best_targets(statements: list[Statement[Any]], letter: str = "Q") -> tuple[str, list[int]]:
    """The rank that counts as true, and the targets of the statements that have it, each once, in order."""
    rank, best = best_statements(statements)
    snaks = [statement.mainsnak for statement in best]
    targets = [target_of(snak, letter) for snak in snaks if snak.snaktype == "value"]
    return rank, [target for target in dict.fromkeys(targets) if target is not None]


def claims_in(claims: object) -> Claims:
    """Statements by property id; empty for an empty or missing map."""
    return claims if isinstance(claims, dict) else {}


class ItemClaims(NamedTuple):
    """What an item's claims say about items."""

    num_statements: int
    targets: list[tuple[int, str, list[int]]]  # PID, its best rank, the items at that rank


def item_claims(claims: Claims, counts: Counter[str]) -> ItemClaims:
    """Best-rank items per property; counts what is kept out of the tables, or lacks something.

    Nearly all statements are plain: of normal rank, with a value and a datatype. Only others need `best_targets`.
    """
    total, found = 0, []
    for key, statements in claims.items():
        pid = PROPERTY_NUMBERS[key]
        if not pid:
            continue
        total += len(statements)
        rank, targets, num_odd = "normal", [], 0
        for statement in statements:
            snak = statement.mainsnak
            if statement.rank != "normal" or snak.snaktype != "value" or not snak.datatype:
                _count_oddities(statement, counts)
                num_odd += 1
            elif (target := target_of(snak)) is not None:
                targets.append(target)
        if num_odd:
            rank, targets = best_targets(statements)
        elif len(targets) > 1:
            targets = list(dict.fromkeys(targets))
        if targets:
            found.append((pid, rank, targets))
    return ItemClaims(total, found)


def _count_oddities(statement: Statement[Any], counts: Counter[str]) -> None:
    snak = statement.mainsnak
    if statement.rank == "deprecated":
        counts["statements_deprecated"] += 1
    if snak.snaktype != "value":
        counts[f"statements_{snak.snaktype}"] += 1
    if not snak.datatype:
        counts["statements_without_datatype"] += 1


def statement_values(
    claims: dict[str, list[Statement[msgspec.Raw]]],
) -> Iterator[tuple[int, int, Statement[msgspec.Raw], Value]]:
    """PID, ordinal, statement and value of every statement, of all ranks."""
    for key, statements in claims.items():
        pid = PROPERTY_NUMBERS[key]
        for ordinal, statement in enumerate(statements if pid else ()):
            data = statement.mainsnak.datavalue
            says_one = (
                statement.mainsnak.snaktype == "value"
                and data is not None
                and data.value is not None
            )
            value = (
                parse_value(data.type, bytes(data.value))
                if data is not None and says_one
                else NOTHING
            )
            yield pid, ordinal, statement, value
