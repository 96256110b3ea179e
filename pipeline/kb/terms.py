"""Names of entities: which label, which aliases, and what a name may look like.

Label: English, else `mul` (names that are the same in all languages; English labels are being deleted in its favour),
else the languages asked for, in their order. Aliases: labels and aliases of all these languages, the English Wikipedia's
title and what statements give (`wikidata_names`), each (surface, source) once per entity, exactly as cleaned: two that
differ in case stay two.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from pipeline.kb.model import Sitelink, Term

FIRST_LANGUAGES = ("en", "mul")
MAX_SURFACE_CHARACTERS = 250
JOINERS = "\u200c\u200d"  # they change the meaning of Persian words and of emoji
TAGS = range(0xE0020, 0xE0080)  # of flag emoji


def label_languages(languages: tuple[str, ...]) -> tuple[str, ...]:
    """Languages in the order in which a label is looked for."""
    return tuple(dict.fromkeys((*FIRST_LANGUAGES, *languages)))


def clean(name: str) -> str:
    """A name without invisible characters, with single spaces and no space around it.

    >>> clean(" Caf\N{COMBINING ACUTE ACCENT}e\\u200e\\u00a0 Noir ")
    'Caf\N{COMBINING ACUTE ACCENT}e Noir'
    """
    if not name.isascii() or not name.isprintable():
        name = "".join(char for char in name if _is_visible(char))
    return " ".join(name.split())


def _is_visible(char: str) -> bool:
    if char.isprintable() or char.isspace() or char in JOINERS or ord(char) in TAGS:
        return True
    return unicodedata.category(char) not in ("Cc", "Cf", "Cs")


def page_title(sitelink: msgspec.Raw | None) -> str:
    """The title of a sitelink; empty where there is none, or none to read."""
    if sitelink is None:
        return ""
    try:
        return clean(msgspec.json.decode(sitelink, type=Sitelink).title)
    except msgspec.MsgspecError:
        return ""


def terms_in(terms: object) -> list[Any]:
    """One value per language, in label order; None where there is none. Empty for an empty or missing map."""
    return list(msgspec.structs.astuple(terms)) if isinstance(terms, msgspec.Struct) else []


def first_name(terms: list[Term | None]) -> str:
    """The first that has anything to read; empty if none has."""
    return next((name for term in terms if term and (name := clean(term.value))), "")


def surfaces(
    labels: list[Term | None],
    aliases: list[list[Term] | None],
    others: Iterable[tuple[str, str]],
    counts: Counter[str],
) -> Iterator[tuple[str, str]]:
    """Each (surface, source) once; names that are empty or too long to be searched for are counted."""
    found = [(term.value, "label") for term in labels if term]
    found += [(term.value, "alias") for terms in aliases if terms for term in terms]
    found += others
    seen: set[tuple[str, str]] = set()
    for name, source in found:
        surface = clean(name)
        if not surface or len(surface) > MAX_SURFACE_CHARACTERS:
            counts["names_dropped"] += 1
        elif (surface, source) not in seen:
            seen.add((surface, source))
            yield surface, source
