"""Files of each format with the same lines."""

from __future__ import annotations

import bz2
import gzip
import random
from pathlib import Path

import pytest
import zstandard


def make_lines(count: int, seed: int = 0) -> list[bytes]:
    """Lines of very different lengths, some empty, barely compressible."""
    random_ = random.Random(seed)
    return [
        random_.randbytes(random_.choice((0, 1, 30, 300, 3000))).hex().encode() + b"\n"
        for _ in range(count)
    ]


def gzip_members(data: bytes, sizes: list[int]) -> bytes:
    """`data` as gzip members of the given sizes in turn (0: an empty member)."""
    members, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        members.append(gzip.compress(data[at : at + size], mtime=0))
        at, turn = at + size, turn + 1
    return b"".join(members)


def skippable(content: bytes, number: int = 0) -> bytes:
    """A frame that zstd decoders step over."""
    return bytes([0x50 + number]) + b"\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


def zstd_frames(data: bytes, sizes: list[int]) -> bytes:
    """`data` as zstd frames of the given sizes in turn (0: an empty frame), in the various forms
    that there are.
    """
    frames, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        forms = {"write_checksum": turn % 2 == 0, "write_content_size": turn % 3 != 0}
        frame = zstandard.ZstdCompressor(level=1 + turn % 4, **forms).compress(data[at : at + size])
        frames.append(
            skippable(len(frame).to_bytes(4, "little"), turn % 16) + frame
            if turn % 5 == 0
            else frame
        )
        at, turn = at + size, turn + 1
    return b"".join(frames)


def bz2_streams(data: bytes, parts: int) -> bytes:
    """`data` as `parts` concatenated streams of 100 KB blocks."""
    step = -(-len(data) // parts)
    return b"".join(bz2.compress(data[at : at + step], 1) for at in range(0, len(data), step))


@pytest.fixture(scope="session")
def lines() -> list[bytes]:
    """About 0.5 MB of lines; the last has no newline."""
    made = make_lines(400)
    return [*made, b"the end"]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> dict[str, Path]:
    """One file per way of storing the lines."""
    folder, data = tmp_path_factory.mktemp("sources"), b"".join(lines)
    contents = {
        "plain": data,
        "gz-lines": gzip_members(data, [len(b"".join(lines[:40])), 1, 0, 20_000]),
        "zst-frames": zstd_frames(data, [len(b"".join(lines[:40])), 1, 0, 20_000, 7]),
        "zst-one": zstandard.compress(data),
        "gz-one": gzip.compress(data, mtime=0),
        "bz2-one-stream": bz2_streams(data, 1),
        "bz2-streams": bz2_streams(data, 3),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}
