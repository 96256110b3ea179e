"""Find out which wiki an export comes from: a title means another item in another wiki."""

from __future__ import annotations

import re

from pipeline.engine.errors import StageError
from pipeline.sources.ranges import peek

# Bytes of an export in which its description of the wiki lies.
HEAD_BYTES = 1 << 16
_NAME = re.compile(rb"<dbname>\s*([a-z0-9_]{1,60})\s*</dbname>")
_ADDRESS = re.compile(rb"<base>\s*https?://([a-z0-9-]{1,20})\.([a-z]{1,20})\.org/")


def wiki_of(path: str) -> str:
    """Return the name of an export's wiki, such as enwiki; empty where it does not say."""
    head = peek(path, HEAD_BYTES)
    name = _NAME.search(head)
    if name:
        return name.group(1).decode()
    address = _ADDRESS.search(head)
    if address is None:
        return ""
    language, project = (part.decode() for part in address.groups())
    # Wikipedias are called xxwiki, other projects by their whole name.
    return language.replace("-", "_") + ("wiki" if project == "wikipedia" else project)


def check_wiki(path: str, wiki: str) -> None:
    """Refuse an export of another wiki than the one whose titles the knowledge base holds.

    Raises:
        StageError: names both, and says what to do.
    """
    found = wiki_of(path)
    if found and found != wiki:
        raise StageError(
            f"{path}: an export of {found}, but the knowledge base holds the titles of {wiki}: its "
            "links would lead to wrong items; make the knowledge base again with "
            f"`trelm-pipeline kb --set kb.wiki={found}`, or give another export"
        )
