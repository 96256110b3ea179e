"""Lay out what the scan of an entity works with, and what its functions share.

The workspace is one array of 64-bit words: what an entity's scan finds, the addresses of lists of
words, and tables of keys. The shorter entity goes to the output, whose end the workspace knows.
"""

from __future__ import annotations

import numpy as np

from pipeline.kb.scan_json import (
    COMMA,
    NINE,
    OPEN_MAP,
    QUOTE,
    UNSURE,
    VECTOR_BYTES,
    ZERO,
    byte_at,
    compiled,
    copy_vector,
    inlined,
    put_byte,
    put_word,
    word_at,
)
from schemas.array_types import I64

# Words of the workspace: what an entity's scan finds. `LINE` numbers the entities, so that the tables
# of keys need not be emptied for each.
(
    LINE,
    NUM_STATEMENTS,
    NUM_DEPRECATED,
    NUM_SOMEVALUE,
    NUM_NOVALUE,
    NUM_WITHOUT_DATATYPE,
    NUM_SITELINKS,
    NUM_WIKIPEDIAS,
    OUTPUT_END,
    TRIPLES_END,
    CLASSES_START,
    CLASSES_END,
    # What was read of a snak.
    HAS_DATATYPE,
    KIND,
    TARGET,
) = (8 * number for number in range(15))
NUM_RESULTS = 12
# Words that hold the addresses of lists of words, with which keys and values are compared.
(
    TOP_WORDS,
    LANGUAGES_WORDS,
    WIKI_WORDS,
    NOT_WIKIPEDIA_WORDS,
    NAMES_WORDS,
    STATEMENT_WORDS,
    RANKS_WORDS,
    SNAK_WORDS,
    SNAK_TYPES_WORDS,
    DATA_WORDS,
    DATA_TYPES_WORDS,
    VALUE_WORDS,
    ENTITY_TYPES_WORDS,
) = (8 * number for number in range(16, 29))
# A table of the property ids of an entity, and one of its sites, as (line, address of the key).
PROPERTY_SLOTS, SITE_SLOTS, MAX_SITES = 1 << 14, 1 << 12, 1 << 11
MAX_GROUP = 1 << 10
# An odd number with bits everywhere: its product mixes those of a key.
MIXER = 0x1E3779B97F4A7C15
PROPERTIES_AT = 8 * 32
SITES_AT = PROPERTIES_AT + 8 * PROPERTY_SLOTS
GROUP_AT = SITES_AT + 16 * SITE_SLOTS
WORKSPACE_WORDS = (GROUP_AT + 16 * MAX_GROUP) // 8
# A triple is two words: the target with the rank above it, then the property.
RANK_SHIFT, TRIPLE_BYTES, INSTANCE_OF = 32, 16, 31
MAX_PROPERTY_DIGITS, MAX_ITEM_DIGITS = 8, 10

# Ranks and types of snaks, by their place in the lists of words below.
NORMAL, PREFERRED, DEPRECATED = 0, 1, 2
VALUE, SOMEVALUE, NOVALUE = 0, 1, 2
NO_TARGET = 0
SLOT_BYTES, MAX_WORD_BYTES = 64, 63
# The first words among the types of data name an entity.
NUM_ENTITY_TYPES = 2


def word_list(words: tuple[str, ...]) -> I64:
    """Return words in the form in which `_find` searches them.

    Raises:
        ValueError: a word is too long for its slot.
    """
    content = len(words).to_bytes(8, "little")
    for word in words:
        encoded = word.encode()
        if len(encoded) > MAX_WORD_BYTES:
            raise ValueError(f"{word!r} has more than {MAX_WORD_BYTES} bytes")
        content += bytes([len(encoded)]) + encoded.ljust(MAX_WORD_BYTES, b"\0")
    return np.frombuffer(content, np.int64).copy()


@inlined
def equal(left: int, right: int, num_bytes: int) -> bool:
    """Say whether two texts of a length are the same."""
    for number in range(num_bytes):  # noqa: SIM110 - numba compiles no generator
        if byte_at(left + number) != byte_at(right + number):
            return False
    return True


@inlined
def find(at: int, num_bytes: int, words: int) -> int:
    """Return the place of a text in a list of words; UNSURE if it is not there."""
    slot = words + 8
    for number in range(word_at(words)):
        if byte_at(slot) == num_bytes and equal(at, slot + 1, num_bytes):
            return number
        slot += SLOT_BYTES
    return UNSURE


@inlined
def find_key(key: int, value: int, words: int) -> int:
    """Return the place of a key: it has quotes around it and a colon behind it."""
    return find(key + 1, value - key - 3, words)


@inlined
def find_text(at: int, end: int, words: int) -> int:
    """Return the place of a value in a list of words; UNSURE if it is no such string."""
    return find(at + 1, end - at - 2, words) if byte_at(at) == QUOTE else UNSURE


@compiled
def put_bytes(work: int, start: int, end: int) -> None:
    """Copy bytes to the output; it has room for a vector more."""
    target = word_at(work + OUTPUT_END)
    put_word(work + OUTPUT_END, target + end - start)
    while start < end:
        copy_vector(target, start)
        start, target = start + VECTOR_BYTES, target + VECTOR_BYTES


@inlined
def put_code(work: int, code: int) -> None:
    """Write a byte to the output."""
    end = word_at(work + OUTPUT_END)
    put_byte(end, code)
    put_word(work + OUTPUT_END, end + 1)


@inlined
def put_member(work: int, start: int, end: int) -> None:
    """Copy a key and its value to the output, with the comma that it needs."""
    code = byte_at(word_at(work + OUTPUT_END) - 1)
    if code != OPEN_MAP:
        put_code(work, COMMA)
    put_bytes(work, start, end)


@inlined
def number_in(at: int, end: int, max_digits: int) -> int:
    """Return a whole number above zero; UNSURE for anything else."""
    if not 0 < end - at <= max_digits or byte_at(at) == ZERO:
        return UNSURE
    number = 0
    while at < end:
        code = byte_at(at)
        if code < ZERO or code > NINE:
            return UNSURE
        number = number * 10 + code - ZERO
        at += 1
    return number


@inlined
def once(place: int, seen: int) -> int:
    """Return `seen` with the bit of a key; UNSURE if it is set already: the key is repeated."""
    return UNSURE if seen >> place & 1 else seen | 1 << place


@inlined
def after_member(at: int, closes: int) -> int:
    """Step over the comma between members; stay at the closing bracket; else UNSURE."""
    if byte_at(at) == COMMA:
        return at + 1 if byte_at(at + 1) != closes else UNSURE
    return at if byte_at(at) == closes else UNSURE


@inlined
def count(counter: int) -> None:
    """Add one to a counter."""
    put_word(counter, word_at(counter) + 1)
