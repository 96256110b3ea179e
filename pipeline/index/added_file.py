"""Read entities that a user adds: JSONL, an entity a line.

`{"id": "U1", "label": "…", "aliases": ["…"], "description": "…", "facts": {"P31": ["Q5"]}}`. Comes
out: entities, and their rows of the tables of `kb`. A fault names file, line and field.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import pyarrow as pa

from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.index.name_keys import index_keys
from pipeline.kb.entity_rows import INSTANCE_OF
from pipeline.kb.ids import parse_id
from pipeline.kb.terms import MAX_SURFACE_CHARACTERS, clean
from schemas import ALIASES, ENTITIES, TRIPLES
from schemas.bounded_lines import bounded_lines
from schemas.ids import is_own, item_id, parse_item_id

EXAMPLE = (
    '{"id": "U1", "label": "Ada Brook", "aliases": ["A. Brook"], "description": "engineer", '
    '"facts": {"P31": ["Q5"]}}'
)
NonNegative = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """Hold a line as it is written."""

    id: str
    label: str
    aliases: list[str] = []
    description: str = ""
    # Property -> items.
    facts: dict[str, list[str]] = {}
    popularity: NonNegative = 0


_DECODER = msgspec.json.Decoder(_Line)


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedEntity:
    """Hold an entity that a user added."""

    # Its number in the tables: `schemas.ids`.
    number: int
    label: str
    # Other names, without repeats.
    aliases: tuple[str, ...]
    description: str
    # Property and item of each fact, without repeats.
    facts: tuple[tuple[int, int], ...]
    # What stands for Wikipedia's sitelinks: 0 = nobody knows it.
    popularity: int

    @property
    def id(self) -> str:
        """Return the id as a user writes it."""
        return item_id(self.number)

    def to_json(self) -> str:
        """Return the line that gives this entity; equal entities have equal lines."""
        facts: dict[str, list[str]] = {}
        for predicate, target in self.facts:
            facts.setdefault(f"P{predicate}", []).append(item_id(target))
        line = {
            "id": self.id,
            "label": self.label,
            "aliases": self.aliases,
            "description": self.description,
            "facts": facts,
            "popularity": self.popularity,
        }
        return json.dumps(line, ensure_ascii=False)


def read_added(path: str) -> dict[int, AddedEntity]:
    """Return the entities of a file by number.

    Raises:
        StageError: a line is no such entity, or has the id of an earlier one; names line and field.
    """
    entities: dict[int, AddedEntity] = {}
    line_of: dict[int, int] = {}
    with files.open_read(path) as file:
        for number, line in bounded_lines(file, path):
            entity = parse_line(line, f"{path}:{number}")
            if entity.number in entities:
                raise StageError(
                    f"{path}:{number}: field id: {entity.id} stands in line "
                    f"{line_of[entity.number]} too; give each entity one line"
                )
            entities[entity.number], line_of[entity.number] = entity, number
    return entities


def parse_line(line: bytes, position: str) -> AddedEntity:
    """Return the entity of one line.

    Args:
        line: the JSON.
        position: file and line, for errors.

    Raises:
        StageError: it is no such entity; names the field.
    """
    try:
        raw = _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StageError(
            f"{position}: not an entity ({_in_words(error)}); a line looks like {EXAMPLE}"
        ) from error

    try:
        label = _name(raw.label, "label")
        others = (_name(name, f"aliases[{row}]") for row, name in enumerate(raw.aliases))
        # The label is a name already; dict.fromkeys drops repeats and keeps the order.
        names = dict.fromkeys([label, *others])
        return AddedEntity(
            number=_own_number(raw.id),
            label=label,
            aliases=tuple(names)[1:],
            description=clean(raw.description),
            facts=tuple(dict.fromkeys(_facts(raw.facts))),
            popularity=raw.popularity,
        )
    except ValueError as error:
        raise StageError(f"{position}: {error}") from error


def _in_words(error: Exception) -> str:
    """Return what is wrong with a line; msgspec calls a field `$.name`."""
    return str(error).replace("`$.", "`").replace(" - at `", " in field `")


def _own_number(text: str) -> int:
    """Return the number of an own id.

    Raises:
        ValueError: it is another id, or none.
    """
    number = parse_item_id(text)
    if number is None or not is_own(number):
        raise ValueError(
            f"field id: {text!r} is no id of your own; give U1 to U94967295 (items of Wikidata "
            "come from dumps: `kb --dump` takes several)"
        )
    return number


def _name(text: str, field: str) -> str:
    """Return a name as the tables of `kb` hold it.

    Raises:
        ValueError: it is empty or too long, or has no letter and no digit.
    """
    name = clean(text)
    if not index_keys(name, "label"):
        raise ValueError(f"field {field}: {text!r} has no letter and no digit; give a name")
    if len(name) > MAX_SURFACE_CHARACTERS:
        raise ValueError(
            f"field {field}: has {len(name)} characters; give at most {MAX_SURFACE_CHARACTERS}"
        )
    return name


def _facts(raw: dict[str, list[str]]) -> Iterable[tuple[int, int]]:
    """Yield property and item of each fact.

    Raises:
        ValueError: one of the two is no id.
    """
    for name, targets in raw.items():
        predicate = parse_id(name)
        if predicate is None or predicate[0] != "P":
            raise ValueError(f"field facts: {name!r} is no property; give an id like P31")
        for text in targets:
            target = parse_item_id(text)
            if target is None:
                raise ValueError(
                    f"field facts.{name}: {text!r} is no item; give an id like Q5, or U2 for one "
                    "of your own (dates, numbers and texts are not kept)"
                )
            yield predicate[1], target


def added_rows(entities: Sequence[AddedEntity]) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Return the rows of entities in the tables `entities`, `aliases` and `triples` of `kb`."""
    items: list[tuple[object, ...]] = []
    names: list[tuple[object, ...]] = []
    triples: list[tuple[object, ...]] = []
    for entity in entities:
        number = entity.number
        classes = [target for predicate, target in entity.facts if predicate == INSTANCE_OF]
        items.append(
            (number, entity.label, entity.description, None, entity.popularity, entity.popularity)
            + (len(entity.facts), classes, False, None)
        )
        names.append((entity.label, number, "label", 1))
        names += [(alias, number, "alias", 1) for alias in entity.aliases]
        triples += [(number, predicate, target, "normal") for predicate, target in entity.facts]
    return ENTITIES.from_rows(items), ALIASES.from_rows(names), TRIPLES.from_rows(triples)
