"""Named flat arrays in one file (the safetensors format), written whole, read memory-mapped without a copy."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from pipeline.engine import files
from pipeline.engine.errors import StageError
from schemas.array_types import Array

KINDS = {
    "U8": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "I64": np.int64,
    "F32": np.float32,
}
_LENGTH_BYTES = 8


def save_sections(path: str, arrays: Mapping[str, Array]) -> None:
    """Write arrays as one file. Memory: a copy of them all."""
    files.write_bytes(
        path, save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    )


def map_sections(path: str) -> dict[str, Array]:
    """Arrays of a local file: read-only views of one map of it, 50 µs; pages are read when they are touched.

    Raises:
        StageError: no such file, or not whole.
    """
    try:
        with Path(path).open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
        header = json.loads(content[_LENGTH_BYTES:start])
        return {
            name: _view(content, start, entry)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError) as error:
        raise StageError(
            f"{path}: cannot be read or is not whole ({error}); run `trelm-pipeline index --redo`"
        ) from error


def section_lengths(path: str) -> dict[str, int]:
    """How many values each array of a file has; reads the file's beginning, on any file system."""
    with files.open_read(path) as file:
        header = json.loads(file.read(int.from_bytes(file.read(_LENGTH_BYTES), "little")))
    return {name: entry["shape"][0] for name, entry in header.items() if name != "__metadata__"}


def _view(content: mmap.mmap, start: int, entry: dict[str, Any]) -> Array:
    low, high = entry["data_offsets"]
    kind = np.dtype(KINDS[entry["dtype"]])
    return np.frombuffer(content, kind, (high - low) // kind.itemsize, start + low)
