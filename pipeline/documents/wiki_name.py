"""Find out which wiki an export comes from: a title means another item in another wiki."""

from __future__ import annotations

import logging
import re

from pipeline.engine.errors import StageError
from pipeline.engine.kept_listings import once
from pipeline.sources.ranges import peek

# Bytes of an export in which its description of the wiki lies.
HEAD_BYTES = 1 << 16
_NAME = re.compile(rb"<dbname\b[^<>]*>(.*?)</dbname\s*>", re.DOTALL)
_BASE = re.compile(rb"<base\b[^<>]*>(.*?)</base\s*>", re.DOTALL)
_KNOWN_NAME = re.compile(r"[a-z0-9_]{1,60}")
# Projects that name their wikis by language; a phone's address has an "m" more.
_ADDRESS = re.compile(
    r"(?:https?:)?//([a-z0-9-]{1,20})(?:\.m)?\.(wikipedia|wiktionary|wikibooks|wikinews|wikiquote|"
    r"wikisource|wikiversity|wikivoyage)\.org(?:[:/].*)?",
    re.IGNORECASE | re.DOTALL,
)
# Characters of what an export says of itself, in a message.
SHOWN_CHARACTERS = 100
logger = logging.getLogger("trelm")


def wiki_of(path: str) -> str:
    """Return the name of an export's wiki, such as enwiki; empty where it names none of Wikimedia."""
    return _wiki_named(*_description(path))


def check_wiki(path: str, wiki: str) -> None:
    """Refuse an export of another wiki than the one whose titles the knowledge base holds.

    One that says nothing is taken for an export of that wiki, with a warning.

    Raises:
        StageError: names both, and says what to do.
    """
    # Several stages ask, and one warning is enough.
    once(("wiki", path, wiki), lambda: _check(path, wiki))


def _check(path: str, wiki: str) -> None:
    name, base = _description(path)
    found = _wiki_named(name, base)
    if found == wiki:
        return
    if found:
        raise StageError(
            f"{path}: an export of {found}, but the knowledge base holds the titles of {wiki}: its "
            "links would lead to wrong items; make the knowledge base again with "
            f"`trelm-pipeline kb --set kb.wiki={found}`, or give another export"
        )
    if name or base:
        raise StageError(
            f"{path}: an export of {(name or base)[:SHOWN_CHARACTERS]!r}, which is no wiki of "
            f"Wikimedia, but the knowledge base holds the titles of {wiki}: its links would lead to "
            "wrong items; give another export, or, if its titles are those of that wiki, write "
            f"<dbname>{wiki}</dbname> into its <siteinfo>"
        )
    logger.warning(
        "%s: the export does not say which wiki it comes from (no dbname and no base in its "
        "siteinfo): its links are read as titles of %s",
        path,
        wiki,
    )


def _description(path: str) -> tuple[str, str]:
    """Return the name of the database and the address that an export gives; empty if it does not."""
    # What follows the first page is text of authors.
    head = peek(path, HEAD_BYTES).partition(b"<page>")[0]
    found = (pattern.search(head) for pattern in (_NAME, _BASE))
    name, base = (
        match.group(1).decode(errors="replace").strip() if match else "" for match in found
    )
    return name, base


def _wiki_named(name: str, base: str) -> str:
    """Return the wiki of a database's name, or else of an address; empty where neither is known."""
    if name:
        return name if _KNOWN_NAME.fullmatch(name) else ""
    address = _ADDRESS.fullmatch(base)
    if address is None:
        return ""
    language, project = (part.lower() for part in address.groups())
    # Wikipedias are called xxwiki, other projects by their whole name.
    return language.replace("-", "_") + ("wiki" if project == "wikipedia" else project)
