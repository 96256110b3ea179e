"""Join several bz2 streams to one: their blocks follow each other bit by bit under one header and
one end mark.

So the parts of a single-stream file, the form of Wikidata's, can be compressed on all cores. A
stream's end mark holds a checksum of its blocks' checksums, c = rotate(c, 1) ^ block: linear, so
those of parts combine, given their numbers of blocks.
"""

from __future__ import annotations

from typing import IO

HEADER_BITS, MAGIC_BITS, CRC_BITS = 32, 48, 32
BLOCK_MAGIC, END_MAGIC = 0x314159265359, 0x177245385090
CRC_MASK = (1 << CRC_BITS) - 1


class SingleStream:
    """Write parts, each a bz2 stream of its own of the same level, as one stream."""

    def __init__(self, file: IO[bytes], level: int) -> None:
        self._file = file
        self._bits, self._num_bits = 0, 0  # fewer than 8, not yet written
        self._crc = 0
        file.write(b"BZh%d" % level)

    def add(self, part: bytes) -> None:
        """Append the blocks of a stream."""
        bits = int.from_bytes(part, "big")
        padding = next(
            shift
            for shift in range(8)
            if bits >> (shift + CRC_BITS) & ((1 << MAGIC_BITS) - 1) == END_MAGIC
        )
        crc = bits >> padding & CRC_MASK
        num_bits = len(part) * 8 - HEADER_BITS - MAGIC_BITS - CRC_BITS - padding
        blocks = bits >> (padding + CRC_BITS + MAGIC_BITS) & ((1 << num_bits) - 1)
        self._crc = _rotate(self._crc, count_blocks(blocks, num_bits)) ^ crc
        self._put(blocks, num_bits)

    def finish(self) -> None:
        """Write the end mark."""
        self._put(END_MAGIC << CRC_BITS | self._crc, MAGIC_BITS + CRC_BITS)
        self._put(0, -self._num_bits % 8)

    def _put(self, bits: int, num_bits: int) -> None:
        total = self._num_bits + num_bits
        whole = self._bits << num_bits | bits
        rest = total % 8
        self._file.write((whole >> rest).to_bytes(total // 8, "big"))
        self._bits, self._num_bits = whole & ((1 << rest) - 1), rest


def count_blocks(bits: int, num_bits: int) -> int:
    """Count the blocks in a run of blocks.

    Each starts with a magic number, at any bit. By chance it also stands elsewhere, once in 2**48
    bits.
    """
    magic = BLOCK_MAGIC.to_bytes(6, "big")
    data = (bits << (-num_bits % 8)).to_bytes((num_bits + 7) // 8, "big")
    found = 0
    for shift in range(8):
        shifted = (
            data
            if shift == 0
            else (int.from_bytes(data, "big") << shift).to_bytes(len(data) + 1, "big")
        )
        found += shifted.count(magic)
    return found


def _rotate(crc: int, times: int) -> int:
    times %= CRC_BITS
    return (crc << times | crc >> (CRC_BITS - times)) & CRC_MASK
