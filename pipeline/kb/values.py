"""Values of statements: raw JSON to the typed columns of `statements`.

Goes in: the value's encoding type and its JSON. Comes out: `Value`, of which only the fitting fields are set. What
the columns cannot hold (unknown types, quantities with bounds, places off Earth, odd dates) keeps its JSON in `raw`;
nothing is invented. Costs about 2 µs per value.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from pipeline.kb.ids import KIND_LETTERS, UINT32_END, entity_number
from pipeline.kb.model import EntityValue

EARTH = "Q2"
MONTH_PRECISION, DAY_PRECISION = 10, 11
ID_END = re.compile(r"([A-Z][0-9]{1,10})$")
TIME = re.compile(r"([+-]?[0-9]{1,20})-([0-9][0-9])-([0-9][0-9])T")
INT64_END = 1 << 63


class Value(NamedTuple):
    """The value columns of `statements`, in their order."""

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
    time: str
    precision: int
    calendarmodel: str


class _Quantity(msgspec.Struct, rename={"upper": "upperBound", "lower": "lowerBound"}):
    amount: str
    unit: str
    upper: str | None = None
    lower: str | None = None


class _Coordinate(msgspec.Struct):
    latitude: float
    longitude: float
    globe: str = ""


class _Monolingual(msgspec.Struct):
    text: str
    language: str


NOTHING = Value()
DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "string": msgspec.json.Decoder(str),
    "time": msgspec.json.Decoder(_Time),
    "quantity": msgspec.json.Decoder(_Quantity),
    "globecoordinate": msgspec.json.Decoder(_Coordinate),
    "monolingualtext": msgspec.json.Decoder(_Monolingual),
    "wikibase-entityid": msgspec.json.Decoder(EntityValue),
}


def parse_value(kind: str, raw: bytes) -> Value:
    """Typed columns of one value; `raw` alone where it does not have the shape its type promises."""
    decoder = DECODERS.get(kind)
    try:
        value = decoder.decode(raw) if decoder else None
    except msgspec.MsgspecError:
        value = None
    if isinstance(value, str):  # most of them
        return Value(text=value)
    as_json = raw.decode("utf-8", "replace")
    match value:
        case _Monolingual():
            return Value(text=value.text, language=value.language)
        case _Quantity():
            bounds = as_json if value.upper is not None or value.lower is not None else None
            return Value(amount=value.amount, unit=_id_in(value.unit) or value.unit, raw=bounds)
        case _Coordinate():
            off_earth = as_json if _id_in(value.globe) not in ("", EARTH) else None
            return Value(latitude=value.latitude, longitude=value.longitude, raw=off_earth)
        case _Time():
            return _time(value) or Value(raw=as_json)
        case EntityValue():
            return _entity(value) or Value(raw=as_json)
    return Value(raw=as_json)


def _entity(value: EntityValue) -> Value | None:
    """An item's number; the id of a property, a lexeme, a form; nothing for what names no entity."""
    number = entity_number(value)
    if number is not None:
        return Value(item=number)
    if value.id:
        return Value(text=value.id)
    letter = KIND_LETTERS.get(value.entity_type)
    return Value(text=f"{letter}{value.numeric_id}") if letter == "P" and value.numeric_id else None


def _id_in(uri: str) -> str:
    found = ID_END.search(uri)
    return found.group(1) if found else ""


def _time(value: _Time) -> Value | None:
    """A date as the dump writes it: any year, and no month or day where the precision has none."""
    found = TIME.match(value.time)
    calendar = _id_in(value.calendarmodel)
    if not found or not calendar.startswith("Q") or not 0 <= value.precision < 256:
        return None
    year, month, day = (int(group) for group in found.groups())
    if abs(year) >= INT64_END or month > 12 or day > 31 or int(calendar[1:]) >= UINT32_END:
        return None
    return Value(
        year=year,
        month=month if month and value.precision >= MONTH_PRECISION else None,
        day=day if day and value.precision >= DAY_PRECISION else None,
        precision=value.precision,
        calendar=int(calendar[1:]),
    )
