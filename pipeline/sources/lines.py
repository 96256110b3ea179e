"""Lines of a span, by the newline rule.

Every span except the one at the start of the file skips through its first newline, even where it happens to start a
line, and owns nothing if it has none; every span that owns something reads on past its end through the next newline.
So each line comes from exactly one span, however the file is cut. Memory: one chunk and one line.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.sources.chunks import Chunk, LossHandler, Span, StoredHandler, source_error
from pipeline.sources.opening import read_chunks

MAX_LINE_BYTES = 256 << 20


def read_lines(
    span: Span, on_loss: LossHandler | None = None, on_stored: StoredHandler | None = None
) -> Iterator[tuple[str, bytes]]:
    """The span's lines, each with its newline (only a file's last line may lack one) and its position.

    A position is the byte of the line's start in a plain file; in a compressed one it is "A+B": byte B of what the
    block or member at byte A decodes to. It does not depend on how the file is cut. `on_stored` is told, chunk by chunk,
    the byte of the file up to which lines have come out: it moves even inside a member of many GB.

    Raises:
        SourceError: corrupt input (unless `on_loss` takes it), or a line of more than 256 MB.
    """
    assembler = _LineAssembler(span)
    for chunk in read_chunks(span, on_loss):
        yield from assembler.feed(chunk)
        if on_stored is not None:
            on_stored(chunk.stored)
        if assembler.done:
            return
    yield from assembler.rest()


class _LineAssembler:
    """Cuts chunks into lines; keeps the start of a line until its newline comes."""

    def __init__(self, span: Span) -> None:
        self._path = span.path
        self._skipping = span.start != 0  # through the next newline
        self._parts: list[bytes] = []  # of the line that has started
        self._num_bytes = 0
        self._position = ""
        self.done = False

    def feed(self, chunk: Chunk) -> Iterator[tuple[str, bytes]]:
        """Lines that end in the chunk."""
        if chunk.broken:
            self._skipping, self._parts, self._num_bytes = True, [], 0
        if not chunk.owned and self._skipping:
            self.done = True
            return
        data, at = chunk.data, 0
        if self._skipping:
            at = data.find(b"\n") + 1
            if at == 0:
                return
            self._skipping = False
        while (newline := data.find(b"\n", at)) >= 0:
            yield self._end_line(chunk, data[at : newline + 1], at)
            at = newline + 1
            if not chunk.owned:
                self.done = True
                return
        self._keep(chunk, data[at:], at)

    def _end_line(self, chunk: Chunk, last: bytes, at: int) -> tuple[str, bytes]:
        if not self._parts:
            return f"{chunk.prefix}{chunk.offset + at}", last
        line = b"".join([*self._parts, last])
        self._parts, self._num_bytes = [], 0
        return self._position, line

    def _keep(self, chunk: Chunk, data: bytes, at: int) -> None:
        if not data:
            return
        if not self._parts:
            self._position = f"{chunk.prefix}{chunk.offset + at}"
        self._parts.append(data)
        self._num_bytes += len(data)
        if self._num_bytes > MAX_LINE_BYTES:
            offset = int(self._position.partition("+")[0])
            problem = f"the line at {self._position} is longer than {MAX_LINE_BYTES >> 20} MB"
            raise source_error(self._path, offset, problem, "write one record per line")

    def rest(self) -> Iterator[tuple[str, bytes]]:
        """The file's last line, if it has no newline."""
        if self._parts and not self._skipping:
            yield self._position, b"".join(self._parts)
