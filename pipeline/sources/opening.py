"""Open a file with the reader that fits what the file starts with."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from pipeline.engine import files
from pipeline.engine.tasks import ByteRange
from pipeline.sources.bz2_blocks import bz2_chunks
from pipeline.sources.chunks import Chunk, ChunkReader, LossHandler, format_of, plain_chunks
from pipeline.sources.gz_members import GzipMembers
from pipeline.sources.members import MemberFormat, member_chunks
from pipeline.sources.zstd_frames import ZstdFrames

# Formats whose files are members one after the other.
MEMBER_FORMATS: dict[str, MemberFormat] = {"gz": GzipMembers(), "zst": ZstdFrames()}
READERS: dict[str, ChunkReader] = {
    "plain": plain_chunks,
    "bz2": bz2_chunks,
    **{name: functools.partial(member_chunks, kind) for name, kind in MEMBER_FORMATS.items()},
}


def read_chunks(span: ByteRange, on_loss: LossHandler | None = None) -> Iterator[Chunk]:
    """Yield the decoded chunks of a span, then those after it.

    The file is closed when the consumer stops.

    Args:
        span: the bytes to read.
        on_loss: receives each block or member that is lost; without it, a loss raises.

    Raises:
        SourceError: the file is empty, of an unknown format, corrupt or truncated.
    """
    # A generator: the file stays open exactly as long as the consumer reads.
    with files.open_read(span.path) as file:
        yield from READERS[format_of(span.path, file)](file, span, on_loss)
