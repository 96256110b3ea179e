"""zstd frames: limits, advice, bounded memory, frames that are none."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
import zstandard

from pipeline.engine.tasks import ByteRange
from pipeline.sources import SourceError, plan_ranges, read_lines
from pipeline.sources.chunks import CHUNK_BYTES
from pipeline.sources.members import find_member, member_chunks
from pipeline.sources.zstd_frames import MAX_BLOCK_BYTES, ZstdFrames
from tests.pipeline.sources.conftest import make_lines, skippable

DATA = b"".join(make_lines(60))


def lines_of(path: Path, content: bytes) -> list[bytes]:
    """All lines of a file with this content, read whole."""
    path.write_bytes(content)
    return [line for _, line in read_lines(ByteRange(path=str(path), start=0, end=len(content)))]


def test_one_frame_is_one_reader_and_says_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "one.zst"
    table = skippable(b"sizes", 14)  # the seekable format ends with one
    with caplog.at_level(logging.INFO, "trelm"):
        for content in (
            zstandard.compress(DATA),
            skippable(b"4444") + zstandard.compress(DATA) + table,
        ):
            path.write_bytes(content)
            assert plan_ranges(str(path), 1000) == [
                ByteRange(path=str(path), start=0, end=len(content))
            ]
    assert (
        caplog.messages
        == [f"{path}: one zstd frame: one reader; {ZstdFrames.one_member_advice}"] * 2
    )


def test_too_large_a_window_is_refused_with_its_size(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    content = compressor.compress(DATA) + compressor.flush()
    with pytest.raises(
        SourceError, match=r"byte 0: .*window of 256 MB, the limit is 128 MB; .*--long=27"
    ):
        lines_of(tmp_path / "wide.zst", content)
    losses: list[SourceError] = []
    with pytest.raises(
        SourceError, match="window of 256 MB"
    ):  # nothing is damaged: skip_corrupt does not hide it
        list(
            read_lines(
                ByteRange(path=str(tmp_path / "wide.zst"), start=0, end=len(content)), losses.append
            )
        )
    assert not losses


def test_largest_window_that_is_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    content = compressor.compress(DATA) + compressor.flush()
    assert b"".join(lines_of(tmp_path / "wide.zst", content)) == DATA


def test_a_dictionary_is_asked_for(tmp_path: Path) -> None:
    samples = [b"the entity Q%d of type item" % number for number in range(2000)]
    dictionary = zstandard.train_dictionary(2048, samples)
    content = zstandard.ZstdCompressor(dict_data=dictionary).compress(DATA)
    with pytest.raises(
        SourceError,
        match=rf"needs the dictionary {dictionary.dict_id()}; compress it again without",
    ):
        lines_of(tmp_path / "d.zst", content)


def test_every_truncation_is_told(tmp_path: Path) -> None:
    """Cut at any byte but the end of a frame, the file is refused, and the offset is that of the
    frame cut.
    """
    first, second = (zstandard.compress(part) for part in (DATA[:900], DATA[900:2000]))
    content, path = first + second, tmp_path / "cut.zst"
    for cut in range(5, len(content)):
        if cut == len(first):
            continue
        with pytest.raises(
            SourceError,
            match=rf"byte {0 if cut < len(first) else len(first)}: the file ends inside",
        ):
            lines_of(path, content[:cut])


def test_little_that_decodes_to_much_comes_in_chunks() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(300 << 20))
    assert len(bomb) < 100_000
    chunks = member_chunks(
        ZstdFrames(), io.BytesIO(bomb), ByteRange(path="x", start=0, end=len(bomb))
    )
    sizes = [len(chunk.data) for chunk in chunks]
    assert sum(sizes) == 300 << 20
    assert max(sizes) <= CHUNK_BYTES + MAX_BLOCK_BYTES


def test_false_magics_are_passed_over() -> None:
    frame = zstandard.compress(DATA)
    for noise in (
        b"\x28\xb5\x2f\xfd" + b"\xa7\x31" * 40,
        b"\x28\xb5\x2f\xfd\x00\x58" + b"\x01" * 40,
    ):
        content = noise + frame
        assert find_member(ZstdFrames(), io.BytesIO(content), 0, len(content)) == len(noise)
        assert find_member(ZstdFrames(), io.BytesIO(content), 0, len(noise)) is None, (
            "it starts past the range"
        )


def test_a_member_that_no_search_finds_is_read_from_the_one_before(tmp_path: Path) -> None:
    """Control characters and a damaged neighbour: the trial fails, the member is sound; its lines
    come once.
    """
    sound = zstandard.compress(b"one\n") + zstandard.compress(b"\x01\x02\n")
    content, path = sound + b"garbage", tmp_path / "odd.zst"
    path.write_bytes(content)
    assert find_member(ZstdFrames(), io.BytesIO(content), 1, len(content)) is None
    for cut in range(1, len(content)):
        losses: list[SourceError] = []
        spans = [
            ByteRange(path=str(path), start=low, end=high)
            for low, high in ((0, cut), (cut, len(content)))
        ]
        assert [line for span in spans for _, line in read_lines(span, losses.append)] == [
            b"one\n",
            b"\x01\x02\n",
        ]
        assert [error.message.split(":")[1] for error in losses] == [f" byte {len(sound)}"]


def test_reserved_and_oversized_blocks_are_corrupt(tmp_path: Path) -> None:
    header = zstandard.compress(DATA)[: zstandard.frame_header_size(zstandard.compress(DATA))]
    for block in (0b110, (MAX_BLOCK_BYTES + 1) << 3):
        with pytest.raises(SourceError, match="impossible block"):
            lines_of(tmp_path / "bad.zst", header + block.to_bytes(3, "little") + bytes(9))
