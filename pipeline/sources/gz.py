"""gzip files of many members (the form of Wikidata's dumps), read by byte ranges.

A member belongs to the range that holds its first byte. Only a range's first member is searched for; the next one
starts where the last one ended. A range without a member start costs one search (about 1 GB/s) and yields nothing: so a
file of one member has one reader. Decoding: isal, about 1.5 GB/s of decoded bytes per core.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from isal import igzip_lib

from pipeline.sources.chunks import CHUNK_BYTES, Chunk, LossHandler, SourceError, Span, source_error

MAGIC = b"\x1f\x8b\x08"
FLAGS_END = 0x20  # the three high bits of the flag byte are reserved: always 0
IsalError: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]  # its stub calls it an instance
READ_BYTES = 1 << 18
TRIAL_BYTES = 256
CONTROL = bytes(code for code in range(32) if code not in b"\t\n\r")
ADVICE = "the file is damaged or incomplete: download it again, or set skip_corrupt to lose only this member"


class _Input:
    """Sequential bytes of a file, which may be pushed back."""

    def __init__(self, file: IO[bytes], start: int) -> None:
        self._file = file
        self._data = b""
        self._next = start  # where `_data` starts in the file

    def take(self) -> bytes:
        """Some bytes; none at the end of the file."""
        data = self.peek()
        self._next += len(data)
        self._data = b""
        return data

    def peek(self) -> bytes:
        """The bytes that `take` returns next."""
        if not self._data:
            self._file.seek(self._next)
            self._data = self._file.read(READ_BYTES)
        return self._data

    def push_back(self, data: bytes) -> int:
        """Return unused bytes; comes back with their place in the file."""
        self._next -= len(data)
        self._data = data
        return self._next


def gz_chunks(file: IO[bytes], span: Span, on_loss: LossHandler | None = None) -> Iterator[Chunk]:
    """Chunks of the members that start in the span, then those after it.

    With `on_loss` a corrupt member ends where its fault shows: what came out of it before stays, the rest is lost.

    Raises:
        SourceError: a corrupt or truncated member, unless `on_loss` takes it.
    """
    member = 0 if span.start == 0 else find_member(file, span.start, span.end)
    while member is not None:
        try:
            yield from _members(file, span, member)
        except _LostMemberError as error:
            if on_loss is None:
                raise
            owned = error.offset < span.end
            yield Chunk(data=b"", prefix="", offset=0, owned=owned, broken=True)
            if not owned:
                return
            on_loss(error)
            member = find_member(file, error.offset + 1, None)
        else:
            return


class _LostMemberError(SourceError):
    """A corrupt member; carries where it starts."""

    offset = 0


def _lost(path: str, offset: int, problem: str) -> _LostMemberError:
    error = _LostMemberError(source_error(path, offset, problem, ADVICE).message)
    error.offset = offset
    return error


def _members(file: IO[bytes], span: Span, member: int) -> Iterator[Chunk]:
    source = _Input(file, member)
    while _starts_member(source, span.path, member):
        decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        owned, prefix, produced = member < span.end, f"{member}+", 0
        while not decoder.eof:
            data = source.take() if decoder.needs_input else b""
            if decoder.needs_input and not data:
                raise _lost(span.path, member, "the file ends inside the gzip member that starts here")
            try:
                decoded = decoder.decompress(data, CHUNK_BYTES)
            except IsalError as error:
                raise _lost(span.path, member, f"the gzip member that starts here is corrupt ({error})") from error
            if decoded:
                yield Chunk(data=decoded, prefix=prefix, offset=produced, owned=owned)
                produced += len(decoded)
        member = source.push_back(decoder.unused_data)


def _starts_member(source: _Input, path: str, offset: int) -> bool:
    """Whether another member follows; zero padding up to the end of the file is allowed."""
    head = source.peek()
    while head and not head.strip(b"\0"):
        source.take()
        head = source.peek()
    if head and not head.startswith(MAGIC[: len(head)]):
        raise _lost(path, offset, "no gzip member starts here, where the one before ended")
    return bool(head)


def find_member(file: IO[bytes], start: int, end: int | None) -> int | None:
    """First true member start in bytes start to end (None: of the file)."""
    position, keep = start, len(MAGIC)  # the overlap holds a magic and its flag byte
    while end is None or position < end:
        file.seek(position)
        window = file.read(CHUNK_BYTES + keep)
        found = window.find(MAGIC)
        while found >= 0:
            offset = position + found
            if end is not None and offset >= end:
                return None
            plausible = found < CHUNK_BYTES and window[found + keep : found + keep + 1] < bytes([FLAGS_END])
            if plausible and is_member(file, offset):
                return offset
            found = window.find(MAGIC, found + 1)
        if len(window) < CHUNK_BYTES + keep:
            return None
        position += CHUNK_BYTES
    return None


def is_member(file: IO[bytes], offset: int) -> bool:
    """Inflate on trial: a true member ends with a valid checksum, or 256 bytes of text come out."""
    source, decoder, text = _Input(file, offset), igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), b""
    try:
        while not decoder.eof and len(text) < TRIAL_BYTES:
            data = source.take() if decoder.needs_input else b""
            if decoder.needs_input and not data:
                return False
            text += decoder.decompress(data, TRIAL_BYTES - len(text))
    except IsalError:
        return False
    return bool(decoder.eof) or len(text.translate(None, CONTROL)) == len(text)


def first_member_end(file: IO[bytes], limit: int) -> int | None:
    """Where the file's first member ends; None if it is damaged or longer than `limit` stored bytes."""
    source, decoder, taken = _Input(file, 0), igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), 0
    try:
        while not decoder.eof and taken < limit:
            data = source.take() if decoder.needs_input else b""
            if decoder.needs_input and not data:
                return None
            taken += len(data)
            decoder.decompress(data, CHUNK_BYTES)
    except IsalError:
        return None
    return source.push_back(decoder.unused_data) if decoder.eof else None
