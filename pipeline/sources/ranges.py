"""Cutting files into spans of about the same stored size, without reading them."""

from __future__ import annotations

import logging

from pipeline.sources.chunks import HEAD_BYTES, SourceError, Span, format_of
from pipeline.sources.gz import first_member_end
from pipeline.sources.opening import read_chunks
from pipeline.storage import files

MEMBER_SEARCH_BYTES = 128 << 20  # Wikidata's members have about 70 MB
logger = logging.getLogger("trelm")


def plan_ranges(path: str, unit_bytes: int) -> list[Span]:
    """Spans that cover a file; a gz file of one member is one span, since only one reader can read it.

    Costs a look at the first bytes, and for a gz file larger than a unit the decoding of its first member.

    Raises:
        SourceError: the file is empty or of an unknown format; StageError: there is no such file.
    """
    if unit_bytes < 1:
        raise ValueError(f"unit_bytes is {unit_bytes}, wanted at least 1")
    size = files.size_of(path)
    with files.open_read(path) as file:
        name = format_of(path, file)
        if name == "gz" and size > unit_bytes:
            first = first_member_end(file, MEMBER_SEARCH_BYTES)
            if first == size:
                logger.info("%s: one gzip member: one reader; gzip it in parts or use bz2 to use all cores", path)
                return [Span(path=path, start=0, end=size)]
            if first is None:
                logger.info("%s: its first gzip member is long or damaged; most readers may find nothing to do", path)
    count = -(-size // unit_bytes)
    cuts = [size * part // count for part in range(count + 1)]
    return [Span(path=path, start=low, end=high) for low, high in zip(cuts, cuts[1:], strict=False)]


def peek(path: str, num_bytes: int = 4096) -> bytes:
    """The first decoded bytes of a file: to see what it holds before work is planned.

    Raises:
        SourceError: empty, unknown or corrupt from the start.
    """
    head = b""
    losses: list[SourceError] = []  # damage further on is for whoever reads the file: it may be told to skip it
    for chunk in read_chunks(Span(path=path, start=0, end=min(HEAD_BYTES, files.size_of(path))), losses.append):
        head += chunk.data[:num_bytes]
        if len(head) >= num_bytes:
            break
    if losses and not head:
        raise losses[0]
    return head[:num_bytes]
