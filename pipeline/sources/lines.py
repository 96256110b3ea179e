"""Read the lines of a span, by the newline rule.

Every span except the one at the start of the file skips through its first newline, even where it
happens to start a line, and owns no line if it has no newline. Every span that owns a line reads on
past its end through the next newline. So each line comes from exactly one span, however the file is
cut. Memory: one chunk, and one line once; a line that is too long is passed over, not held.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

from pipeline.engine.tasks import ByteRange
from pipeline.sources.chunks import Chunk, LossHandler, StoredHandler, source_error
from pipeline.sources.opening import read_chunks
from schemas import bounded_lines

# What is kept of a line that is too long, for its reject.
START_BYTES = 2000
# Receives the position of a line that is too long, the reason, and the line's start.
LongHandler = Callable[[str, str, bytes], None]


def read_lines(
    span: ByteRange,
    on_loss: LossHandler | None = None,
    on_stored: StoredHandler | None = None,
    on_long: LongHandler | None = None,
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
        on_long: receives each line of more than 64 MB; without it, such a line raises.

    Raises:
        SourceError: corrupt input (unless `on_loss` takes it), or a line that is too long (unless
            `on_long` takes it).
    """
    assembler = _LineAssembler(span, on_long)
    for chunk in read_chunks(span, on_loss):
        yield from assembler.feed(chunk)
        if on_stored is not None:
            on_stored(chunk.stored)
        if assembler.done:
            return
    yield from assembler.last_line()


class _LineAssembler:
    """Split chunks into lines; keep the start of a line until its newline comes."""

    def __init__(self, span: ByteRange, on_long: LongHandler | None) -> None:
        self._path = span.path
        self._on_long = on_long
        self._max_bytes = bounded_lines.MAX_LINE_BYTES
        # Whether all bytes through the next newline belong to the span before.
        self._skipping = span.start != 0
        # The line that has started: what is kept of it, all its length, and its position. The
        # buffer's value is taken from it without a copy.
        self._kept = io.BytesIO()
        self._num_bytes = 0
        self._position = ""
        self.done = False

    def feed(self, chunk: Chunk) -> Iterator[tuple[str, bytes]]:
        """Yield the lines that end in the chunk."""
        # After a loss no one knows where a line starts: go on at the next newline.
        if chunk.broken:
            self._skipping, self._kept, self._num_bytes = True, io.BytesIO(), 0
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
            # Nearly all lines lie within one chunk and need no buffer.
            if not self._num_bytes and newline - start <= self._max_bytes:
                yield f"{chunk.prefix}{chunk.offset + start}", data[start : newline + 1]
            else:
                self._keep(chunk, data[start : newline + 1], start)
                yield from self._take()
            start = newline + 1
            # The first newline after the span ends its last line.
            if not chunk.owned:
                self.done = True
                return
        self._keep(chunk, data[start:], start)

    def _keep(self, chunk: Chunk, data: bytes, start: int) -> None:
        """Keep the bytes of a line that goes on in the next chunk.

        Raises:
            SourceError: the line is too long, and nobody takes such lines.
        """
        if not data:
            return
        if not self._num_bytes:
            self._position = f"{chunk.prefix}{chunk.offset + start}"
        was_too_long = self._num_bytes > self._max_bytes
        self._num_bytes += len(data) - data.endswith(b"\n")
        # A file without newlines would otherwise fill the memory.
        if self._num_bytes <= self._max_bytes:
            self._kept.write(data)
        elif not was_too_long:
            if self._on_long is None:
                offset = int(self._position.partition("+")[0])
                problem = f"the line at {self._position} is longer than {self._limit}"
                raise source_error(self._path, offset, problem, "write one record per line")
            with self._kept.getbuffer() as kept:
                start_bytes = bytes(kept[:START_BYTES]) + data[:START_BYTES]
            self._kept = io.BytesIO(start_bytes[:START_BYTES])

    @property
    def _limit(self) -> str:
        return f"{self._max_bytes / (1 << 20):g} MB"

    def _take(self) -> Iterator[tuple[str, bytes]]:
        """Yield the line that was kept; hand it over instead if it is too long."""
        if self._num_bytes <= self._max_bytes:
            # Nothing here holds the line while the consumer works on it.
            yield self._position, self._emptied()
            return
        if self._on_long is not None:
            reason = f"the line is longer than {self._limit}"
            self._on_long(self._position, reason, self._emptied())

    def _emptied(self) -> bytes:
        """Return what was kept, and begin anew; the value is the buffer's own, no copy."""
        kept, self._kept, self._num_bytes = self._kept, io.BytesIO(), 0
        return kept.getvalue()

    def last_line(self) -> Iterator[tuple[str, bytes]]:
        """Yield the file's last line, if it has no newline."""
        if self._num_bytes and not self._skipping:
            yield from self._take()
