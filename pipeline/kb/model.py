"""Describe a line of a Wikidata dump as typed structs.

The decoder skips all fields that no table needs.

Goes in: the JSON of one entity. Comes out: `Entity`. Decoding costs about 1.5 ms per MB (msgspec),
of which 1 ms is spent on passing over the bytes. The type variable `V` says what is decoded of a
statement's value: `ItemValue` where only items and names matter, the raw JSON where statements are
kept. Empty maps may be written `[]` (all maps before 2019, some since), and any key may be missing.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

# What a statement's value becomes.
V = TypeVar("V")
# A struct of terms: one value per language.
T = TypeVar("T")
# A struct of aliases: several values per language.
A = TypeVar("A")
EmptyMap = list[Any]


# What msgspec raises for bytes that are no JSON in UTF-8 of the shape that is wanted. A field that is
# decoded later was passed over before, so its text may be at fault as well.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Term(msgspec.Struct, gc=False):
    """Hold a label, a description or an alias; its language is the key that leads to it."""

    value: str


class Sitelink(msgspec.Struct, gc=False):
    """Hold the title of a Wikimedia page about the entity."""

    title: str


class EntityValue(
    msgspec.Struct, rename={"entity_type": "entity-type", "numeric_id": "numeric-id"}, gc=False
):
    """Hold an entity that is the value of a statement, or a text with its language.

    Old dumps give only the number of the entity, new ones the number and the id, and future ones
    perhaps only the id. Text shares the struct because msgspec allows one struct only in a union of
    types; the unused fields cost nothing.
    """

    entity_type: str = ""
    numeric_id: int | None = None
    id: str = ""
    text: str = ""
    language: str = ""


class DataValue(msgspec.Struct, Generic[V], gc=False):
    """Hold a value with the type of its encoding."""

    type: str = ""
    # Faulty data may lack the value.
    value: V = None  # type: ignore[assignment]


class Snak(msgspec.Struct, Generic[V], gc=False):
    """Hold what a statement says about its property.

    Snaks of the types `somevalue` and `novalue` have no datavalue, and the datatype may be missing.
    """

    snaktype: str = "value"
    datatype: str = ""
    datavalue: DataValue[V] | None = None


class Statement(msgspec.Struct, Generic[V], gc=False):
    """Hold a claim with its rank; its qualifiers and references are skipped."""

    mainsnak: Snak[V]
    rank: str = "normal"


class Entity(msgspec.Struct, Generic[T, A, V], gc=False):
    """Hold an item or a property; entities of other kinds decode too, and do no harm.

    The terms are structs that `terms_type` creates.
    """

    id: str = ""
    type: str = ""
    datatype: str = ""
    labels: T | EmptyMap | None = None
    descriptions: T | EmptyMap | None = None
    aliases: A | EmptyMap | None = None
    claims: dict[str, list[Statement[V]]] | EmptyMap | None = None
    # Raw, because nearly all sitelinks are only counted.
    sitelinks: dict[str, msgspec.Raw] | EmptyMap | None = None
    lastrevid: int | None = None


class EntityHead(msgspec.Struct, gc=False):
    """Hold the two fields that show whether an entity has changed."""

    id: str = ""
    lastrevid: int | None = None


class EntityData(msgspec.Struct):
    """Hold a document of Special:EntityData: several entities under their ids."""

    entities: dict[str, msgspec.Raw]


ItemValue = EntityValue | str | float | bool | list[Any] | None


def terms_type(
    name: str, languages: tuple[str, ...], term: type[Term] | type[list[Term]]
) -> type[msgspec.Struct]:
    """Create a struct with a field per language: other languages are never decoded."""
    # Language codes such as "zh-hans" are no Python names: the fields have numbers, the JSON keys
    # the codes.
    fields = [(f"term_{number}", term | None, None) for number in range(len(languages))]
    rename = {f"term_{number}": language for number, language in enumerate(languages)}
    return msgspec.defstruct(name, fields, rename=rename, gc=False)


def entity_decoder(languages: tuple[str, ...], value: object) -> msgspec.json.Decoder[Any]:
    """Create a decoder of entities that keeps terms in these languages and values of this type."""
    terms = terms_type("Terms", languages, Term)
    aliases = terms_type("Aliases", languages, list[Term])
    return msgspec.json.Decoder(Entity[terms, aliases, value])  # type: ignore[valid-type]
