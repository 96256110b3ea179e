"""Turn the raw JSON of a statement's value into the typed columns of `statements`.

Goes in: the value's encoding type and its JSON. Comes out: `Value`, with only the fitting fields
set. What the columns cannot hold (unknown types, quantities with bounds, places off Earth, odd
dates) keeps its JSON in `raw`; nothing is invented. Costs about 2 µs per value.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from pipeline.kb.ids import KIND_LETTERS, entity_number
from pipeline.kb.model import UNREADABLE, EntityValue
from schemas.ids import FIRST_OWN

EARTH = "Q2"
# Wikidata's codes for how exact a date is: below 10 it has no month, below 11 no day.
MONTH_PRECISION, DAY_PRECISION = 10, 11
# The id at the end of an entity's address, as in http://www.wikidata.org/entity/Q2.
ID_END = re.compile(r"([A-Z][0-9]{1,10})$")
TIME = re.compile(r"([+-]?[0-9]{1,20})-([0-9][0-9])-([0-9][0-9])T")
INT64_END = 1 << 63


class Value(NamedTuple):
    """Hold the value columns of a row of `statements`, in their order."""

    item: int | None = None
    text: str | None = None
    language: str | None = None
    amount: str | None = None
    unit: str | None = None
    year: int | None = None
    month: int | None = None
    day: int | None = None
    precision: int | None = None
    calendar: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    raw: str | None = None


class _Time(msgspec.Struct):
    """Hold a date as the dump writes it."""

    time: str
    precision: int
    calendarmodel: str


class _Quantity(msgspec.Struct, rename={"upper": "upperBound", "lower": "lowerBound"}):
    """Hold an amount with its unit and, where the dump has them, its bounds."""

    amount: str
    unit: str
    upper: str | None = None
    lower: str | None = None


class _Coordinate(msgspec.Struct):
    """Hold a place on a globe, in degrees."""

    latitude: float
    longitude: float
    globe: str = ""


class _Monolingual(msgspec.Struct):
    """Hold a text with its language."""

    text: str
    language: str


# The value of a statement that has none.
NO_VALUE = Value()
DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "string": msgspec.json.Decoder(str),
    "time": msgspec.json.Decoder(_Time),
    "quantity": msgspec.json.Decoder(_Quantity),
    "globecoordinate": msgspec.json.Decoder(_Coordinate),
    "monolingualtext": msgspec.json.Decoder(_Monolingual),
    "wikibase-entityid": msgspec.json.Decoder(EntityValue),
}


def parse_value(kind: str, raw: bytes) -> Value:
    """Return the typed columns of one value; only `raw` where the JSON does not fit its type.

    Args:
        kind: the encoding type that the dump gives, such as "time".
        raw: the JSON of the value.
    """
    decoder = DECODERS.get(kind)
    try:
        value = decoder.decode(raw) if decoder else None
    except UNREADABLE:
        value = None

    # Strings are most of all values: they skip the conversion of the JSON to text.
    if isinstance(value, str):
        return Value(text=value)

    as_json = raw.decode("utf-8", "replace")
    match value:
        case _Monolingual():
            return Value(text=value.text, language=value.language)
        # Bounds have no columns: with them the whole JSON is kept beside the amount.
        case _Quantity():
            bounds = as_json if value.upper is not None or value.lower is not None else None
            return Value(amount=value.amount, unit=_id_in(value.unit) or value.unit, raw=bounds)
        # Degrees on the Moon are no place on Earth: the globe is kept in `raw`.
        case _Coordinate():
            off_earth = as_json if _id_in(value.globe) not in ("", EARTH) else None
            return Value(latitude=value.latitude, longitude=value.longitude, raw=off_earth)
        case _Time():
            return _time(value) or Value(raw=as_json)
        case EntityValue():
            return _entity(value) or Value(raw=as_json)
    return Value(raw=as_json)


def _entity(value: EntityValue) -> Value | None:
    """Return an item's number, or another entity's id; None if the value names no entity.

    Other entities are properties, lexemes and forms.
    """
    number = entity_number(value)
    if number is not None:
        return Value(item=number)

    # Lexemes and forms have ids that are no plain numbers, such as L7-F2.
    if value.id:
        return Value(text=value.id)

    # Old dumps give a property only by its number.
    letter = KIND_LETTERS.get(value.entity_type)
    return Value(text=f"{letter}{value.numeric_id}") if letter == "P" and value.numeric_id else None


def _id_in(uri: str) -> str:
    """Return the id at the end of an entity's address; empty if there is none."""
    match = ID_END.search(uri)
    return match.group(1) if match else ""


def _time(value: _Time) -> Value | None:
    """Return a date as the dump writes it; None for what is no date.

    Any year is allowed. Month and day are left out where the precision does not reach them.
    """
    match = TIME.match(value.time)
    calendar = _id_in(value.calendarmodel)
    # The precision is stored in one byte.
    if not match or not calendar.startswith("Q") or not 0 <= value.precision < 256:
        return None

    year, month, day = (int(group) for group in match.groups())
    if abs(year) >= INT64_END or month > 12 or day > 31 or int(calendar[1:]) >= FIRST_OWN:
        return None

    # The dump writes 00 for a month or a day that it does not know.
    return Value(
        year=year,
        month=month if month and value.precision >= MONTH_PRECISION else None,
        day=day if day and value.precision >= DAY_PRECISION else None,
        precision=value.precision,
        calendar=int(calendar[1:]),
    )
