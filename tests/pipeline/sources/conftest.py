"""Files of each format with the same lines."""

from __future__ import annotations

import bz2
import gzip
import random
from pathlib import Path

import pytest


def make_lines(count: int, seed: int = 0) -> list[bytes]:
    """Lines of very different lengths, some empty, barely compressible."""
    random_ = random.Random(seed)
    return [random_.randbytes(random_.choice((0, 1, 30, 300, 3000))).hex().encode() + b"\n" for _ in range(count)]


def gzip_members(data: bytes, sizes: list[int]) -> bytes:
    """`data` as gzip members of the given sizes in turn (0: an empty member)."""
    members, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        members.append(gzip.compress(data[at : at + size], mtime=0))
        at, turn = at + size, turn + 1
    return b"".join(members)


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
        "gz-one": gzip.compress(data, mtime=0),
        "bz2-one-stream": bz2_streams(data, 1),
        "bz2-streams": bz2_streams(data, 3),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}
