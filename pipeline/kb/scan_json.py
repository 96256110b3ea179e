"""Pass over JSON in memory by compiled code.

Goes in: the address of JSON that zero bytes follow. Comes out: the address behind the value, or
`UNSURE` for all that is no plain JSON: white space between tokens, long numbers, deep nesting, and
whatever a decoder would refuse. UTF-8 is not checked. Costs 1.1 ms per MB: strings are searched 32
bytes at a time.

Addresses instead of arrays: with arrays, calls cost more than the search.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# What comes out where only the full decoder can tell.
UNSURE = -1
MAX_DEPTH = 60
# Whole numbers of more digits may not fit 64 bits; longer fractions and exponents are rare.
MAX_DIGITS, MAX_FRACTION_DIGITS, MAX_EXPONENT_DIGITS = 18, 30, 2
VECTOR_BYTES = 32
QUOTE, BACKSLASH, COMMA, COLON = ord('"'), ord("\\"), ord(","), ord(":")
OPEN_MAP, CLOSE_MAP, OPEN_LIST, CLOSE_LIST = ord("{"), ord("}"), ord("["), ord("]")
ZERO, NINE, MINUS, PLUS, DOT, U = ord("0"), ord("9"), ord("-"), ord("+"), ord("."), ord("u")
HIGH_SURROGATES, LOW_SURROGATES, SURROGATES_END = 0xD800, 0xDC00, 0xE000
SPACE = ord(" ")

# The value of a hexadecimal digit; more than 15 for any other byte.
HEX = np.full(256, 16, np.int64)
for _number, _digit in enumerate("0123456789abcdef"):
    HEX[[ord(_digit), ord(_digit.upper())]] = _number
ESCAPED = np.zeros(256, np.bool_)
ESCAPED[[ord(_letter) for _letter in '"\\/bfnrt']] = True

# Only the function that Python calls is cached, with all that it calls: see `scan_entity`.
compiled = njit(nogil=True, error_model="numpy")
inlined = njit(nogil=True, error_model="numpy", forceinline=True)
_BYTE, _WORD, _VECTOR = ir.IntType(8), ir.IntType(64), ir.VectorType(ir.IntType(8), VECTOR_BYTES)


@intrinsic
def byte_at(typing: Any, address: Any) -> Any:  # noqa: ARG001, ANN401 - numba's own types
    """Return the byte at an address."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001, ANN401
        pointer = builder.inttoptr(values[0], _BYTE.as_pointer())
        return builder.zext(builder.load(pointer), _WORD)

    return types.int64(types.int64), generate


@intrinsic
def put_byte(typing: Any, address: Any, value: Any) -> Any:  # noqa: ARG001, ANN401
    """Write a byte."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001, ANN401
        pointer = builder.inttoptr(values[0], _BYTE.as_pointer())
        builder.store(builder.trunc(values[1], _BYTE), pointer)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def word_at(typing: Any, address: Any) -> Any:  # noqa: ARG001, ANN401
    """Return the 64-bit number at an address."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001, ANN401
        return builder.load(builder.inttoptr(values[0], _WORD.as_pointer()))

    return types.int64(types.int64), generate


