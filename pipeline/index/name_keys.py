"""Names of entities: the one normalisation that builder and reader of the alias index share.

Goes in: surfaces as written. Comes out: keys, 1 µs each. Normalisation: NFKC, case folded, everything but letters,
digits and the marks on them becomes one space. So "U.S." and "u . s ." meet, and "AT&T" meets "At & T". The second key
has its diacritics folded away. A change here bumps NORMALISATION_VERSION: an index of another version is refused.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
import zlib

NORMALISATION_VERSION = 2  # 2: marks stay on their letters
SOURCE_BITS = {
    "label": 1,
    "alias": 2,
    "title": 4,
    "redirect": 8,
    "anchor": 16,
    "demonym": 32,
    "name": 64,
}
MAX_KEY_CHARACTERS = 250
_NOT_WORD = re.compile(r"[\W_]+")
_MAYBE_MARK = re.compile(r"[^\w\x00-\x7f]")
_ASCII_FOLDED = "".join(char.lower() if char.isalnum() else " " for char in map(chr, range(128)))
_DISAMBIGUATOR = re.compile(r"\s*\([^()]*\)$")
_INVISIBLE = frozenset(
    map(chr, (0x34F, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)
_POSSESSIVE = re.compile(r"['’]s?$")
_ARTICLE = re.compile(r"^(the|a|an) ")
TITLE_SOURCES = ("title", "redirect")  # of Wikipedia: these may have a disambiguator


def normalise(surface: str) -> str:
    """The key of a surface; empty where nothing nameable is left.

    >>> normalise("  The O’Neill—Smith Co. ")
    'the o neill smith co'
    """
    if surface.isascii():
        return " ".join(surface.translate(_ASCII_FOLDED).split())[:MAX_KEY_CHARACTERS].strip()
    return normalise_any(surface)


def normalise_any(surface: str) -> str:
    """The same by the full rules: `normalise` is this, with a table for what is ASCII."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", surface).casefold())
    separator = _separator if _MAYBE_MARK.search(folded) else " "
    return _NOT_WORD.sub(separator, folded).strip()[:MAX_KEY_CHARACTERS].strip()


def _separator(found: re.Match[str]) -> str:
    """What stands for a run of characters that are no letters or digits: the marks that it starts with, and a space."""
    run = found.group()
    if run.isascii():
        return " "
    length = 0
    if found.start():  # a mark at the beginning is on no letter
        while (
            length < len(run)
            and unicodedata.category(run[length])[0] == "M"
            and run[length] not in _INVISIBLE
        ):
            length += 1
    return run if length == len(run) else f"{run[:length]} "


def fold(key: str) -> str:
    """The second key: without diacritics.

    >>> fold("málaga")
    'malaga'
    """
    if key.isascii():
        return key
    letters = itertools.filterfalse(unicodedata.combining, unicodedata.normalize("NFD", key))
    return unicodedata.normalize("NFC", "".join(letters))


def disambiguator(title: str) -> str:
    """What stands in parentheses at the end of a title; empty if nothing does.

    >>> disambiguator("Paris (mythology)")
    'mythology'
    """
    found = _DISAMBIGUATOR.search(title)
    return found.group().strip(" ()") if found else ""


def index_keys(surface: str, source: str) -> list[str]:
    """Keys under which the index lists a surface; a title also without its disambiguator."""
    is_title = source in TITLE_SOURCES
    if surface.isascii() and not (is_title and ")" in surface):  # nearly all: no second key
        key = normalise(surface)
        return [key] if key else []
    surfaces = [surface]
    if is_title:
        bare = _DISAMBIGUATOR.sub("", surface)
        if bare != surface:
            surfaces.append(bare)
    keys = [normalise(text) for text in surfaces]
    return list(dict.fromkeys(key for key in [*keys, *map(fold, keys)] if key))


def query_keys(surface: str) -> list[str]:
    """Keys to look a mention up by, the most exact first: as it is, folded, without possessive, article, plural."""
    key = normalise(surface)
    keys = [key, fold(key)]
    bare = normalise(_POSSESSIVE.sub("", surface.rstrip()))
    if bare != key:
        keys += [bare, fold(bare)]
    keys += [_ARTICLE.sub("", known) for known in list(keys)]
    if len(key) > 4 and key.endswith("s") and not key.endswith("ss"):
        keys += [key[:-1], fold(key[:-1])]
    return list(dict.fromkeys(known for known in keys if known))


def bucket_of(key: str, num_buckets: int) -> int:
    """The shard of a key: the same on every machine and in every run."""
    return zlib.crc32(key.encode()) % num_buckets
