"""Change bytes at random, the same way for the same seed."""

from __future__ import annotations

import random

# What tends to break readers: signs of the formats, impossible numbers, bytes that are no text.
TOKENS = (
    b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"|", b"=",
    b"[" * 2_000, b'{"a":' * 500, b"1e999", b"-1", b"0.5", b"NaN", b"null", b"true", b"9" * 30, b"\\ud800", b"\\u0000",
    b"Q0", b"Q99999999999", b"<", b"&#0;", b"<page>", b"{{", b"}}", b"[[", b"]]", b"<nowiki>", b"'''", b"2020-01-01",
)  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return the content with one to three changes."""
    for _ in range(rng.randint(1, 3)):
        content = rng.choice(CHANGES)(content, rng)
    return content


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Return the content with one bit changed."""
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip(content: bytes, rng: random.Random) -> bytes:
    return flipped(content, rng) if content else content


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _drop(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.randint(1, 40) :]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    piece = content[start : start + rng.randint(1, 200)]
    return content[:start] + piece * rng.randint(2, 4) + content[start:]


def _insert(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice(TOKENS) + content[place:]


def _replace(content: bytes, rng: random.Random) -> bytes:
    token, place = rng.choice(TOKENS), rng.randrange(len(content) + 1)
    return content[:place] + token + content[place + len(token) :]


CHANGES = (_flip, _flip, _cut, _drop, _repeat, _insert, _insert, _replace)
