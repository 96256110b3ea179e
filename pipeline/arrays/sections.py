"""Keep named flat arrays in one file, in the safetensors format.

A file is written whole and read memory-mapped, without a copy.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import numpy as np
from safetensors.numpy import save

from pipeline.engine import files
from pipeline.engine.errors import StageError
from schemas.array_types import Array

# By the names that safetensors gives them.
DTYPES = {
    "U8": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "I64": np.int64,
    "F32": np.float32,
}
# A file begins with the length of its JSON header, little-endian.
_LENGTH_BYTES = 8
# The one key of the header that is no array.
_METADATA_KEY = "__metadata__"


class _Entry(TypedDict):
    """Describe one array, as the file's header does."""

    dtype: str
    shape: list[int]
    # First byte and one past the last, counted from the end of the header.
    data_offsets: tuple[int, int]


def save_sections(path: str, arrays: Mapping[str, Array]) -> None:
    """Write arrays as one file. Memory: a copy of them all."""
    contiguous = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    files.write_bytes(path, save(contiguous))


def map_sections(path: str) -> dict[str, Array]:
    """Return the arrays of a local file: read-only views of one map of it.

    Takes 50 µs; a page is read when it is touched.

    Raises:
        StageError: there is no such file, or it is not whole.
    """
    try:
        # The views keep the map alive, so the file itself may be closed.
        with Path(path).open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
        header = json.loads(content[_LENGTH_BYTES:start])
        return {
            name: _view(content, start, entry)
            for name, entry in header.items()
            if name != _METADATA_KEY
        }
    except (OSError, ValueError, KeyError) as error:
        raise StageError(
            f"{path}: cannot be read or is not whole ({error}); run `trelm-pipeline index --redo`"
        ) from error


def section_lengths(path: str) -> dict[str, int]:
    """Return how many values each array of a file has.

    Reads only the beginning of the file, on any file system.
    """
    with files.open_read(path) as file:
        header_length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = json.loads(file.read(header_length))
    return {name: entry["shape"][0] for name, entry in header.items() if name != _METADATA_KEY}


def _view(content: mmap.mmap, start: int, entry: _Entry) -> Array:
    low, high = entry["data_offsets"]
    dtype = np.dtype(DTYPES[entry["dtype"]])
    return np.frombuffer(content, dtype, (high - low) // dtype.itemsize, start + low)
