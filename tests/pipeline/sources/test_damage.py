"""A small file, damaged at every place and cut at every place: the same lines, the same losses,
each reported once.
"""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard

from pipeline.engine.tasks import ByteRange
from pipeline.sources import SourceError, read_lines

PARTS = (b"\none\n", b"two\nthr", b"", b"ee\n", b"\x01four\n")


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def unchecked_zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=False).compress(data)


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def read(path: Path, cuts: list[int]) -> tuple[list[tuple[str, bytes]], list[str]]:
    """Lines and losses of a file that is cut at the given bytes."""
    losses: list[SourceError] = []
    spans = [
        ByteRange(path=str(path), start=low, end=high)
        for low, high in pairwise([0, *cuts, path.stat().st_size])
    ]
    lines = [line for span in spans for line in read_lines(span, losses.append)]
    return lines, [error.message for error in losses]


@pytest.mark.slow
@pytest.mark.parametrize("store", [gz, zstd, unchecked_zstd, bz2.compress])
@pytest.mark.parametrize("shape", ["changed", "gone"])
def test_any_damage_any_cut(tmp_path: Path, store: Callable[[bytes], bytes], shape: str) -> None:
    content, path = b"".join(store(part) for part in PARTS), tmp_path / "small"
    path.write_bytes(content)
    intact = [line for _, line in read(path, [])[0]]
    num_reported = 0
    for place in range(5, len(content) - 1):
        changed = bytes([content[place] ^ 0x55]) if shape == "changed" else b""
        path.write_bytes(content[:place] + changed + content[place + 1 :])
        wanted = read(path, [])
        num_reported += bool(wanted[1])
        # Where the format has checksums nothing is lost or changed in silence.
        if store is not unchecked_zstd:
            assert wanted[1] or [line for _, line in wanted[0]] == intact, place
        for cut in range(1 + place % 3, len(content) - 1, 3):
            assert read(path, [cut]) == wanted, (place, cut)
    assert num_reported > len(content) / 4


def test_a_swallowed_start_is_found_again(tmp_path: Path) -> None:
    """One byte short, a frame without a checksum takes the first byte of the next one: that is not
    lost with it.
    """
    first, second = unchecked_zstd(b"12345\n"), unchecked_zstd(b"\nsix\nseven\n")
    path = tmp_path / "short.zst"
    path.write_bytes(first[:-3] + first[-2:] + second)
    lines, losses = read(path, [])
    assert [line for _, line in lines][-2:] == [b"six\n", b"seven\n"]
    assert len(losses) == 1
