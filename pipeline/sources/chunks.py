"""What all readers share: ranges, decoded chunks, errors with an offset, and the formats told apart by their content.

A reader of a format turns a `Span` into `Chunk`s: first those that the span owns, in order, then those after it for as
long as the consumer asks. Memory: one chunk (1 MB, or one bz2 block of 900 KB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from pipeline.engine.errors import StageError

CHUNK_BYTES = 1 << 20
HEAD_BYTES = 64


class SourceError(StageError):
    """An input that cannot be read: which file, at which byte, and what to do."""


LossHandler = Callable[
    [SourceError], None
]  # told of each lost block or member; None instead: losses raise
StoredHandler = Callable[
    [int], None
]  # told up to which byte of the file the reader has come: for progress


def source_error(path: str, offset: int, problem: str, advice: str) -> SourceError:
    """The error for a place in a file."""
    return SourceError(f"{path}: byte {offset}: {problem}; {advice}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Bytes start to end (half open) of one file, as stored."""

    path: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Decoded bytes that follow those of the chunk before, unless `broken`."""

    data: bytes
    prefix: str  # names the block or member: "4096+", or nothing in a plain file
    offset: int  # of the data, within what the block or member decodes to
    owned: bool  # its block, member or byte starts in the span
    stored: int  # byte of the file up to which the reader has come: for progress
    broken: bool = False  # bytes are missing before this chunk


ChunkReader = Callable[[IO[bytes], Span, LossHandler | None], Iterator[Chunk]]


def sniff(head: bytes) -> str:
    """Name of the format that a file starts with: gz, bz2, zst, another one that has a name, or plain."""
    if head.startswith(b"\x1f\x8b"):
        return "gz"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return "zst"  # pzstd starts with a skippable frame
    if head[:3] == b"BZh" and head[3:4].isdigit():
        return "bz2"
    known = {b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"PAR1": "parquet", b"7z\xbc": "7z"}
    return next((name for magic, name in known.items() if head.startswith(magic)), "plain")


def format_of(path: str, file: IO[bytes]) -> str:
    """Format of an open file, by its content: a wrong extension does not matter.

    Raises:
        SourceError: the file is empty, or has a format that cannot be read by ranges.
    """
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if not head:
        raise source_error(path, 0, "the file is empty", "download or write it again")
    name = sniff(head)
    if name not in ("plain", "gz", "bz2", "zst"):
        advice = "only plain, gz, bz2 and zst files are read here: convert it"
        raise source_error(path, 0, f"this is a {name} file", advice)
    return name


def plain_chunks(
    file: IO[bytes],
    span: Span,
    on_loss: LossHandler | None = None,  # noqa: ARG001
) -> Iterator[Chunk]:
    """Chunks of an uncompressed file; nothing in it can be corrupt at this level.

    Raises:
        SourceError: the file ends before the span does.
    """
    file.seek(span.start)
    position = span.start
    while True:
        owned = position < span.end
        data = file.read(min(CHUNK_BYTES, span.end - position) if owned else CHUNK_BYTES)
        if not data:
            break
        yield Chunk(data=data, prefix="", offset=position, owned=owned, stored=position + len(data))
        position += len(data)
    if position < span.end:
        raise source_error(
            span.path, position, f"the file ends before byte {span.end}", "it changed: run again"
        )
