"""Files of many members (gzip members, zstd frames), read by byte ranges; what the two formats share.

A member belongs to the range that holds its first byte. Only a range's first member is searched for, by its magic and a
trial; each further one starts where the one before ended. A range without a member start costs one search (about
1 GB/s) and yields nothing: so a file of one member has one reader.

A member that no search would find (its first bytes are damaged) belongs to the range of the member before it: so each
member, lost or not, belongs to one range, however the file is cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import IO, Protocol

from pipeline.sources.chunks import CHUNK_BYTES, Chunk, LossHandler, SourceError, Span, source_error

READ_BYTES = 1 << 16
TRIAL_BYTES = 256
CONTROL = bytes(code for code in range(32) if code not in b"\t\n\r")
DAMAGE_ADVICE = "the file is damaged or incomplete: download it again, or set skip_corrupt to lose only this member"


class MemberError(Exception):
    """A member that cannot be decoded; `is_damage` is false where it is beyond our limits, as sound ones can be."""

    def __init__(
        self, problem: str, advice: str = DAMAGE_ADVICE, *, is_damage: bool = True
    ) -> None:
        super().__init__(problem)
        self.problem, self.advice, self.is_damage = problem, advice, is_damage


class StoredBytes:
    """Sequential bytes of a file; the last ones taken can be given back. Memory: READ_BYTES and what is asked for."""

    def __init__(self, file: IO[bytes], start: int) -> None:
        self._file = file
        self._data = b""
        self._at = 0  # in `_data`
        self.position = start  # in the file, of the next byte

    def peek(self, num_bytes: int) -> bytes:
        """The next bytes; fewer only at the end of the file."""
        missing = num_bytes - (len(self._data) - self._at)
        if missing > 0:
            self._file.seek(self.position + len(self._data) - self._at)
            self._data = self._data[self._at :] + self._file.read(max(missing, READ_BYTES))
            self._at = 0
        return self._data[self._at : self._at + num_bytes]

    def take(self, num_bytes: int) -> bytes:
        """The next bytes, passed over; fewer only at the end of the file."""
        data = self.peek(num_bytes)
        self.position += len(data)
        self._at += len(data)
        return data

    def give_back(self, num_bytes: int) -> None:
        """Undo the end of the last `take`."""
        assert num_bytes <= self._at
        self.position -= num_bytes
        self._at -= num_bytes


class MemberFormat(Protocol):
    """What tells one format of members from another."""

    name: str
    magic: bytes
    one_member_advice: str

    def starts_next(self, source: StoredBytes) -> bool:
        """Step over what may stand between members; whether one must start here (False: the file ends).

        Raises:
            MemberError: something else stands here.
        """

    def decode(self, source: StoredBytes, num_bytes: int) -> Iterator[bytes]:
        """What the member that starts here decodes to, in pieces of about `num_bytes`; leaves the source at its end.

        The pieces depend on the member and `num_bytes` alone: so what comes out before a fault does too.

        Raises:
            MemberError: corrupt, cut off, or beyond our limits.
        """


def member_chunks(
    kind: MemberFormat, file: IO[bytes], span: Span, on_loss: LossHandler | None = None
) -> Iterator[Chunk]:
    """Chunks of the members that start in the span, then those after it.

    With `on_loss` a corrupt member ends where its fault shows: what came out of it before stays, the rest is lost.

    Raises:
        SourceError: a corrupt or truncated member, unless `on_loss` takes it; one beyond our limits.
    """
    member = 0 if span.start == 0 else find_member(kind, file, span.start, span.end)
    while member is not None:
        try:
            yield from _walk(kind, file, span, member)
        except _LostMemberError as error:
            if on_loss is None or error.is_refused:
                raise
            if error.is_owned:
                on_loss(error)
            yield Chunk(
                data=b"", prefix="", offset=0, owned=error.is_owned, stored=error.start, broken=True
            )
            member = find_member(kind, file, error.after + 1, span.end)
        else:
            return


class _LostMemberError(SourceError):
    """A lost member: where it starts, after which byte to look for the next one, whether it belongs to the span."""

    start = after = 0
    is_owned = True
    is_refused = False  # it may not be skipped


def _walk(kind: MemberFormat, file: IO[bytes], span: Span, member: int) -> Iterator[Chunk]:
    """Chunks from one member to the next."""
    source, owned, is_first, before = StoredBytes(file, member), True, member == 0, member
    while True:
        start = source.position
        try:
            if not kind.starts_next(source):
                return
            start, produced = source.position, 0
            owned = owned and (start < span.end or not is_member(kind, file, start))
            for data in kind.decode(source, CHUNK_BYTES):
                yield Chunk(
                    data=data,
                    prefix=f"{start}+",
                    offset=produced,
                    owned=owned,
                    stored=source.position,
                )
                produced += len(data)
        except MemberError as fault:
            error = _LostMemberError(
                source_error(span.path, start, fault.problem, fault.advice).message
            )
            error.start, error.is_owned = start, owned
            # Where no member starts, the one before may have swallowed the true start: a search would find that.
            error.after = start if is_member(kind, file, start) else before
            error.is_refused = is_first and not fault.is_damage
            raise error from fault
        is_first, before = False, start


def find_member(kind: MemberFormat, file: IO[bytes], start: int, end: int) -> int | None:
    """First true member start in bytes start to end."""
    position, overlap = start, len(kind.magic) - 1
    while position < end:
        file.seek(position)
        window = file.read(min(CHUNK_BYTES, end - position) + overlap)
        found = window.find(kind.magic)
        while found >= 0:
            if is_member(kind, file, position + found):
                return position + found
            found = window.find(kind.magic, found + 1)
        if len(window) <= overlap:
            return None
        position += len(window) - overlap
    return None


def is_member(kind: MemberFormat, file: IO[bytes], offset: int) -> bool:
    """Decode on trial: what comes out first is text, or else 1 MB or the whole member comes out without a fault."""
    source, text, produced = StoredBytes(file, offset), b"", 0
    if source.peek(len(kind.magic)) != kind.magic:
        return False
    try:
        for data in kind.decode(source, TRIAL_BYTES):
            text += data[: TRIAL_BYTES - len(text)]
            produced += len(data)
            if produced >= CHUNK_BYTES or (len(text) == TRIAL_BYTES and _is_text(text)):
                return True
        if not _is_text(text):
            kind.starts_next(
                source
            )  # chance may make a short member, hardly one with another after it
    except MemberError:
        return False
    return True


def _is_text(data: bytes) -> bool:
    return len(data.translate(None, CONTROL)) == len(data)


def has_one_member(kind: MemberFormat, file: IO[bytes], limit: int) -> bool:
    """Whether no second member starts in the file's first `limit` bytes."""
    source = StoredBytes(file, 0)
    with contextlib.suppress(MemberError):  # whoever reads the file tells of damage
        kind.starts_next(source)
    return find_member(kind, file, source.position + 1, limit) is None
