"""Read the lines of a span, by the newline rule.

Every span except the one at the start of the file skips through its first newline, even where it
happens to start a line, and owns no line if it has no newline. Every span that owns a line reads on
past its end through the next newline. So each line comes from exactly one span, however the file is
cut. Memory: one chunk and one line.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.engine.tasks import ByteRange
from pipeline.sources.chunks import Chunk, LossHandler, StoredHandler, source_error
from pipeline.sources.opening import read_chunks

MAX_LINE_BYTES = 256 << 20


def read_lines(
    span: ByteRange, on_loss: LossHandler | None = None, on_stored: StoredHandler | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield the position of each line of the span, and the line with its newline.

    Only a file's last line may lack a newline. A position is the byte of the line's start in a
    plain file; in a compressed one it is "A+B": byte B of what the block or member at byte A
    decodes to. It does not depend on how the file is cut.

    Args:
        span: the bytes to read.
        on_loss: receives each block or member that is lost; without it, a loss raises.
        on_stored: receives, chunk by chunk, the byte of the file up to which lines have come out.
            It moves even inside a member of many GB.

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
    yield from assembler.last_line()


class _LineAssembler:
    """Split chunks into lines; keep the start of a line until its newline comes."""

    def __init__(self, span: ByteRange) -> None:
        self._path = span.path
        # Whether all bytes through the next newline belong to the span before.
        self._skipping = span.start != 0
        # The pieces of the line that has started, their length, and its position.
        self._pieces: list[bytes] = []
        self._num_bytes = 0
        self._position = ""
        self.done = False

    def feed(self, chunk: Chunk) -> Iterator[tuple[str, bytes]]:
        """Yield the lines that end in the chunk."""
        # After a loss no one knows where a line starts: go on at the next newline.
        if chunk.broken:
            self._skipping, self._pieces, self._num_bytes = True, [], 0
        # No newline in the whole span: it owns no line.
        if not chunk.owned and self._skipping:
            self.done = True
            return

        data, start = chunk.data, 0
        if self._skipping:
            start = data.find(b"\n") + 1
            if start == 0:
                return
            self._skipping = False

        while (newline := data.find(b"\n", start)) >= 0:
            yield self._end_line(chunk, data[start : newline + 1], start)
            start = newline + 1
            # The first newline after the span ends its last line.
            if not chunk.owned:
                self.done = True
                return
        self._keep(chunk, data[start:], start)

    def _end_line(self, chunk: Chunk, end: bytes, start: int) -> tuple[str, bytes]:
        """Return a line that ends with these bytes of the chunk, and its position."""
        # Nearly all lines lie within one chunk and need no copy.
        if not self._pieces:
            return f"{chunk.prefix}{chunk.offset + start}", end

        line = b"".join([*self._pieces, end])
        self._pieces, self._num_bytes = [], 0
        return self._position, line

    def _keep(self, chunk: Chunk, data: bytes, start: int) -> None:
        """Keep the bytes of a line that goes on in the next chunk."""
        if not data:
            return
        if not self._pieces:
            self._position = f"{chunk.prefix}{chunk.offset + start}"
        self._pieces.append(data)
        self._num_bytes += len(data)

        # A file without newlines would otherwise fill the memory.
        if self._num_bytes > MAX_LINE_BYTES:
            offset = int(self._position.partition("+")[0])
            problem = f"the line at {self._position} is longer than {MAX_LINE_BYTES >> 20} MB"
            raise source_error(self._path, offset, problem, "write one record per line")

    def last_line(self) -> Iterator[tuple[str, bytes]]:
        """Yield the file's last line, if it has no newline."""
        if self._pieces and not self._skipping:
            yield self._position, b"".join(self._pieces)
