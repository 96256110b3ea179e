"""Read the claims of an entity by compiled code: triples and counts.

Goes in: the address of the claims. Comes out, in the workspace: the triples of the best ranks, as
`kb.claims` finds them, counts of odd statements, and a copy of the statements that may hold names.
`UNSURE` for whatever is not of the usual form.
"""

from __future__ import annotations

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
    CLASSES_START,
    DATA_TYPES_WORDS,
    DATA_WORDS,
    DEPRECATED,
    ENTITY_TYPES_WORDS,
    GROUP_AT,
    HAS_DATATYPE,
    INSTANCE_OF,
    KIND,
    LINE,
    MAX_GROUP,
    MAX_ITEM_DIGITS,
    MAX_PROPERTY_DIGITS,
    NAMES_WORDS,
    NO_TARGET,
    NORMAL,
    NUM_DEPRECATED,
    NUM_ENTITY_TYPES,
    NUM_NOVALUE,
    NUM_SOMEVALUE,
    NUM_STATEMENTS,
    NUM_WITHOUT_DATATYPE,
    PREFERRED,
    PROPERTIES_AT,
    PROPERTY_SLOTS,
    RANK_SHIFT,
    RANKS_WORDS,
    SNAK_TYPES_WORDS,
    SNAK_WORDS,
    SOMEVALUE,
    STATEMENT_WORDS,
    TARGET,
    TRIPLE_BYTES,
    TRIPLES_END,
    VALUE,
    VALUE_WORDS,
    after_member,
    count,
    find_key,
    find_text,
    number_in,
    once,
    put_code,
    put_member,
)
from schemas.ids import FIRST_OWN


@compiled
def _entity_value(work: int, at: int) -> int:
    """Read a map as value: note the item that it names; return its end.

    The texts that the decoder decodes must be texts. Kinds of entities besides items and
    properties, and values without a number, are left to it.
    """
    kind, number, seen, at = UNSURE, 0, 0, at + 1
    while byte_at(at) != CLOSE_MAP:
        key, at = at, plain_key_end(at)
        if at < 0:
            return UNSURE
        place, start, at = find_key(key, at, word_at(work + VALUE_WORDS)), at, value_end(at)
        if at < 0:
            return UNSURE
        if place >= 0:
            seen = once(place, seen)
            if place == 1:
                number = number_in(start, at, MAX_ITEM_DIGITS)
            elif byte_at(start) != QUOTE:
                return UNSURE
            kind = find_text(start, at, word_at(work + ENTITY_TYPES_WORDS)) if place == 0 else kind
            if number < 0 or seen < 0 or (place == 0 and kind < 0):
                return UNSURE
        at = after_member(at, CLOSE_MAP)
        if at < 0:
            return UNSURE
    # An id or a type without a number, and a number without a type.
    if (number and kind < 0) or (not number and seen & 0b101):
        return UNSURE
    put_word(work + TARGET, number if kind == 0 and number < FIRST_OWN else NO_TARGET)
    return at + 1


@compiled
def _data_value(work: int, at: int) -> int:
    """Read the datavalue of a snak: note the item that it names; return its end."""
    if byte_at(at) != OPEN_MAP:
        return UNSURE
    kind, seen, at = 0, 0, at + 1
    while byte_at(at) != CLOSE_MAP:
        key, at = at, plain_key_end(at)
        if at < 0:
            return UNSURE
        place, start = find_key(key, at, word_at(work + DATA_WORDS)), at
        is_map = place == 0 and byte_at(start) == OPEN_MAP
        at = _entity_value(work, at) if is_map else value_end(at)
        if at < 0:
            return UNSURE
        if place >= 0:
            seen = once(place, seen)
            if place == 1:
                kind = find_text(start, at, word_at(work + DATA_TYPES_WORDS))
            if seen < 0 or kind < 0:
                return UNSURE
        at = after_member(at, CLOSE_MAP)
        if at < 0:
            return UNSURE
    if kind >= NUM_ENTITY_TYPES:
        put_word(work + TARGET, NO_TARGET)
    return at + 1


@compiled
def _snak(work: int, at: int) -> int:
    """Read a snak: note its type, its target and whether it has a datatype; return its end."""
    put_word(work + KIND, VALUE)
    put_word(work + TARGET, NO_TARGET)
    put_word(work + HAS_DATATYPE, 0)
    if byte_at(at) != OPEN_MAP:
        return UNSURE
    seen, at = 0, at + 1
    while byte_at(at) != CLOSE_MAP:
        key, at = at, plain_key_end(at)
        if at < 0:
            return UNSURE
        place, start = find_key(key, at, word_at(work + SNAK_WORDS)), at
        at = _data_value(work, at) if place == 0 else value_end(at)
        if at < 0:
            return UNSURE
        if place >= 0:
            seen = once(place, seen)
            if seen < 0 or (place > 0 and byte_at(start) != QUOTE):
                return UNSURE
            if place == 1:
                put_word(work + HAS_DATATYPE, at - start > 2)
            elif place == 2:
                put_word(work + KIND, find_text(start, at, word_at(work + SNAK_TYPES_WORDS)))
        at = after_member(at, CLOSE_MAP)
        if at < 0:
            return UNSURE
    return at + 1 if word_at(work + KIND) >= 0 else UNSURE


