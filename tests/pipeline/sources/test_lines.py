"""Lines are the same for any split of any format, and damage is reported."""

from __future__ import annotations

import bz2
import gzip
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.tasks import ByteRange
from pipeline.sources import SourceError, peek, plan_ranges, read_lines
from tests.pipeline.sources.conftest import make_lines, skippable, zstd_frames

NAMES = ("plain", "gz-lines", "gz-one", "bz2-one-stream", "bz2-streams", "zst-frames", "zst-one")

MANY = b"".join(make_lines(3000, seed=1))


def read_all(path: Path, cuts: list[int]) -> list[tuple[str, bytes]]:
    """All lines of a file cut at the given bytes."""
    bounds = [0, *sorted(set(cuts)), path.stat().st_size]
    spans = [ByteRange(path=str(path), start=low, end=high) for low, high in pairwise(bounds)]
    return [line for span in spans for line in read_lines(span)]


@pytest.mark.parametrize("name", NAMES)
def test_whole_file(sources: dict[str, Path], lines: list[bytes], name: str) -> None:
    assert [line for _, line in read_all(sources[name], [])] == lines


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, derandomize=True)
@given(shares=st.lists(st.floats(0.001, 0.999), min_size=1, max_size=6))
def test_any_split_gives_the_same_lines_at_the_same_positions(
    sources: dict[str, Path], name: str, shares: list[float]
) -> None:
    path = sources[name]
    cuts = [max(1, int(share * path.stat().st_size)) for share in shares]
    assert read_all(path, cuts) == read_all(path, [])


def test_every_cut_of_a_small_file(tmp_path: Path) -> None:
    """Cuts on, before and after each newline and each member, one by one."""
    data = b"a\n\nbb\nccc\n"
    for name, content in (
        ("plain", data),
        (
            "gz",
            b"".join(gzip.compress(data[at : at + 2], mtime=0) for at in range(0, len(data), 2)),
        ),
        ("zst", zstd_frames(data, [2])),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        for cut in range(1, len(content)):
            assert [line for _, line in read_all(path, [cut])] == [
                b"a\n",
                b"\n",
                b"bb\n",
                b"ccc\n",
            ], (name, cut)


def test_positions_lead_to_the_lines(sources: dict[str, Path], lines: list[bytes]) -> None:
    data = b"".join(lines)
    for position, line in read_all(sources["plain"], [5000]):
        assert data[int(position) :].startswith(line)
    positions = [position for position, _ in read_all(sources["bz2-streams"], [])]
    assert len(set(positions)) == len(lines)


def test_plan_covers_the_file_once(sources: dict[str, Path], lines: list[bytes]) -> None:
    for name, path in sources.items():
        spans = plan_ranges(str(path), 50_000)
        assert spans[0].start == 0
        assert spans[-1].end == path.stat().st_size
        assert all(left.end == right.start for left, right in pairwise(spans))
        assert (len(spans) == 1) == (name in ("gz-one", "zst-one")), (
            "one member or frame has one reader"
        )
        assert [line for span in spans for _, line in read_lines(span)] == lines


def test_long_line_over_many_chunks(tmp_path: Path) -> None:
    line = b"x" * 5_000_000 + b"\n"
    path = tmp_path / "long.json.bz2"
    path.write_bytes(bz2.compress(line + b"short\n", 1))
    assert [text for _, text in read_all(path, [10, 200, 300])] == [line, b"short\n"]


@pytest.mark.parametrize("name", ["gz-lines", "gz-one", "bz2-one-stream", "zst-frames", "zst-one"])
def test_truncated_file_fails_with_its_offset(
    sources: dict[str, Path], tmp_path: Path, name: str
) -> None:
    content = sources[name].read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: int(len(content) * 0.6)])
    with pytest.raises(
        SourceError, match=rf"{name}: byte \d+: the file ends inside .*download it again"
    ):
        read_all(path, [])


def flip(content: bytes, at: int) -> bytes:
    """One byte changed."""
    return content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]