@intrinsic
def put_word(typing: Any, address: Any, value: Any) -> Any:  # noqa: ARG001, ANN401
    """Write a 64-bit number."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001, ANN401
        builder.store(values[1], builder.inttoptr(values[0], _WORD.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def copy_vector(typing: Any, target: Any, source: Any) -> Any:  # noqa: ARG001, ANN401
    """Copy VECTOR_BYTES bytes."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001, ANN401
        target, source = (builder.inttoptr(value, _VECTOR.as_pointer()) for value in values)
        builder.store(builder.load(source, align=1), target, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def special_bytes(typing: Any, address: Any) -> Any:  # noqa: ARG001, ANN401
    """Return a bit for each of VECTOR_BYTES bytes: quote, backslash or control character."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001, ANN401
        vector = builder.load(builder.inttoptr(values[0], _VECTOR.as_pointer()), align=1)
        masks = [
            builder.icmp_unsigned(operator, vector, ir.Constant(_VECTOR, [code] * VECTOR_BYTES))
            for operator, code in (("==", QUOTE), ("==", BACKSLASH), ("<", SPACE))
        ]
        mask = builder.or_(builder.or_(masks[0], masks[1]), masks[2])
        return builder.bitcast(mask, ir.IntType(VECTOR_BYTES))

    return types.uint32(types.int64), generate


@intrinsic
def first_bit(typing: Any, bits: Any) -> Any:  # noqa: ARG001, ANN401
    """Return the number of the lowest bit that is set."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001, ANN401
        return builder.zext(builder.cttz(values[0], ir.Constant(ir.IntType(1), 1)), _WORD)

    return types.int64(types.uint32), generate


@inlined
def _code_unit(at: int) -> int:
    """Return the value of four hexadecimal digits."""
    a, b, c, d = HEX[byte_at(at)], HEX[byte_at(at + 1)], HEX[byte_at(at + 2)], HEX[byte_at(at + 3)]
    if (a | b | c | d) > 15:
        return UNSURE
    return (a << 12) | (b << 8) | (c << 4) | d


@compiled
def _escape_end(at: int) -> int:
    """Return the end of an escape; half a pair of surrogates is none."""
    if byte_at(at + 1) != U:
        return at + 2 if ESCAPED[byte_at(at + 1)] else UNSURE
    unit = _code_unit(at + 2)
    if unit < HIGH_SURROGATES or unit >= SURROGATES_END:
        return at + 6 if unit >= 0 else UNSURE
    if unit >= LOW_SURROGATES or byte_at(at + 6) != BACKSLASH or byte_at(at + 7) != U:
        return UNSURE
    is_pair = LOW_SURROGATES <= _code_unit(at + 8) < SURROGATES_END
    return at + 12 if is_pair else UNSURE


@inlined
def string_end(at: int) -> int:
    """Return where the closing quote is, from behind the opening one."""
    while True:
        bits = special_bytes(at)
        if bits == 0:
            at += VECTOR_BYTES
            continue
        at += first_bit(bits)
        if byte_at(at) == QUOTE:
            return at
        if byte_at(at) != BACKSLASH:
            return UNSURE
        # Escapes come in rows: whole names are written in them. Most take this short way.
        while byte_at(at) == BACKSLASH and byte_at(at + 1) == U:
            unit = _code_unit(at + 2)
            if unit < 0 or HIGH_SURROGATES <= unit < SURROGATES_END:
                break
            at += 6
        while byte_at(at) == BACKSLASH:
            at = _escape_end(at)
            if at < 0:
                return UNSURE


@inlined
def plain_string_end(at: int) -> int:
    """Return where the closing quote of a string without escapes is."""
    bits = special_bytes(at)
    while bits == 0:
        at += VECTOR_BYTES
        bits = special_bytes(at)
    at += first_bit(bits)
    return at if byte_at(at) == QUOTE else UNSURE


@inlined
def _digits_end(at: int) -> int:
    while ZERO <= byte_at(at) <= NINE:
        at += 1
    return at


@compiled
def _number_end(at: int) -> int:
    """Return the end of a number."""
    start = at + (byte_at(at) == MINUS)
    at = _digits_end(start)
    is_padded = byte_at(start) == ZERO and at > start + 1
    if not 0 < at - start <= MAX_DIGITS or is_padded:
        return UNSURE
    if byte_at(at) == DOT:
        start = at + 1
        at = _digits_end(start)
        if not 0 < at - start <= MAX_FRACTION_DIGITS:
            return UNSURE
    # Both cases of the letter E.
    if byte_at(at) | SPACE == ord("e"):
        start = at + 1 + (byte_at(at + 1) == PLUS or byte_at(at + 1) == MINUS)
        at = _digits_end(start)
        if not 0 < at - start <= MAX_EXPONENT_DIGITS:
            return UNSURE
    return at


@inlined
def _is_word(at: int, second: int, third: int, fourth: int) -> bool:
    return byte_at(at + 1) == second and byte_at(at + 2) == third and byte_at(at + 3) == fourth


@compiled
def _scalar_end(at: int) -> int:
    """Return the end of a number, of true, false or null."""
    code = byte_at(at)
    if code == MINUS or ZERO <= code <= NINE:
        return _number_end(at)
    if code == ord("t") and _is_word(at, ord("r"), ord("u"), ord("e")):
        return at + 4
    if code == ord("n") and _is_word(at, ord("u"), ord("l"), ord("l")):
        return at + 4
    if code == ord("f") and _is_word(at, ord("a"), ord("l"), ord("s")):
        return at + 5 if byte_at(at + 4) == ord("e") else UNSURE
    return UNSURE


@inlined
def key_end(at: int) -> int:
    """Return where the value of a key starts."""
    if byte_at(at) != QUOTE:
        return UNSURE
    at = string_end(at + 1)
    return at + 2 if at >= 0 and byte_at(at + 1) == COLON else UNSURE


@inlined
def plain_key_end(at: int) -> int:
    """Return where the value of a key starts; the key has no escapes."""
    if byte_at(at) != QUOTE:
        return UNSURE
    at = plain_string_end(at + 1)
    return at + 2 if at >= 0 and byte_at(at + 1) == COLON else UNSURE


@inlined
def _is_empty(at: int) -> bool:
    """Say whether an empty map or list starts here."""
    opens, closes = byte_at(at), byte_at(at + 1)
    return (opens == OPEN_MAP and closes == CLOSE_MAP) or (
        opens == OPEN_LIST and closes == CLOSE_LIST
    )


@compiled
def value_end(at: int) -> int:
    """Return the end of any value."""
    # The lowest bit of `maps` says whether the innermost container is a map.
    depth, maps = 0, 0
    while True:
        code = byte_at(at)
        if code in (OPEN_MAP, OPEN_LIST):
            if not _is_empty(at):
                depth, maps = depth + 1, maps << 1 | (code == OPEN_MAP)
                at = key_end(at + 1) if code == OPEN_MAP else at + 1
                if at < 0 or depth > MAX_DEPTH:
                    return UNSURE
                continue
            at += 2
        else:
            at = string_end(at + 1) + 1 if code == QUOTE else _scalar_end(at)
            if at <= 0:
                return UNSURE

        # Containers that end here.
        while depth and byte_at(at) == (CLOSE_MAP if maps & 1 else CLOSE_LIST):
            at, depth, maps = at + 1, depth - 1, maps >> 1
        if not depth:
            return at
        if byte_at(at) != COMMA:
            return UNSURE
        at = key_end(at + 1) if maps & 1 else at + 1
        if at < 0:
            return UNSURE
