"""Define what all readers share: byte spans, chunks, errors with an offset, and formats.

A reader of a format turns a `ByteRange` into `Chunk`s: first those that the span owns, in order,
then those after it for as long as the consumer asks. Memory: one chunk (1 MB, or one bz2 block of
900 KB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from pipeline.engine.errors import StageError
from pipeline.engine.tasks import ByteRange

CHUNK_BYTES = 1 << 20
HEAD_BYTES = 64


class SourceError(StageError):
    """Report an input that cannot be read: which file, at which byte, and what to do."""


# Receives each lost block or member. Where a reader gets None instead, a loss raises.
LossHandler = Callable[[SourceError], None]
# Receives the byte of the file that the reader has reached, for the progress display.
StoredHandler = Callable[[int], None]


def source_error(path: str, offset: int, problem: str, advice: str) -> SourceError:
    """Create the error for a byte of a file."""
    return SourceError(f"{path}: byte {offset}: {problem}; {advice}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Hold decoded bytes that follow those of the chunk before, unless `broken`."""

    data: bytes
    # Names the block or member, as in "4096+"; empty in a plain file.
    prefix: str
    # The first byte of the data, counted in what the block or member decodes to.
    offset: int
    # Whether the block, member or byte starts in the span.
    owned: bool
    # The byte of the file that the reader has reached, for the progress display.
    stored: int
    # Whether bytes are missing before this chunk.
    broken: bool = False


ChunkReader = Callable[[IO[bytes], ByteRange, LossHandler | None], Iterator[Chunk]]


# Endings of compressed files.
COMPRESSED = ("gz", "bz2", "zst")


def sniff(head: bytes) -> str:
    """Return the format that a file starts with: gz, bz2, zst, an unsupported one, or plain."""
    if head.startswith(b"\x1f\x8b"):
        return "gz"
    # A file of pzstd starts with a skippable frame, which has a magic of its own.
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return "zst"
    if head[:3] == b"BZh" and head[3:4].isdigit():
        return "bz2"

    unsupported = {b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"PAR1": "parquet", b"7z\xbc": "7z"}
    return next((name for magic, name in unsupported.items() if head.startswith(magic)), "plain")


def format_of(path: str, file: IO[bytes]) -> str:
    """Return the format of an open file, by its content: a wrong extension does not matter.

    But a file that is called compressed and is neither that nor text is damaged at its beginning.

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
    ending = path.rpartition(".")[2].lower()
    if name == "plain" and ending in COMPRESSED and not _looks_like_text(head):
        problem = f"this is called {ending}, but does not begin like it"
        raise source_error(path, 0, problem, "download it again: it is damaged")
    return name


def _looks_like_text(head: bytes) -> bool:
    """Say whether bytes may be text: no control characters but those of white space."""
    return not head.translate(None, bytes(range(32, 256)) + b"\t\n\v\f\r")


def plain_chunks(
    file: IO[bytes],
    span: ByteRange,
    on_loss: LossHandler | None = None,  # noqa: ARG001
) -> Iterator[Chunk]:
    """Yield the chunks of an uncompressed file; no byte of it can be corrupt at this level.

    Raises:
        SourceError: the file ends before the span does.
    """
    file.seek(span.start)
    position = span.start
    while True:
        # A chunk lies either inside the span or after it: the rules about ownership need a clean
        # cut.
        owned = position < span.end
        data = file.read(min(CHUNK_BYTES, span.end - position) if owned else CHUNK_BYTES)
        if not data:
            break
        yield Chunk(data=data, prefix="", offset=position, owned=owned, stored=position + len(data))
        position += len(data)

    if position < span.end:
        problem = f"the file ends before byte {span.end}"
        raise source_error(span.path, position, problem, "it changed: run again")
