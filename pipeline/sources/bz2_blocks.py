"""Read bzip2 files, of one stream or many, by byte ranges: block by block.

A block starts at any bit, with a 48-bit magic; the end of a stream has another. A block ends at the
next magic of either kind, belongs to the range that holds its first bit, and is decoded as a stream
of its own, which checks its CRC. Search: about 1 GB/s of stored bytes; decoding (the standard
library): about 55 MB/s of decoded bytes per core.
"""

from __future__ import annotations

import bz2
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from pipeline.engine.tasks import ByteRange
from pipeline.sources.chunks import CHUNK_BYTES, Chunk, LossHandler, SourceError, source_error
from schemas.array_types import Bools

BLOCK_MAGIC = 0x314159265359
END_MAGIC = 0x177245385090
MAGIC_BITS, CRC_BITS, HEADER_BYTES = 48, 32, 4
HEADER = re.compile(rb"BZh[1-9]")
# 2 MB: a block of 900 KB of noise takes less.
MAX_BLOCK_BITS = 16 << 20
ADVICE = (
    "the file is damaged or incomplete: "
    "download it again, or set skip_corrupt to lose only this block"
)


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Magic:
    """Hold the bit of the file at which the magic of a block, or of a stream's end, starts."""

    bit: int
    is_block: bool


def _pair_table(offset: int) -> Bools:
    """Build a table of the byte pairs that a magic can have at an offset, at any of 8 bit shifts.

    Returns:
        Shape (65536,): whether two bytes, read as a little-endian number, are such a pair.
    """
    table = np.zeros(1 << 16, np.bool_)
    for magic in (BLOCK_MAGIC, END_MAGIC):
        for shift in range(8):
            shifted = (magic << (8 - shift)).to_bytes(7, "big")
            table[int.from_bytes(shifted[offset : offset + 2], "little")] = True
    return table


# Bytes 1 to 4 of a magic hold only bits of the magic, at every shift.
FIRST_PAIR, SECOND_PAIR = _pair_table(1), _pair_table(3)


def find_magics(window: bytes, num_bytes: int) -> list[Magic]:
    """Find the magics whose first bit lies in the first `num_bytes` bytes of a window.

    Bits are counted from the window's start.
    """
    magics = []
    for start in _candidates(window):
        # Seven bytes hold a magic at any shift; the end of the file is padded.
        seven_bytes = int.from_bytes(window[start : start + 7].ljust(7, b"\0"), "big")
        for shift in range(8):
            value = seven_bytes >> (8 - shift) & ((1 << MAGIC_BITS) - 1)
            if value in (BLOCK_MAGIC, END_MAGIC) and start < num_bytes:
                magics.append(Magic(bit=start * 8 + shift, is_block=value == BLOCK_MAGIC))
    return sorted(magics)


