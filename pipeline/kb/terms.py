"""Choose the names of an entity: which label, which aliases, and what a name may look like.

Label: English, else `mul` (names that are the same in all languages; English labels are being
deleted in its favour),
else the languages of the settings, in their order. Aliases: labels and aliases of all these
languages, the title in English Wikipedia, and the names that statements give (`kb.names`). Each
(surface, source) is kept once per entity,
exactly as cleaned: two names that differ in case stay two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from pipeline.kb.model import UNREADABLE, Sitelink, Term
from schemas.characters import without_invisible

FIRST_LANGUAGES = ("en", "mul")
MAX_SURFACE_CHARACTERS = 250
_SITELINK_DECODER = msgspec.json.Decoder(Sitelink)


def label_languages(languages: tuple[str, ...]) -> tuple[str, ...]:
    """Return the languages in the order in which a label is looked for."""
    return tuple(dict.fromkeys((*FIRST_LANGUAGES, *languages)))


def clean(name: str) -> str:
    """Return a name without invisible characters, with single spaces and no space around it.

    >>> clean(" Caf\N{COMBINING ACUTE ACCENT}e\\u200e\\u00a0 Noir ")
    'Caf\N{COMBINING ACUTE ACCENT}e Noir'
    """
    # Most names are clean already, and to see this costs less than to make them so.
    if name.isascii() and name.isprintable() and "  " not in name and name == name.strip():
        return name
    # split() without an argument knows all kinds of space, and drops those at the ends.
    return " ".join(without_invisible(name).split())


def page_title(sitelink: msgspec.Raw | None) -> str:
    """Return the title of a sitelink; empty where there is none, or none that can be read."""
    if sitelink is None:
        return ""
    try:
        return clean(_SITELINK_DECODER.decode(sitelink).title)
    except UNREADABLE:
        return ""


def terms_in(terms: object) -> list[Any]:
    """Return one value per language, in label order; None where a language has none.

    An empty or missing map gives an empty list.
    """
    return list(msgspec.structs.astuple(terms)) if isinstance(terms, msgspec.Struct) else []


def first_name(terms: list[Term | None]) -> str:
    """Return the first name that has something to read; empty if none has."""
    for term in terms:
        if term and (name := clean(term.value)):
            return name
    return ""


def surfaces(
    labels: list[Term | None],
    aliases: list[list[Term] | None],
    extra_names: Iterable[tuple[str, str]],
    counts: Counter[str],
) -> Iterator[tuple[str, str]]:
    """Yield each (surface, source) of an entity once.

    Args:
        labels: the labels, one per language, or None.
        aliases: the aliases, a list per language, or None.
        extra_names: (name, source) from elsewhere: sitelinks and statements.
        counts: receives how many names are empty or too long to be searched for.
    """
    names = [(term.value, "label") for term in labels if term]
    names += [(term.value, "alias") for terms in aliases if terms for term in terms]
    names += extra_names

    # Labels come before aliases: the order of rows depends on it.
    distinct: set[tuple[str, str]] = set()
    for name, source in names:
        surface = clean(name)
        if not surface or len(surface) > MAX_SURFACE_CHARACTERS:
            counts["names_dropped"] += 1
        elif (surface, source) not in distinct:
            distinct.add((surface, source))
            yield surface, source
