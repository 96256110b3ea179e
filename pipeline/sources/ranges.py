"""Cutting files into spans of about the same stored size, without reading them."""

from __future__ import annotations

import logging

from pipeline.engine import files
from pipeline.sources.chunks import SourceError, Span, format_of
from pipeline.sources.members import has_one_member
from pipeline.sources.opening import MEMBER_FORMATS, read_chunks

MEMBER_SEARCH_BYTES = 1 << 30  # Wikidata's members have about 70 MB
logger = logging.getLogger("trelm")


def plan_ranges(path: str, unit_bytes: int) -> list[Span]:
    """Spans that cover a file; a gz file of one member, or a zst of one frame, is one span: it has only one reader.

    Costs a look at the first bytes, and for a gz or zst file larger than a unit the search for a second member, at about
    1 GB/s; where there is none in the first GB, the file counts as one member.

    Raises:
        SourceError: the file is empty or of an unknown format; StageError: there is no such file.
    """
    if unit_bytes < 1:
        raise ValueError(f"unit_bytes is {unit_bytes}, wanted at least 1")
    size = files.size_of(path)
    with files.open_read(path) as file:
        name = format_of(path, file)
        if name in MEMBER_FORMATS and size > unit_bytes:
            kind = MEMBER_FORMATS[name]
            if has_one_member(kind, file, min(size, MEMBER_SEARCH_BYTES)):
                logger.info("%s: one %s: one reader; %s", path, kind.name, kind.one_member_advice)
                return [Span(path=path, start=0, end=size)]
    count = -(-size // unit_bytes)
    cuts = [size * part // count for part in range(count + 1)]
    return [Span(path=path, start=low, end=high) for low, high in zip(cuts, cuts[1:], strict=False)]


def peek(path: str, num_bytes: int = 4096, losses: list[SourceError] | None = None) -> bytes:
    """The first decoded bytes of a file: to see what it holds before work is planned.

    Raises:
        SourceError: empty, unknown or corrupt from the start.
    """
    head = b""
    losses = (
        [] if losses is None else losses
    )  # damage further on is for whoever reads the file: it may be told to skip it
    for chunk in read_chunks(Span(path=path, start=0, end=files.size_of(path)), losses.append):
        head += chunk.data[:num_bytes]
        if len(head) >= num_bytes:
            break
    if losses and not head:
        raise losses[0]
    return head[:num_bytes]
