"""What a Wikidata dump line holds, as typed structs; fields that no table needs are skipped by the decoder.

Goes in: the JSON of one entity. Comes out: `Entity`. Costs about 1.5 ms per MB (msgspec), of which 1 ms is the mere
passing over. `V` is what is decoded of a statement's value: `ItemValue` where only items and names matter, the raw JSON
where statements are kept. Empty maps may be written `[]` (all before 2019, some since), and any key may be missing.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

V = TypeVar("V")
T = TypeVar("T")  # terms: one value per language
A = TypeVar("A")  # aliases: several per language
EmptyMap = list[Any]


class Term(msgspec.Struct, gc=False):
    """A label, a description or an alias; its language is the key that leads to it."""

    value: str


class Sitelink(msgspec.Struct, gc=False):
    """A page of a Wikimedia site about the entity."""

    title: str


class EntityValue(
    msgspec.Struct, rename={"entity_type": "entity-type", "numeric_id": "numeric-id"}, gc=False
):
    """An entity as a value; old dumps have only the number, new ones both, future ones perhaps only the id.

    Also a text with its language: a union of types may have only one struct, and these fields cost others nothing.
    """

    entity_type: str = ""
    numeric_id: int | None = None
    id: str = ""
    text: str = ""
    language: str = ""


class DataValue(msgspec.Struct, Generic[V], gc=False):
    """A value with the type of its encoding."""

    type: str = ""
    value: V = None  # type: ignore[assignment]  # odd data may lack it


class Snak(msgspec.Struct, Generic[V], gc=False):
    """What a statement says; `somevalue` and `novalue` have no datavalue, and the datatype may be missing."""

    snaktype: str = "value"
    datatype: str = ""
    datavalue: DataValue[V] | None = None


class Statement(msgspec.Struct, Generic[V], gc=False):
    """A claim with its rank; qualifiers and references are skipped."""

    mainsnak: Snak[V]
    rank: str = "normal"


class Entity(msgspec.Struct, Generic[T, A, V], gc=False):
    """An item, a property or, harmlessly, something else. The terms are structs made by `terms_type`."""

    id: str = ""
    type: str = ""
    datatype: str = ""
    labels: T | EmptyMap | None = None
    descriptions: T | EmptyMap | None = None
    aliases: A | EmptyMap | None = None
    claims: dict[str, list[Statement[V]]] | EmptyMap | None = None
    sitelinks: dict[str, msgspec.Raw] | EmptyMap | None = None  # nearly all are only counted
    lastrevid: int | None = None


class EntityHead(msgspec.Struct, gc=False):
    """What tells whether an entity has changed."""

    id: str = ""
    lastrevid: int | None = None


class EntityData(msgspec.Struct):
    """A document of Special:EntityData: several entities under their ids."""

    entities: dict[str, msgspec.Raw]


ItemValue = EntityValue | str | float | bool | list[Any] | None


def terms_type(name: str, languages: tuple[str, ...], term: Any) -> Any:  # noqa: ANN401 - types made at run time
    """A struct with one optional field per language: the other languages are never decoded."""
    fields = [(f"term_{number}", term | None, None) for number in range(len(languages))]
    rename = {f"term_{number}": language for number, language in enumerate(languages)}
    return msgspec.defstruct(name, fields, rename=rename, gc=False)


def entity_decoder(languages: tuple[str, ...], value: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401
    """Decoder of entities that keeps terms in these languages and values of this type."""
    terms = terms_type("Terms", languages, Term)
    aliases = terms_type("Aliases", languages, list[Term])
    return msgspec.json.Decoder(Entity[terms, aliases, value])  # type: ignore[valid-type]