def _candidates(window: bytes) -> list[int]:
    """Find the bytes at which a magic may start, at about 1 GB/s.

    The four bytes after such a byte look like a magic.
    """
    if len(window) < 6:
        return []

    # Byte pairs at even bytes, then at odd ones: 16 bits index the tables without a copy of the
    # window.
    pairs = [np.frombuffer(window, "<u2", (len(window) - start) // 2, start) for start in (0, 1)]
    matches = [np.flatnonzero(FIRST_PAIR[pair]) for pair in pairs]

    candidates = []
    for start, pair, match in zip((0, 1), pairs, matches, strict=True):
        # `match` holds pair numbers; the second pair of a magic follows the first.
        with_next = match[match + 1 < len(pair)]
        both_match = with_next[SECOND_PAIR[pair[with_next + 1]]]
        # The tables begin with byte 1 of a magic, so it starts one byte before the pair.
        candidates += (2 * both_match + start - 1).tolist()
    return sorted(candidate for candidate in candidates if candidate >= 0)


def iter_magics(file: IO[bytes], start: int) -> Iterator[Magic]:
    """Yield all magics from byte `start` on, in order."""
    # A magic that starts in the last bit of a window ends in the sixth byte after it.
    overlap = 6
    while True:
        file.seek(start)
        window = file.read(CHUNK_BYTES + overlap)
        for magic in find_magics(window, CHUNK_BYTES):
            yield Magic(bit=start * 8 + magic.bit, is_block=magic.is_block)

        if len(window) < CHUNK_BYTES + overlap:
            return
        start += CHUNK_BYTES


def decode_block(file: IO[bytes], start: int, end: int) -> bytes | None:
    """Return bits start to end, decoded as one block; None if they are no block.

    The decoder checks the checksum of the block.
    """
    if end - start < MAGIC_BITS + CRC_BITS:
        return None

    file.seek(start // 8)
    stored = bytearray(file.read((end + 7) // 8 - start // 8))
    num_bits, spare = end - start, -end % 8
    # Clear the bits of the block before, and those of what follows.
    stored[0] &= 0xFF >> start % 8
    stored[-1] &= 0xFF << spare & 0xFF

    # A stream of one block has the block's CRC as its own: it stands after the block's magic.
    bits = int.from_bytes(stored, "big")
    crc = bits >> (spare + num_bits - MAGIC_BITS - CRC_BITS) & 0xFFFFFFFF
    total = num_bits + MAGIC_BITS + CRC_BITS
    padding = -total % 8
    end_mark = (END_MAGIC << CRC_BITS | crc) << padding
    # One shift brings the block to a byte boundary and makes room for the end mark: each shift
    # costs a pass over the block.
    stream = bits << (MAGIC_BITS + CRC_BITS + padding - spare) | end_mark

    decoder = bz2.BZ2Decompressor()
    try:
        decoded = decoder.decompress(b"BZh9" + stream.to_bytes((total + padding) // 8, "big"))
    except OSError:
        return None
    # With bits left over it was another block, which ended before: its stream's own end mark lies
    # between it and the damaged block that was looked for.
    return decoded if decoder.eof and not decoder.unused_data else None


class _Blocks:
    """Find and decode the blocks of a file from a byte on.

    Magics that were found ahead of the reader are remembered.
    """

    def __init__(self, file: IO[bytes], start: int) -> None:
        self._file = file
        self._magics = iter_magics(file, start)
        self._ahead: deque[Magic] = deque()

    def next_magic(self) -> Magic | None:
        """Return the next magic and consume it; None at the end of the file."""
        self._look(1)
        return self._ahead.popleft() if self._ahead else None

    def _look(self, count: int) -> bool:
        """Say whether there are `count` more magics; search for them if need be."""
        while len(self._ahead) < count:
            magic = next(self._magics, None)
            if magic is None:
                return False
            self._ahead.append(magic)
        return True

    def decode(self, start: int) -> bytes | None:
        """Return the decoded block at a bit; None if there is no such block.

        False magics inside the block are consumed.
        """
        # The bits of a magic can occur inside a block by chance: then the next magic is tried as
        # its end.
        count = 1
        while self._look(count) and self._ahead[count - 1].bit - start <= MAX_BLOCK_BITS:
            decoded = decode_block(self._file, start, self._ahead[count - 1].bit)
            if decoded is not None:
                for _ in range(count - 1):
                    self._ahead.popleft()
                return decoded
            count += 1
        return None

    def _is_inside_earlier(self, bit: int) -> bool:
        """Say whether a magic is false: inside a block that starts before it."""
        from_byte = max(bit - MAX_BLOCK_BITS, 0) // 8
        self._file.seek(from_byte)
        window = self._file.read(bit // 8 - from_byte + 6)

        magics = find_magics(window, len(window))
        block_starts = [magic.bit + from_byte * 8 for magic in magics if magic.is_block]
        earlier_starts = [start for start in block_starts if start < bit]
        if not earlier_starts:
            return False

        ends = [magic.bit for magic in self._ahead]
        return any(decode_block(self._file, earlier_starts[-1], end) is not None for end in ends)

    def problem_at_start(self) -> str:
        """Return what is wrong with the start of the file.

        Empty if a block, or the end of an empty stream, is there.
        """
        if not self._look(1):
            return "no bz2 block in the file"
        if self._ahead[0].bit == 8 * HEADER_BYTES:
            return ""
        return "no bz2 block starts where the first one must"

    def problem_at(self, magic: Magic) -> str:
        """Return why there is no block at a magic; empty if there need not be one."""
        if not magic.is_block:
            return self._problem_after_stream(magic.bit)
        if self._is_inside_earlier(magic.bit):
            return ""
        if not self._look(1):
            return "the file ends inside the bz2 block that starts here"
        return f"the bz2 block that starts here (bit {magic.bit % 8}) is corrupt"

    def _problem_after_stream(self, end_bit: int) -> str:
        """Return what is wrong after a stream.

        Empty at the end of the file, and where another stream follows.
        """
        # A stream ends with its magic and its CRC, padded to a byte.
        end_byte = (end_bit + MAGIC_BITS + CRC_BITS + 7) // 8
        self._file.seek(end_bit // 8)
        tail = self._file.read(end_byte - end_bit // 8 + 16)
        following = tail[end_byte - end_bit // 8 :]

        if len(tail) < end_byte - end_bit // 8:
            return "the file ends inside the end mark of a bz2 stream"
        # Zeros may pad a file.
        if not following.strip(b"\0"):
            return ""

        has_magic = self._look(1) and self._ahead[0].bit == (end_byte + HEADER_BYTES) * 8
        if has_magic and HEADER.match(following):
            return ""
        return "no bz2 stream starts where the previous stream ended"


def bz2_chunks(
    file: IO[bytes], span: ByteRange, on_loss: LossHandler | None = None
) -> Iterator[Chunk]:
    """Yield one chunk per block: those that start in the span, then those after it.

    Raises:
        SourceError: a corrupt or truncated block, unless `on_loss` takes it.
    """
    blocks = _Blocks(file, span.start)
    if span.start == 0 and (problem := blocks.problem_at_start()):
        yield _lost(source_error(span.path, 0, problem, ADVICE), on_loss, 0, owned=True)

    while (magic := blocks.next_magic()) is not None:
        start = magic.bit // 8
        owned = start < span.end
        decoded = blocks.decode(magic.bit) if magic.is_block else None
        if decoded is not None:
            yield Chunk(data=decoded, prefix=f"{start}+", offset=0, owned=owned, stored=start)
        elif problem := blocks.problem_at(magic):
            error = source_error(span.path, start, problem, ADVICE)
            yield _lost(error, on_loss, start, owned=owned)


def _lost(error: SourceError, on_loss: LossHandler | None, start: int, *, owned: bool) -> Chunk:
    """Report a loss; return the chunk that marks it.

    A loss after the span is reported by the span that owns the block.
    """
    if on_loss is None:
        raise error
    if owned:
        on_loss(error)
    return Chunk(data=b"", prefix="", offset=0, owned=owned, stored=start, broken=True)
