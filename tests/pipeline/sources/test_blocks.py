"""False magics inside bz2 blocks and gz members."""

from __future__ import annotations

import bz2
import gzip
import io
import random

import pytest

from pipeline.engine.tasks import ByteRange
from pipeline.sources import bz2_blocks
from pipeline.sources.bz2_blocks import Magic, bz2_chunks, find_magics, iter_magics
from pipeline.sources.chunks import SourceError
from pipeline.sources.gz_members import GzipMembers
from pipeline.sources.members import find_member, member_chunks


def text(size: int) -> bytes:
    """Text of a seeded generator."""
    return random.Random(1).randbytes(size // 2).hex().encode()


def test_magics_are_found_at_every_bit() -> None:
    for shift in range(8):
        value = (0x314159265359 << 80 | 0x177245385090) << (8 - shift)
        window = b"\xff" * 5 + value.to_bytes(17, "big") + b"\xff" * 5
        found = find_magics(window, len(window))
        assert [(magic.is_block, magic.bit % 8) for magic in found] == [
            (True, shift),
            (False, shift),
        ]


def test_magics_across_windows_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO(bz2.compress(text(450_000), 1))
    whole = list(iter_magics(file, 0))
    assert sum(magic.is_block for magic in whole) == 5
    monkeypatch.setattr(bz2_blocks, "CHUNK_BYTES", 97)
    assert list(iter_magics(file, 0)) == whole


def test_false_magics_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A magic inside a block (1 in 30 TB) neither ends the block nor starts one, whichever range it
    opens.
    """
    data = text(350_000)
    content = bz2.compress(data, 1)
    true_magics = list(iter_magics(io.BytesIO(content), 0))
    false = [
        Magic(bit=true_magics[1].bit + 8_003, is_block=True),
        Magic(bit=true_magics[2].bit + 80, is_block=False),
    ]
    seen = sorted([*true_magics, *false])

    def faked(window: bytes, num_bytes: int) -> list[Magic]:
        base = content.index(window)
        return [
            Magic(bit=magic.bit - base * 8, is_block=magic.is_block)
            for magic in seen
            if 0 <= magic.bit - base * 8 < num_bytes * 8
        ]

    monkeypatch.setattr(bz2_blocks, "find_magics", faked)
    for cut in (0, true_magics[1].bit // 8 + 100):
        spans = [
            ByteRange(path="x", start=low, end=high)
            for low, high in ((0, cut), (cut, len(content)))
            if low < high
        ]
        chunks = [
            chunk
            for span in spans
            for chunk in bz2_chunks(io.BytesIO(content), span)
            if chunk.owned
        ]
        assert b"".join(chunk.data for chunk in chunks) == data


def test_false_gz_magics_are_passed_over() -> None:
    member = gzip.compress(text(3_000), mtime=0)
    noise = b"\x1f\x8b\x08\x00" + b"\xa7\x31" * 20
    content = noise + member
    assert find_member(GzipMembers(), io.BytesIO(content), 0, len(content)) == len(noise)
    assert find_member(GzipMembers(), io.BytesIO(content), 0, len(noise)) is None, (
        "it starts past the range"
    )


def test_stored_gz_members_are_members() -> None:
    data = text(3_000)
    content = gzip.compress(data, 0) + gzip.compress(data, 9)
    chunks = list(
        member_chunks(
            GzipMembers(), io.BytesIO(content), ByteRange(path="x", start=5, end=len(content))
        )
    )
    assert b"".join(chunk.data for chunk in chunks) == data


def test_two_magics_side_by_side_are_no_block() -> None:
    magic = (0x314159265359).to_bytes(6, "big")
    content = b"BZh9" + magic * 3 + bytes(50)
    span = ByteRange(path="x", start=0, end=len(content))
    losses: list[SourceError] = []
    chunks = list(bz2_chunks(io.BytesIO(content), span, losses.append))
    assert losses
    assert all(chunk.broken for chunk in chunks)
