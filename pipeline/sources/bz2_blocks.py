"""bzip2 files, one stream or many, read by byte ranges, block by block.

A block starts at any bit, with a 48-bit magic; the end of a stream has another. A block ends at the next magic of
either kind, belongs to the range that holds its first bit, and is decoded as a stream of its own, which checks its CRC.
Search: about 1 GB/s of stored bytes; decoding (the standard library): about 55 MB/s of decoded bytes per core.
"""

from __future__ import annotations

import bz2
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from pipeline.sources.chunks import CHUNK_BYTES, Chunk, LossHandler, SourceError, Span, source_error
from schemas.array_types import Array

BLOCK_MAGIC = 0x314159265359
END_MAGIC = 0x177245385090
MAGIC_BITS, CRC_BITS, HEADER_BYTES = 48, 32, 4
HEADER = re.compile(rb"BZh[1-9]")
MAX_BLOCK_BITS = 16 << 20  # 2 MB: a block of 900 KB of noise takes less
ADVICE = "the file is damaged or incomplete: download it again, or set skip_corrupt to lose only this block"


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Magic:
    """A magic found at a bit of the file."""

    bit: int
    is_block: bool


def _pair_table(place: int) -> Array:
    """Whether two bytes (as a number) may be those at a place of a magic, at any of 8 bit shifts."""
    table = np.zeros(1 << 16, np.bool_)
    for value in (BLOCK_MAGIC, END_MAGIC):
        for shift in range(8):
            shifted = (value << (8 - shift)).to_bytes(7, "big")
            table[int.from_bytes(shifted[place : place + 2], "little")] = True
    return table


FIRST_PAIR, SECOND_PAIR = _pair_table(1), _pair_table(3)  # bytes 1 to 4 are whole at every shift


def find_magics(window: bytes, num_bytes: int) -> list[Magic]:
    """Magics whose first bit lies in the first `num_bytes` bytes; bits are counted from the window's start."""
    found = []
    for first in _candidates(window):
        value = int.from_bytes(window[first : first + 7].ljust(7, b"\0"), "big")
        for shift in range(8):
            magic = value >> (8 - shift) & ((1 << MAGIC_BITS) - 1)
            if magic in (BLOCK_MAGIC, END_MAGIC) and first < num_bytes:
                found.append(Magic(bit=first * 8 + shift, is_block=magic == BLOCK_MAGIC))
    return sorted(found)


