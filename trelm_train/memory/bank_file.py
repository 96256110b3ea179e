"""Write and read a memory bank as a safetensors file, piece by piece.

A bank goes in. One file comes out with the written rows alone (row, note, count, source: what
`MemoryBank.state` returns), the same bytes for the same bank. It is for banks whose written rows
would not fit into memory a second time; the file is an ordinary one, which any reader of
safetensors can map. Its metadata hold a CRC-32 of the data, since a changed byte would be another
note.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from schemas.array_types import I64, Array
from schemas.errors import ConfigError, TrelmError
from trelm_train.memory.memory_bank import PIECE, MemoryBank

# Legend: T written rows; the 2 are the local and the global note.

# Bytes: the header ends at a multiple of this, so that a mapped number is aligned.
ALIGNMENT = 8
# What safetensors calls the part of its header that is no tensor, and our key in it.
METADATA, CHECKSUM = "__metadata__", "crc32"
BLOCK_BYTES = 1 << 20


def write_bank(bank: MemoryBank, path: Path) -> None:
    """Write the rows that were written, and wait until they are on the disk.

    Raises:
        TrelmError: the disk is full, or the folder cannot be written.
    """
    row_T = np.flatnonzero(bank.count_B)
    try:
        with path.open("wb") as file:
            # The checksum is known when all is written: until then zeros stand in its place.
            file.write(_header(len(row_T), bank.hidden_size, 0))
            checksum = 0
            for piece in _pieces(bank, row_T):
                # Raw memory, which has the byte order of the format on all usual machines.
                content = np.ascontiguousarray(piece).data
                checksum = zlib.crc32(content, checksum)
                file.write(content)
            file.seek(0)
            file.write(_header(len(row_T), bank.hidden_size, checksum))
            _sync(file)
    except OSError as error:
        raise TrelmError(
            f"{path}: cannot write the memory bank ({error.strerror}); make room, and resume"
        ) from error


def _header(num_rows: int, hidden_size: int, checksum: int) -> bytes:
    """Return the header of a safetensors file: its length, then where each tensor lies.

    It is as long for any checksum.
    """
    # Name → type, shape, bytes per row; in the order in which the tensors are written.
    tensors = {
        "note": ("F16", [num_rows, 2, hidden_size], 4 * hidden_size),
        "row": ("I64", [num_rows], 8),
        "count": ("I64", [num_rows], 8),
        "source": ("I64", [num_rows], 8),
    }

    fields: dict[str, dict[str, Any]] = {METADATA: {CHECKSUM: f"{checksum:08x}"}}
    offset = 0
    for name, (dtype, shape, row_bytes) in tensors.items():
        end = offset + num_rows * row_bytes
        fields[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end

    # No blanks and a fixed order of keys: the same bank gives the same bytes.
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _pieces(bank: MemoryBank, row_T: I64) -> Iterator[Array]:
    """Yield the data in the order of the header."""
    for start in range(0, len(row_T), PIECE):
        yield bank.store.gather(row_T[start : start + PIECE]).cpu().numpy()
    yield row_T
    yield bank.count_B[row_T]
    yield bank.source_B[row_T]


def check_bank(path: Path) -> None:
    """Compare a file's data with the checksum that it carries.

    Raises:
        ConfigError: no such file, or a damaged one.
    """
    try:
        with safe_open(path, framework="np") as file:
            _check(path, file.metadata() or {})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: no memory bank there, or a damaged one ({error})") from error


def _check(path: Path, metadata: dict[str, str]) -> None:
    """Compare the data with their checksum; files of older versions have none.

    Raises:
        ConfigError: they are not as they were written.
    """
    if CHECKSUM not in metadata:
        return
    checksum = 0
    with path.open("rb") as file:
        file.seek(int.from_bytes(file.read(8), "little"), os.SEEK_CUR)
        while block := file.read(BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    if f"{checksum:08x}" != metadata[CHECKSUM]:
        raise ConfigError("it was changed after it was written: its checksum is another one")


def _sync(file: BinaryIO) -> None:
    file.flush()
    # A checkpoint is renamed after this, so the data must be on the disk and not in a cache.
    os.fsync(file.fileno())


def read_bank(bank: MemoryBank, path: Path) -> None:
    """Replace everything that was written into a bank by a saved one.

    Raises:
        ConfigError: no such file, a damaged one, a bank of another size, or notes that are not
            finite.
        TrelmError: the disk of the bank is full.
    """
    try:
        with safe_open(path, framework="pt") as file:
            _check(path, file.metadata() or {})
            bank.load(
                {name: file.get_tensor(name) for name in ("row", "count", "source")},
                # A slice of the file reads only what `load` asks for: a piece at a time.
                notes=file.get_slice("note"),
            )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: no memory bank there, or a damaged one ({error})") from error
