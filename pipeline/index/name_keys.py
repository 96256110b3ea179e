"""Turn names into keys: the one normalisation that builder and reader of the alias index share.

Goes in: surfaces as written. Comes out: keys, 1 µs each. Normalisation: invisible characters are
dropped, as from the names of the knowledge base; NFKC, case folded, and everything but letters,
digits and the marks on them becomes one space. So "U.S." and "u . s ." have
the same key, and so have "AT&T" and "At & T". The second key has its diacritics folded away. A
change here needs another NORMALISATION_VERSION: an index of another version is refused.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
import zlib

from schemas.characters import is_visible, without_invisible

# 2: marks stay on their letters. 3: invisible characters cut no word.
NORMALISATION_VERSION = 3
SOURCE_BITS = {
    "label": 1,
    "alias": 2,
    "title": 4,
    "redirect": 8,
    "anchor": 16,
    "demonym": 32,
    "name": 64,
}
# Sources whose names are titles of Wikipedia: these may have a disambiguator.
TITLE_SOURCES = ("title", "redirect")
MAX_KEY_CHARACTERS = 250

# `str.translate` with a table is several times faster than the full rules, for all ASCII text.
_ASCII_FOLDED = [
    (char.lower() if char.isalnum() else " ") if is_visible(char) else None
    for char in map(chr, range(128))
]
_NOT_WORD = re.compile(r"[\W_]+")
# Only text with such characters may hold marks, which need a closer look.
_MAYBE_MARK = re.compile(r"[^\w\x00-\x7f]")
# Marks that are not seen: joiners and variation selectors.
_INVISIBLE = frozenset(
    map(chr, (0x34F, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)
_DISAMBIGUATOR = re.compile(r"\s*\([^()]*\)$")
_POSSESSIVE = re.compile(r"['’]s?$")
_ARTICLE = re.compile(r"^(the|a|an) ")


def normalise(surface: str) -> str:
    """Return the key of a surface; empty where no letter or digit is left.

    >>> normalise("  The O’Neill—Smith Co. ")
    'the o neill smith co'
    """
    if surface.isascii():
        return " ".join(surface.translate(_ASCII_FOLDED).split())[:MAX_KEY_CHARACTERS].strip()
    return normalise_any(surface)


def normalise_any(surface: str) -> str:
    """Return the key of a surface by the full rules: `normalise` without its table for ASCII."""
    # Case folding may undo the composition, so it is done twice.
    visible = without_invisible(surface)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())
    separator = _separator if _MAYBE_MARK.search(folded) else " "
    return _NOT_WORD.sub(separator, folded).strip()[:MAX_KEY_CHARACTERS].strip()


def _separator(match: re.Match[str]) -> str:
    """Return what replaces a run of characters that are no letters or digits.

    It is the marks with which the run begins, since they belong to the letter before, and a space.
    """
    run = match.group()
    if run.isascii():
        return " "

    # A mark at the beginning of the text is on no letter.
    num_marks = 0
    if match.start():
        while (
            num_marks < len(run)
            and unicodedata.category(run[num_marks])[0] == "M"
            and run[num_marks] not in _INVISIBLE
        ):
            num_marks += 1
    return run if num_marks == len(run) else f"{run[:num_marks]} "


def fold(key: str) -> str:
    """Return the second key: without diacritics.

    >>> fold("málaga")
    'malaga'
    """
    if key.isascii():
        return key
    letters = itertools.filterfalse(unicodedata.combining, unicodedata.normalize("NFD", key))
    return unicodedata.normalize("NFC", "".join(letters))


def disambiguator(title: str) -> str:
    """Return the text in parentheses at the end of a title; empty if there is none.

    >>> disambiguator("Paris (mythology)")
    'mythology'
    """
    match = _DISAMBIGUATOR.search(title)
    return match.group().strip(" ()") if match else ""


def index_keys(surface: str, source: str) -> list[str]:
    """Return the keys under which the index lists a surface; a title also without disambiguator."""
    is_title = source in TITLE_SOURCES
    # Nearly all surfaces take this short way: they have no second key.
    if surface.isascii() and not (is_title and ")" in surface):
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
    """Return the keys to look up a mention by, the most exact one first.

    They are the key as it is, folded, without possessive, without article, without plural ending.
    """
    key = normalise(surface)
    keys = [key, fold(key)]

    bare = normalise(_POSSESSIVE.sub("", surface.rstrip()))
    if bare != key:
        keys += [bare, fold(bare)]
    # Nothing is removed from most keys; repeats are dropped at the end.
    keys += [_ARTICLE.sub("", listed) for listed in list(keys)]
    if len(key) > 4 and key.endswith("s") and not key.endswith("ss"):
        keys += [key[:-1], fold(key[:-1])]
    return list(dict.fromkeys(listed for listed in keys if listed))


def bucket_of(key: str, num_buckets: int) -> int:
    """Return the shard of a key: the same on every machine and in every run."""
    return zlib.crc32(key.encode()) % num_buckets
