"""Cut an entity down to what the tables need by compiled code: one pass over its JSON.

Goes in: the address of an entity's JSON, and a workspace. Comes out, in the workspace: a shorter
entity that the decoder of `kb.model` takes for the same (terms of the wanted languages, one
sitelink, statements that give names), the item's triples, and counts. `UNSURE` for whatever is not
plainly of the usual form, such as repeated or escaped keys: then only the decoder can tell. Costs
about 1.2 ms per MB.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from numba import njit

from pipeline.kb.scan_claims import read_claims
from pipeline.kb.scan_json import (
    CLOSE_LIST,
    CLOSE_MAP,
    OPEN_LIST,
    OPEN_MAP,
    QUOTE,
    UNSURE,
    byte_at,
    compiled,
    inlined,
    plain_key_end,
    put_word,
    value_end,
    word_at,
)
from pipeline.kb.scan_workspace import (
    CLASSES_END,
    LANGUAGES_WORDS,
    LINE,
    MAX_SITES,
    MIXER,
    NOT_WIKIPEDIA_WORDS,
    NUM_SITELINKS,
    NUM_STATEMENTS,
    NUM_WIKIPEDIAS,
    OUTPUT_END,
    SITE_SLOTS,
    SITES_AT,
    TOP_WORDS,
    TRIPLES_END,
    WIKI_WORDS,
    after_member,
    count,
    equal,
    find,
    find_key,
    once,
    put_code,
    put_member,
)
from schemas.ids import FIRST_OWN


@inlined
def _is_new_site(work: int, key: int, num_bytes: int) -> bool:
    """Say whether a site is the first of its name in the entity; note it."""
    # The first and the last eight bytes of the name, or all of them.
    mixed = word_at(key)
    if num_bytes < 8:
        mixed &= (1 << 8 * num_bytes) - 1
    else:
        mixed ^= word_at(key + num_bytes - 8) << 1
    mixed = (mixed * MIXER) >> 40
    while True:
        slot = work + SITES_AT + 16 * (mixed & (SITE_SLOTS - 1))
        if word_at(slot) != word_at(work + LINE):
            put_word(slot, word_at(work + LINE))
            put_word(slot + 8, key)
            return True
        # Names of sites are as long as the quotes say.
        other = word_at(slot + 8)
        if byte_at(other + num_bytes) == QUOTE and equal(other, key, num_bytes):
            return False
        mixed += 1


@compiled
def _sitelinks(work: int, at: int) -> int:
    """Count the sitelinks; copy that of the wanted wiki; return the end."""
    put_code(work, OPEN_MAP)
    at += 1
    while byte_at(at) != CLOSE_MAP:
        key, at = at, plain_key_end(at)
        if at < 0:
            return UNSURE
        length, place, at = (
            at - key - 3,
            find_key(key, at, word_at(work + WIKI_WORDS)),
            value_end(at),
        )
        num_sites = word_at(work + NUM_SITELINKS)
        if at < 0 or num_sites == MAX_SITES or not _is_new_site(work, key + 1, length):
            return UNSURE
        put_word(work + NUM_SITELINKS, num_sites + 1)
        if place >= 0:
            put_member(work, key, at)
        if (
            _is_wiki(key + 1, length)
            and find(key + 1, length, word_at(work + NOT_WIKIPEDIA_WORDS)) < 0
        ):
            count(work + NUM_WIKIPEDIAS)
        at = after_member(at, CLOSE_MAP)
        if at < 0:
            return UNSURE
    put_code(work, CLOSE_MAP)
    return at + 1


@inlined
def _is_wiki(at: int, length: int) -> bool:
    """Say whether the name of a site ends in "wiki"."""
    end = at + length
    return (
        length >= 4
        and byte_at(end - 4) == ord("w")
        and byte_at(end - 3) == ord("i")
        and byte_at(end - 2) == ord("k")
        and byte_at(end - 1) == ord("i")
    )


@compiled
def _terms(work: int, at: int) -> int:
    """Copy the terms of the wanted languages; return the end."""
    put_code(work, OPEN_MAP)
    at += 1
    while byte_at(at) != CLOSE_MAP:
        key, at = at, plain_key_end(at)
        if at < 0:
            return UNSURE
        place, at = find_key(key, at, word_at(work + LANGUAGES_WORDS)), value_end(at)
        if at < 0:
            return UNSURE
        if place >= 0:
            put_member(work, key, at)
        at = after_member(at, CLOSE_MAP)
        if at < 0:
            return UNSURE
    put_code(work, CLOSE_MAP)
    return at + 1


@compiled
def _section(work: int, place: int, key: int, at: int) -> int:
    """Copy a section of an entity, cut down; return its end. An empty list is an empty map."""
    if byte_at(at) == OPEN_LIST:
        return at + 2 if byte_at(at + 1) == CLOSE_LIST else UNSURE
    if byte_at(at) != OPEN_MAP:
        return UNSURE
    put_member(work, key, at)
    if place == 0:
        return read_claims(work, at)
    if place == 1:
        return _sitelinks(work, at)
    return _terms(work, at)


@inlined
def _begin(work: int, output: int, triples: int) -> None:
    """Forget the entity before."""
    put_word(work + LINE, word_at(work + LINE) + 1)
    for counter in range(NUM_STATEMENTS, NUM_WIKIPEDIAS + 1, 8):
        put_word(work + counter, 0)
    put_word(work + OUTPUT_END, output)
    for end in range(TRIPLES_END, CLASSES_END + 1, 8):
        put_word(work + end, triples)


@compiled
def _scan_entity(work: int, at: int, output: int, triples: int) -> int:
    """Read an entity; return its end.

    Args:
        work: the workspace.
        at: the entity's JSON; zero bytes follow it.
        output: receives the shorter entity; it has room for the JSON and a vector.
        triples: receives the triples.
    """
    _begin(work, output, triples)
    if byte_at(at) != OPEN_MAP:
        return UNSURE
    put_code(work, OPEN_MAP)
    seen, at = 0, at + 1
    while byte_at(at) != CLOSE_MAP:
        key, at = at, plain_key_end(at)
        if at < 0:
            return UNSURE
        place = find_key(key, at, word_at(work + TOP_WORDS))
        if 0 <= place < 5:
            at = _section(work, place, key, at)
        else:
            at = value_end(at)
            if at >= 0 and place >= 0:
                put_member(work, key, at)
        if at < 0:
            return UNSURE
        if place >= 0:
            seen = once(place, seen)
            if seen < 0:
                return UNSURE
        at = after_member(at, CLOSE_MAP)
        if at < 0:
            return UNSURE
    put_code(work, CLOSE_MAP)
    return at + 1


def _entry(sources: int) -> Any:  # noqa: ANN401 - numba's own type
    """Return the function that Python calls, from numba's cache if the sources are the same.

    Numba itself looks at the file of the function alone, and not at those that it calls; but it
    tells closures apart by the values that they hold.
    """

    @njit(nogil=True, cache=True)
    def scan_entity(work: int, at: int, output: int, triples: int) -> int:
        return _scan_entity(work, at, output, triples) if sources >= 0 else UNSURE

    return scan_entity


def _checksum() -> int:
    """Return a checksum of what is compiled: sources, and the one constant from elsewhere."""
    checksum = FIRST_OWN
    for name in ("scan_json", "scan_workspace", "scan_claims", "scan_entity"):
        checksum = zlib.crc32(Path(__file__).with_name(f"{name}.py").read_bytes(), checksum)
    return checksum


scan_entity = _entry(_checksum())
