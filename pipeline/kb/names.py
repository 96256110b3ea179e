"""Find the names that statements give to an item.

These are demonyms ("French" for France), short, official and native names, nicknames and
pseudonyms.

Goes in: an item's claims. Comes out: (name, source) of the statements of best rank. A monolingual
text counts if its language is exactly one of the label's languages; a plain string (pseudonyms) has
no language, and always counts. An item that has none of these properties costs six look-ups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from pipeline.kb.claims import Claims, best_statements
from pipeline.kb.model import UNREADABLE, EntityValue, ItemValue, Snak

# P1549 demonym; P1813 short name, P1448 official name, P1449 nickname, P742 pseudonym, P1559 name
# in native language.
NAME_PROPERTIES = {"P1549": "demonym"} | dict.fromkeys(
    ("P1813", "P1448", "P1449", "P742", "P1559"), "name"
)
# The counter of name statements whose value is neither a text nor a string.
ODD_NAMES = "names_of_odd_shape"
_VALUE_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ItemValue)


def statement_names(
    claims: Claims, languages: frozenset[str], counts: Counter[str]
) -> Iterator[tuple[str, str]]:
    """Yield (name, source), in the order of NAME_PROPERTIES.

    Args:
        claims: the statements of one item.
        languages: the languages of labels; names in other languages are left out.
        counts: receives the number of odd values, under ODD_NAMES.
    """
    for key, source in NAME_PROPERTIES.items():
        if key not in claims:
            continue

        _, best = best_statements(claims[key])
        for statement in best:
            if statement.mainsnak.snaktype != "value":
                continue

            name_and_language = _text_and_language(statement.mainsnak)
            if name_and_language is None:
                counts[ODD_NAMES] += 1
                continue

            name, language = name_and_language
            if not language or language in languages:
                yield name, source


def _text_and_language(snak: Snak[Any]) -> tuple[str, str] | None:
    """Return a value's text and language ("" for a plain string); None if it is no text."""
    value = snak.datavalue.value if snak.datavalue is not None else None

    # Values are raw JSON where the run keeps statements.
    if type(value) is msgspec.Raw:
        value = _decoded(value)

    # Exact types instead of isinstance: this runs for every name of every item.
    if type(value) is str:
        return value, ""
    if type(value) is EntityValue and value.text and value.language:
        return value.text, value.language
    return None


def _decoded(raw: msgspec.Raw) -> object:
    """Decode a value; return None for one of a shape that no name has."""
    try:
        return _VALUE_DECODER.decode(raw)
    except UNREADABLE:
        return None