@pytest.mark.parametrize("name", ["gz-lines", "bz2-one-stream", "bz2-streams", "zst-frames"])
def test_corrupt_block_is_an_error_or_one_counted_loss(
    sources: dict[str, Path], tmp_path: Path, lines: list[bytes], name: str
) -> None:
    content = sources[name].read_bytes()
    path = tmp_path / name
    path.write_bytes(flip(content, len(content) // 2))
    with pytest.raises(SourceError, match="is corrupt"):
        read_all(path, [])
    first: list[bytes] = []
    for unit in (len(content), 60_000, 7_000):
        losses: list[SourceError] = []
        spans = plan_ranges(str(path), unit)
        kept = [line for span in spans for _, line in read_lines(span, losses.append)]
        assert len(losses) == 1, "reported once, by the span that owns it"
        assert kept == (first := first or kept), "the same loss for any split"
        assert set(kept) <= set(lines)
        assert 0 < len(lines) - len(kept) < 0.6 * len(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04rest", "zip file"),
        (b"\xfd7zXZ\x00rest", "xz file"),
        (b"BZh9", "no bz2 block"),
        (gzip.compress(b"a\n", mtime=0) + b"garbage", "no gzip member starts here"),
        (zstandard.compress(b"a\n") + b"garbage", "no zstd frame starts here"),
        (
            zstandard.compress(b"a\n") + skippable(b"1234")[:-1],
            "ends inside the skippable zstd frame",
        ),
        (b"\x28\xb5\x2f\xfdrest", "zstd frame that starts here"),
        (bz2.compress(b"a\n") + b"garbage", "no bz2 stream starts"),
        (bz2.compress(b"a\n" * 99)[:-2], "ends inside the end mark"),
    ],
)
def test_what_is_no_readable_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "input.json"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read_all(path, [])


def test_zero_padding_and_empty_streams_are_no_damage(tmp_path: Path) -> None:
    for name, content in (
        ("gz", gzip.compress(b"", mtime=0) + gzip.compress(b"a\n", mtime=0) + bytes(9)),
        ("bz2", bz2.compress(b"") + bz2.compress(b"a\n") + bytes(9)),
        (
            "zst",
            skippable(b"")
            + zstandard.compress(b"")
            + zstandard.compress(b"a\n")
            + skippable(bytes(9)),
        ),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert [line for _, line in read_all(path, [])] == [b"a\n"]


def test_peek_decodes_whatever_the_name_says(sources: dict[str, Path], lines: list[bytes]) -> None:
    for path in sources.values():
        assert peek(str(path), 100) == b"".join(lines)[:100]


def test_peek_looks_past_a_lost_first_member(tmp_path: Path) -> None:
    """Whether the loss may be skipped is for whoever reads the file."""
    first, second = gzip.compress(MANY[:5000]), gzip.compress(b"second\n" * 99)
    path = tmp_path / "c.gz"
    path.write_bytes(flip(first, 40) + second)
    assert peek(str(path), 7) == b"second\n"
    path.write_bytes(flip(first, 40))
    with pytest.raises(SourceError, match="byte 0: .*corrupt"):
        peek(str(path))


def test_changed_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "shrunk.jsonl"
    path.write_bytes(b"".join(make_lines(3)))
    with pytest.raises(SourceError, match="it changed"):
        list(read_lines(ByteRange(path=str(path), start=0, end=10_000_000)))


@pytest.mark.parametrize("name", NAMES)
def test_stored_bytes_move_on_and_come_to_the_end(sources: dict[str, Path], name: str) -> None:
    """Also inside a file that only one reader can read."""
    size, stored = sources[name].stat().st_size, []
    for _ in read_lines(ByteRange(path=str(sources[name]), start=0, end=size), None, stored.append):
        pass
    assert stored
    assert stored == sorted(stored)
    assert 0 <= stored[0] <= stored[-1] <= size


def test_stored_bytes_move_inside_one_member(tmp_path: Path) -> None:
    for ending, content in (("gz", gzip.compress(MANY, 1)), ("zst", zstandard.compress(MANY, 1))):
        path = tmp_path / f"one.{ending}"
        path.write_bytes(content)
        stored: list[int] = []
        assert (
            sum(
                1
                for _ in read_lines(
                    ByteRange(path=str(path), start=0, end=len(content)), None, stored.append
                )
            )
            == 3000
        )
        assert stored == sorted(stored)
        assert len(set(stored)) > 3, "steps of about 1 MB of what comes out"
        assert stored[-1] == len(content)
