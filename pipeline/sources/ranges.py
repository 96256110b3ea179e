"""Divide files into spans of about the same stored size, without reading them."""

from __future__ import annotations

import logging
from typing import IO

from pipeline.engine import files
from pipeline.engine.kept_listings import once
from pipeline.engine.tasks import ByteRange
from pipeline.sources.chunks import SourceError, format_of
from pipeline.sources.members import MemberFormat, has_one_member
from pipeline.sources.opening import MEMBER_FORMATS, read_chunks

# Where no second member starts within these bytes, there is none: Wikidata's members have about 70
# MB.
MEMBER_SEARCH_BYTES = 1 << 30
logger = logging.getLogger("trelm")


def plan_ranges(path: str, unit_bytes: int) -> list[ByteRange]:
    """Return spans of about `unit_bytes` that cover a file.

    A gz file of one member, or a zst file of one frame, is one span: it can have only one reader.
    Planning costs a look at the first bytes, and for a gz or zst file larger than a unit the search
    for a second member, at about 1 GB/s; where there is none in the first GB, the file counts as
    one member.

    Raises:
        SourceError: the file is empty or of an unknown format.
        StageError: there is no such file.
    """
    if unit_bytes < 1:
        raise ValueError(f"unit_bytes is {unit_bytes}, wanted at least 1")

    size = files.size_of(path)
    with files.open_read(path) as file:
        name = format_of(path, file)
        if name in MEMBER_FORMATS and size > unit_bytes:
            kind = MEMBER_FORMATS[name]
            # A launch plans twice: to look at all stages first, and to run each.
            if once(("one member", path, size), lambda: _has_one_member(path, kind, file, size)):
                return [ByteRange(path=path, start=0, end=size)]

    # Equal cuts instead of a small remainder: all units take about the same time.
    count = -(-size // unit_bytes)
    cuts = [size * number // count for number in range(count + 1)]
    return [
        ByteRange(path=path, start=low, end=high) for low, high in zip(cuts, cuts[1:], strict=False)
    ]


def _has_one_member(path: str, kind: MemberFormat, file: IO[bytes], size: int) -> bool:
    """Say, also to the user, whether a file can have only one reader."""
    is_one = has_one_member(kind, file, min(size, MEMBER_SEARCH_BYTES))
    if is_one:
        logger.info("%s: one %s: one reader; %s", path, kind.name, kind.one_member_advice)
    return is_one


def peek(path: str, num_bytes: int = 4096, losses: list[SourceError] | None = None) -> bytes:
    """Return the first decoded bytes of a file, to see what it holds before units are planned.

    Args:
        path: the file.
        num_bytes: the most to return.
        losses: receives the damage found on the way.

    Raises:
        SourceError: empty, unknown or corrupt from the start.
    """
    # Damage further on is left to the units that read the file: the settings may let them skip it.
    losses = [] if losses is None else losses
    head = b""
    # Reading stops after the first chunks: the file is never read to its end.
    for chunk in read_chunks(ByteRange(path=path, start=0, end=files.size_of(path)), losses.append):
        head += chunk.data[:num_bytes]
        if len(head) >= num_bytes:
            break

    if losses and not head:
        raise losses[0]
    return head[:num_bytes]
