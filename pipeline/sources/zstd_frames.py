"""Read zstd frames, as pzstd, the seekable format and `cat a.zst b.zst` write them.

Decoding gives about 1 GB/s per core. A frame gives the length of each of its blocks, so it is fed
to the decoder block by block: at most 128 KB come out of each, no matter what the input holds.
Memory: the frame's window (8 MB by default, at most 128 MB here) and 1 MB.
"""

from __future__ import annotations

from collections.abc import Iterator

import zstandard

from pipeline.sources.members import MemberError, StoredBytes

MAX_WINDOW_BYTES = 128 << 20
# The limit of a block, both as stored and as decoded.
MAX_BLOCK_BYTES = 128 << 10
MAX_HEADER_BYTES, BLOCK_HEADER_BYTES, CHECKSUM_BYTES, SKIPPABLE_HEADER_BYTES = 18, 3, 4, 8
# Kinds of block: RUN is one byte repeated; RESERVED is not in use.
RUN, RESERVED = 1, 3
SKIPPABLE = tuple(bytes([0x50 + number, 0x2A, 0x4D, 0x18]) for number in range(16))
CUT_OFF = "the file ends inside the zstd frame that starts here"


class ZstdFrames:
    """Read zstd frames: see `members.MemberFormat`."""

    name = "zstd frame"
    magic = b"\x28\xb5\x2f\xfd"
    one_member_advice = (
        "compress it again in frames (pzstd), or use Wikidata's own gz, to use all cores"
    )

    def starts_next(self, source: StoredBytes) -> bool:
        """Step over skippable frames; say whether a frame must start here.

        Skippable frames hold tables of frames, or sizes.

        Raises:
            MemberError: the bytes here are no start of a frame, or a skippable frame is cut off.
        """
        while (head := source.peek(SKIPPABLE_HEADER_BYTES)).startswith(SKIPPABLE):
            length = SKIPPABLE_HEADER_BYTES + int.from_bytes(head[4:], "little")
            if len(head) < SKIPPABLE_HEADER_BYTES or not _skip(source, length):
                raise MemberError("the file ends inside the skippable zstd frame that starts here")

        # At the end of the file the head may be shorter than the magic.
        if head and not head.startswith(self.magic[: len(head)]):
            raise MemberError("no zstd frame starts here, where the previous frame ended")
        return bool(head)

    def decode(self, source: StoredBytes, num_bytes: int) -> Iterator[bytes]:
        """Yield pieces of at most `num_bytes` or one block; check the frame's checksum, if any.

        Raises:
            MemberError: the frame is corrupt, cut off, or beyond our limits.
        """
        header, has_checksum = _take_header(source)
        decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()

        # Blocks are collected until they could decode to `num_bytes`: single calls would cost too
        # much.
        blocks, is_last = [header], False
        while not is_last:
            block, is_last = _take_block(source)
            blocks.append(block)
            if is_last and has_checksum:
                blocks.append(_take(source, CHECKSUM_BYTES))

            if is_last or len(blocks) * MAX_BLOCK_BYTES >= num_bytes:
                try:
                    decoded = decoder.decompress(b"".join(blocks))
                except zstandard.ZstdError as error:
                    problem = f"the zstd frame that starts here is corrupt ({error})"
                    raise MemberError(problem) from error
                blocks = []
                if decoded:
                    yield decoded


def _take(source: StoredBytes, num_bytes: int) -> bytes:
    """Return exactly this number of bytes.

    Raises:
        MemberError: the file ends before.
    """
    data = source.take(num_bytes)
    if len(data) < num_bytes:
        raise MemberError(CUT_OFF)
    return data


def _skip(source: StoredBytes, num_bytes: int) -> bool:
    """Pass over bytes; say whether the file had all of them."""
    # In small steps: a header may claim 4 GB.
    while num_bytes > 0 and (data := source.take(min(num_bytes, MAX_BLOCK_BYTES))):
        num_bytes -= len(data)
    return num_bytes == 0


def _take_header(source: StoredBytes) -> tuple[bytes, bool]:
    """Return the frame's header, and whether a checksum ends the frame.

    Raises:
        MemberError: no readable header, or a frame that needs a large window or a dictionary.
    """
    head = source.peek(MAX_HEADER_BYTES)
    try:
        num_bytes = zstandard.frame_header_size(head)
        parameters = zstandard.get_frame_parameters(head)
    except zstandard.ZstdError as error:
        cut_off = len(head) < MAX_HEADER_BYTES
        problem = CUT_OFF if cut_off else f"the zstd frame that starts here is corrupt ({error})"
        raise MemberError(problem) from error

    # Such frames are sound: is_damage is false, so that they are never skipped as corrupt.
    if parameters.window_size > MAX_WINDOW_BYTES:
        needed, limit = -(-parameters.window_size >> 20), MAX_WINDOW_BYTES >> 20
        problem = (
            f"the zstd frame that starts here needs a window of {needed} MB, "
            f"the limit is {limit} MB"
        )
        advice = "compress it again without --ultra and with at most --long=27"
        raise MemberError(problem, advice, is_damage=False)
    if parameters.dict_id:
        problem = f"the zstd frame that starts here needs the dictionary {parameters.dict_id}"
        raise MemberError(problem, "compress it again without a dictionary", is_damage=False)
    return _take(source, num_bytes), parameters.has_checksum


def _take_block(source: StoredBytes) -> tuple[bytes, bool]:
    """Return a whole block, header included, and whether it is the frame's last.

    Raises:
        MemberError: no such block can exist, or it is cut off.
    """
    # The header has three bytes: one bit "last", two bits of kind, 21 bits of size.
    header = int.from_bytes(source.peek(BLOCK_HEADER_BYTES), "little")
    is_last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
    if kind == RESERVED or size > MAX_BLOCK_BYTES:
        raise MemberError("the zstd frame that starts here is corrupt (impossible block)")

    # A block of kind RUN stores one byte; its size is that of the decoded bytes.
    stored_size = 1 if kind == RUN else size
    return _take(source, BLOCK_HEADER_BYTES + stored_size), is_last