@compiled
def _statement(work: int, at: int, slot: int) -> int:
    """Read a statement: write its rank and its target to a slot of the group; return its end."""
    if byte_at(at) != OPEN_MAP:
        return UNSURE
    rank, seen, at = NORMAL, 0, at + 1
    while byte_at(at) != CLOSE_MAP:
        key, at = at, plain_key_end(at)
        if at < 0:
            return UNSURE
        place, start = find_key(key, at, word_at(work + STATEMENT_WORDS)), at
        at = _snak(work, at) if place == 0 else value_end(at)
        if at < 0:
            return UNSURE
        if place >= 0:
            seen = once(place, seen)
            if place == 1:
                rank = find_text(start, at, word_at(work + RANKS_WORDS))
            if seen < 0 or rank < 0:
                return UNSURE
        at = after_member(at, CLOSE_MAP)
        if at < 0:
            return UNSURE
    # A statement needs a snak.
    if not seen & 1:
        return UNSURE
    _note_statement(work, slot, rank)
    return at + 1


@inlined
def _note_statement(work: int, slot: int, rank: int) -> None:
    """Write what was read of a statement to a slot of the group; count its oddities."""
    kind = word_at(work + KIND)
    put_word(slot, rank)
    put_word(slot + 8, word_at(work + TARGET) if kind == VALUE else NO_TARGET)
    if rank == DEPRECATED:
        count(work + NUM_DEPRECATED)
    if kind != VALUE:
        count(work + (NUM_SOMEVALUE if kind == SOMEVALUE else NUM_NOVALUE))
    if not word_at(work + HAS_DATATYPE):
        count(work + NUM_WITHOUT_DATATYPE)


@compiled
def _group(work: int, at: int, pid: int) -> int:
    """Read the statements of a property: add the triples of its best rank; return the end."""
    if byte_at(at) != OPEN_LIST:
        return UNSURE
    size, best, at = 0, NORMAL, at + 1
    while byte_at(at) != CLOSE_LIST:
        slot = work + GROUP_AT + 16 * size
        size += 1
        if size > MAX_GROUP:
            return UNSURE
        at = _statement(work, at, slot)
        if at < 0:
            return UNSURE
        if word_at(slot) == PREFERRED:
            best = PREFERRED
        at = after_member(at, CLOSE_LIST)
        if at < 0:
            return UNSURE
    put_word(work + NUM_STATEMENTS, word_at(work + NUM_STATEMENTS) + size)
    first = word_at(work + TRIPLES_END)
    for number in range(size):
        slot = work + GROUP_AT + 16 * number
        target = word_at(slot + 8)
        if word_at(slot) == best and target != NO_TARGET:
            _add_triple(work, first, best << RANK_SHIFT | target, pid)
    if pid == INSTANCE_OF:
        put_word(work + CLASSES_START, first)
        put_word(work + CLASSES_END, word_at(work + TRIPLES_END))
    return at + 1


@inlined
def _add_triple(work: int, first: int, target: int, pid: int) -> None:
    """Add a triple, unless the property has it already."""
    end = word_at(work + TRIPLES_END)
    while first < end:
        if word_at(first) == target:
            return
        first += TRIPLE_BYTES
    put_word(end, target)
    put_word(end + 8, pid)
    put_word(work + TRIPLES_END, end + TRIPLE_BYTES)


@compiled
def read_claims(work: int, at: int) -> int:
    """Read the claims of an entity; copy the groups that may hold names; return the end."""
    put_code(work, OPEN_MAP)
    at += 1
    while byte_at(at) != CLOSE_MAP:
        key, at = at, plain_key_end(at)
        if at < 0 or byte_at(key + 1) != ord("P"):
            return UNSURE
        pid = number_in(key + 2, at - 2, MAX_PROPERTY_DIGITS)
        if pid < 0:
            return UNSURE
        # Two ids that share a slot are taken for one: there are fewer properties than slots.
        slot = work + PROPERTIES_AT + 8 * (pid % PROPERTY_SLOTS)
        if word_at(slot) == word_at(work + LINE):
            return UNSURE
        put_word(slot, word_at(work + LINE))
        place, at = find_key(key, at, word_at(work + NAMES_WORDS)), _group(work, at, pid)
        if at < 0:
            return UNSURE
        if place >= 0:
            put_member(work, key, at)
        at = after_member(at, CLOSE_MAP)
        if at < 0:
            return UNSURE
    put_code(work, CLOSE_MAP)
    return at + 1
