"""Read files of many members by byte ranges: what gzip members and zstd frames share.

A member belongs to the range that holds its first byte. Only a range's first member is searched
for, by its magic and a trial; each further member starts where the one before ended. A range
without a member start costs one search (about 1 GB/s) and yields nothing: so a file of one member
has one reader.

A member that no search would find (its first bytes are damaged) belongs to the range of the member
before it: so each member, lost or not, belongs to one range, however the file is cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import IO, Protocol

from pipeline.engine.tasks import ByteRange
from pipeline.sources.chunks import CHUNK_BYTES, Chunk, LossHandler, SourceError, source_error

READ_BYTES = 1 << 16
TRIAL_BYTES = 256
# Control characters that no text has; tab, newline and carriage return are text.
CONTROL = bytes(code for code in range(32) if code not in b"\t\n\r")
DAMAGE_ADVICE = (
    "the file is damaged or incomplete: "
    "download it again, or set skip_corrupt to lose only this member"
)


class MemberError(Exception):
    """Report a member that cannot be decoded.

    `is_damage` is false where the member is beyond our limits, as sound ones can be.
    """

    def __init__(
        self, problem: str, advice: str = DAMAGE_ADVICE, *, is_damage: bool = True
    ) -> None:
        super().__init__(problem)
        self.problem, self.advice, self.is_damage = problem, advice, is_damage


class StoredBytes:
    """Read the bytes of a file in order; the last bytes taken can be given back.

    Memory: READ_BYTES and the bytes asked for.
    """

    def __init__(self, file: IO[bytes], start: int) -> None:
        self._file = file
        self._data = b""
        # Where the next byte lies in `_data`.
        self._cursor = 0
        # Where the next byte lies in the file.
        self.position = start

    def peek(self, num_bytes: int) -> bytes:
        """Return the next bytes; fewer only at the end of the file."""
        missing = num_bytes - (len(self._data) - self._cursor)
        if missing > 0:
            # Seek each time: trials of other members move the same file.
            self._file.seek(self.position + len(self._data) - self._cursor)
            self._data = self._data[self._cursor :] + self._file.read(max(missing, READ_BYTES))
            self._cursor = 0
        return self._data[self._cursor : self._cursor + num_bytes]

    def take(self, num_bytes: int) -> bytes:
        """Return the next bytes and pass over them; fewer only at the end of the file."""
        data = self.peek(num_bytes)
        self.position += len(data)
        self._cursor += len(data)
        return data

    def give_back(self, num_bytes: int) -> None:
        """Undo the end of the last `take`."""
        assert num_bytes <= self._cursor
        self.position -= num_bytes
        self._cursor -= num_bytes


class MemberFormat(Protocol):
    """Describe how one format of members differs from another."""

    name: str
    magic: bytes
    one_member_advice: str

    def starts_next(self, source: StoredBytes) -> bool:
        """Step over what may stand between members; say whether a member must start here.

        False means that the file ends.

        Raises:
            MemberError: the bytes here are no start of a member.
        """

    def decode(self, source: StoredBytes, num_bytes: int) -> Iterator[bytes]:
        """Yield what the member that starts here decodes to; leave the source at its end.

        The pieces have about `num_bytes`. They depend on the member and `num_bytes` alone: so what
        comes out before a fault does too.

        Raises:
            MemberError: corrupt, cut off, or beyond our limits.
        """


def member_chunks(
    kind: MemberFormat, file: IO[bytes], span: ByteRange, on_loss: LossHandler | None = None
) -> Iterator[Chunk]:
    """Yield the chunks of the members that start in the span, then those after it.

    With `on_loss` a corrupt member ends where its fault shows: the bytes that came out of it before
    stay, the rest is lost.

    Raises:
        SourceError: a corrupt or truncated member, unless `on_loss` takes it; a member beyond our
            limits.
    """
    member = 0 if span.start == 0 else find_member(kind, file, span.start, span.end)
    while member is not None:
        try:
            yield from _walk(kind, file, span, member)
        except _LostMemberError as error:
            if on_loss is None or error.is_refused:
                raise
            # A loss after the span is reported by the span that owns the member.
            if error.is_owned:
                on_loss(error)
            yield Chunk(
                data=b"", prefix="", offset=0, owned=error.is_owned, stored=error.start, broken=True
            )
            member = find_member(kind, file, error.after + 1, span.end)
        else:
            return


class _LostMemberError(SourceError):
    """Report a lost member."""

    # Where the member starts, and after which byte to look for the next one.
    start = after = 0
    # Whether it belongs to the span.
    is_owned = True
    # Whether it may not be skipped.
    is_refused = False


def _walk(kind: MemberFormat, file: IO[bytes], span: ByteRange, member: int) -> Iterator[Chunk]:
    """Yield chunks from one member to the next.

    Raises:
        _LostMemberError: a member cannot be decoded.
    """
    source = StoredBytes(file, member)
    owned, is_file_start, previous = True, member == 0, member
    while True:
        start = source.position
        try:
            if not kind.starts_next(source):
                return

            # A member after the span that a search would not find still belongs to this span.
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
            message = source_error(span.path, start, fault.problem, fault.advice).message
            error = _LostMemberError(message)
            error.start, error.is_owned = start, owned
            # Where no member starts, the one before may have swallowed the true start: a search
            # would find that.
            error.after = start if is_member(kind, file, start) else previous
            error.is_refused = is_file_start and not fault.is_damage
            raise error from fault
        is_file_start, previous = False, start


def find_member(kind: MemberFormat, file: IO[bytes], start: int, end: int) -> int | None:
    """Return the first true start of a member in bytes start to end; None if there is none."""
    # Windows overlap by one byte less than the magic, so that a magic across their border is seen
    # once.
    position, overlap = start, len(kind.magic) - 1
    while position < end:
        file.seek(position)
        window = file.read(min(CHUNK_BYTES, end - position) + overlap)

        offset = window.find(kind.magic)
        while offset >= 0:
            if is_member(kind, file, position + offset):
                return position + offset
            offset = window.find(kind.magic, offset + 1)

        if len(window) <= overlap:
            return None
        position += len(window) - overlap
    return None


def is_member(kind: MemberFormat, file: IO[bytes], offset: int) -> bool:
    """Say whether a member starts at a byte, by decoding it on trial.

    The trial succeeds if text comes out first, or else if 1 MB or the whole member comes out
    without a fault.
    """
    source, text, produced = StoredBytes(file, offset), b"", 0
    if source.peek(len(kind.magic)) != kind.magic:
        return False

    try:
        for data in kind.decode(source, TRIAL_BYTES):
            text += data[: TRIAL_BYTES - len(text)]
            produced += len(data)
            if produced >= CHUNK_BYTES or (len(text) == TRIAL_BYTES and _is_text(text)):
                return True
        # Chance may form a short member, but hardly one with another member after it.
        if not _is_text(text):
            kind.starts_next(source)
    except MemberError:
        return False
    return True


def _is_text(data: bytes) -> bool:
    """Say whether bytes are free of control characters."""
    return len(data.translate(None, CONTROL)) == len(data)


def has_one_member(kind: MemberFormat, file: IO[bytes], limit: int) -> bool:
    """Say whether no second member starts in the file's first `limit` bytes."""
    source = StoredBytes(file, 0)
    # The units that read the file report damage.
    with contextlib.suppress(MemberError):
        kind.starts_next(source)
    return find_member(kind, file, source.position + 1, limit) is None