def _candidates(window: bytes) -> list[int]:
    """Bytes at which a magic may start: four bytes after it look like one. About 1 GB/s."""
    if len(window) < 6:
        return []
    pairs = [np.frombuffer(window, "<u2", (len(window) - start) // 2, start) for start in (0, 1)]
    places = [np.flatnonzero(FIRST_PAIR[pair]) for pair in pairs]
    found = []
    for start, pair, place in zip((0, 1), pairs, places, strict=True):
        inside = place[place + 1 < len(pair)]
        found += (2 * inside[SECOND_PAIR[pair[inside + 1]]] + start - 1).tolist()
    return sorted(first for first in found if first >= 0)


def iter_magics(file: IO[bytes], start: int) -> Iterator[Magic]:
    """All magics from byte `start` on, in order."""
    overlap = 6  # a magic that starts in the last bit of a window ends in the sixth byte after it
    while True:
        file.seek(start)
        window = file.read(CHUNK_BYTES + overlap)
        for magic in find_magics(window, CHUNK_BYTES):
            yield Magic(bit=start * 8 + magic.bit, is_block=magic.is_block)
        if len(window) < CHUNK_BYTES + overlap:
            return
        start += CHUNK_BYTES


def decode_block(file: IO[bytes], start: int, end: int) -> bytes | None:
    """Decode bits start to end as one block; None if they are not one (checksum included)."""
    if end - start < MAGIC_BITS + CRC_BITS:
        return None
    file.seek(start // 8)
    stored = bytearray(file.read((end + 7) // 8 - start // 8))
    num_bits, spare = end - start, -end % 8
    stored[0] &= 0xFF >> start % 8  # bits of the block before,
    stored[-1] &= 0xFF << spare & 0xFF  # and of what follows
    bits = int.from_bytes(stored, "big")
    crc = bits >> (spare + num_bits - MAGIC_BITS - CRC_BITS) & 0xFFFFFFFF
    total = num_bits + MAGIC_BITS + CRC_BITS
    padding = -total % 8
    end_mark = (END_MAGIC << CRC_BITS | crc) << padding
    stream = (
        bits << (MAGIC_BITS + CRC_BITS + padding - spare) | end_mark
    )  # one shift: each costs a pass over the block
    decoder = bz2.BZ2Decompressor()
    try:
        decoded = decoder.decompress(b"BZh9" + stream.to_bytes((total + padding) // 8, "big"))
    except OSError:
        return None
    return decoded if decoder.eof else None


class _Blocks:
    """The blocks of a file from a byte on, with the magics seen ahead of the reader."""

    def __init__(self, file: IO[bytes], start: int) -> None:
        self._file = file
        self._found = iter_magics(file, start)
        self._ahead: deque[Magic] = deque()

    def next_magic(self) -> Magic | None:
        """The next magic, consumed."""
        self._look(1)
        return self._ahead.popleft() if self._ahead else None

    def _look(self, count: int) -> bool:
        while len(self._ahead) < count:
            magic = next(self._found, None)
            if magic is None:
                return False
            self._ahead.append(magic)
        return True

    def decode(self, start: int) -> bytes | None:
        """The block at a bit; consumes the false magics inside it. None if there is no such block."""
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
        """Whether a magic is false: part of a block that starts before it."""
        from_byte = max(bit - MAX_BLOCK_BITS, 0) // 8
        self._file.seek(from_byte)
        window = self._file.read(bit // 8 - from_byte + 6)
        earlier = [
            magic.bit + from_byte * 8
            for magic in find_magics(window, len(window))
            if magic.is_block
        ]
        starts = [found for found in earlier if found < bit]
        ends = [magic.bit for magic in self._ahead]
        return (
            any(decode_block(self._file, starts[-1], end) is not None for end in ends)
            if starts
            else False
        )

    def problem_at_start(self) -> str:
        """What is wrong with the start of the file; empty if a block or the end of an empty stream is there."""
        if not self._look(1):
            return "no bz2 block in the file"
        return (
            ""
            if self._ahead[0].bit == 8 * HEADER_BYTES
            else "no bz2 block starts where the first one must"
        )

    def problem_at(self, magic: Magic) -> str:
        """Why there is no block at a magic; empty if there need not be one."""
        if not magic.is_block:
            return self._problem_after_stream(magic.bit)
        if self._is_inside_earlier(magic.bit):
            return ""
        if not self._look(1):
            return "the file ends inside the bz2 block that starts here"
        return f"the bz2 block that starts here (bit {magic.bit % 8}) is corrupt"

    def _problem_after_stream(self, end_bit: int) -> str:
        """Empty at the end of the file, and where another stream follows."""
        end_byte = (end_bit + MAGIC_BITS + CRC_BITS + 7) // 8
        self._file.seek(end_bit // 8)
        tail = self._file.read(end_byte - end_bit // 8 + 16)
        rest = tail[end_byte - end_bit // 8 :]
        if len(tail) < end_byte - end_bit // 8:
            return "the file ends inside the end mark of a bz2 stream"
        if not rest.strip(b"\0"):
            return ""
        follows = self._look(1) and self._ahead[0].bit == (end_byte + HEADER_BYTES) * 8
        return (
            ""
            if follows and HEADER.match(rest)
            else "no bz2 stream starts where the one before ended"
        )


def bz2_chunks(file: IO[bytes], span: Span, on_loss: LossHandler | None = None) -> Iterator[Chunk]:
    """One chunk per block: those that start in the span, then those after it.

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
            yield _lost(
                source_error(span.path, start, problem, ADVICE), on_loss, start, owned=owned
            )


def _lost(error: SourceError, on_loss: LossHandler | None, start: int, *, owned: bool) -> Chunk:
    """Tell of a loss (one past the span is told by the span that owns it); comes back with the chunk that marks it."""
    if on_loss is None:
        raise error
    if owned:
        on_loss(error)
    return Chunk(data=b"", prefix="", offset=0, owned=owned, stored=start, broken=True)
