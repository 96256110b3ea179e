"""Names that statements give: demonyms ("French" for France), short, official and native names, nicknames, pseudonyms.

Goes in: an item's claims. Comes out: (name, source) of the statements of best rank. A monolingual text counts if its language
is one of the label's languages, letter for letter; a plain string (pseudonyms) has no language, and always counts. Six
look-ups per item where it has none of these properties.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from pipeline.kb.claims import Claims, best_statements
from pipeline.kb.model import EntityValue, ItemValue, Snak

# P1549 demonym; P1813 short name, P1448 official name, P1449 nickname, P742 pseudonym, P1559 name in native language.
NAME_PROPERTIES = {"P1549": "demonym"} | dict.fromkeys(
    ("P1813", "P1448", "P1449", "P742", "P1559"), "name"
)
ODD_NAMES = "names_of_odd_shape"
_VALUE: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ItemValue)


def statement_names(
    claims: Claims, languages: frozenset[str], counts: Counter[str]
) -> Iterator[tuple[str, str]]:
    """(name, source), in the order of the properties above; values that are neither text nor string are counted."""
    for key, source in NAME_PROPERTIES.items():
        if key not in claims:
            continue
        for statement in best_statements(claims[key])[1]:
            if statement.mainsnak.snaktype != "value":
                continue
            found = _text_and_language(statement.mainsnak)
            if found is None:
                counts[ODD_NAMES] += 1
            elif not found[1] or found[1] in languages:
                yield found[0], source


def _text_and_language(snak: Snak[Any]) -> tuple[str, str] | None:
    """The text of a value, with its language ("" of a plain string); None if it is no text."""
    value = snak.datavalue.value if snak.datavalue is not None else None
    if type(value) is msgspec.Raw:
        value = _decoded(value)
    if type(value) is str:
        return value, ""
    if type(value) is EntityValue and value.text and value.language:
        return value.text, value.language
    return None


def _decoded(raw: msgspec.Raw) -> object:
    try:
        return _VALUE.decode(raw)
    except msgspec.MsgspecError:
        return None
