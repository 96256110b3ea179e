"""From a path to chunks: the reader that fits what the file starts with."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from pipeline.engine import files
from pipeline.sources.bz2_blocks import bz2_chunks
from pipeline.sources.chunks import Chunk, ChunkReader, LossHandler, Span, format_of, plain_chunks
from pipeline.sources.gz import GzipMembers
from pipeline.sources.members import MemberFormat, member_chunks
from pipeline.sources.zstd_frames import ZstdFrames

MEMBER_FORMATS: dict[str, MemberFormat] = {"gz": GzipMembers(), "zst": ZstdFrames()}
READERS: dict[str, ChunkReader] = {
    "plain": plain_chunks,
    "bz2": bz2_chunks,
    **{name: functools.partial(member_chunks, kind) for name, kind in MEMBER_FORMATS.items()},
}


def read_chunks(span: Span, on_loss: LossHandler | None = None) -> Iterator[Chunk]:
    """Decoded chunks of a span, then those after it; closes the file when the consumer stops.

    Raises:
        SourceError: the file is empty, of an unknown format, corrupt or truncated.
    """
    with files.open_read(span.path) as file:
        yield from READERS[format_of(span.path, file)](file, span, on_loss)
