"""Write flat numpy arrays, here or in a bucket, read them memory-mapped. Never pickled."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.engine import files
from pipeline.engine.errors import StageError
from schemas.array_types import Array
from schemas.bucket_cache import copy_of
from schemas.bucket_fetch import folder_files
from schemas.checksums import CHECKSUMS_NAME, damage_in


def save_array(path: str, values: Array) -> None:
    """Write an array as a .npy file, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    files.write_bytes(path, buffer.getvalue())


def save_joined(path: str, dtype: type[np.generic], length: int, pieces: Iterable[Array]) -> None:
    """Write the pieces of an array as one .npy file, whole or not at all.

    Memory: one piece at a time.

    Args:
        path: the file.
        dtype: of the file; each piece is converted to it.
        length: how many values all pieces have together.
        pieces: in the order of the file.
    """
    # np.save needs the whole array, so the header is written by hand and the pieces follow it.
    header = io.BytesIO()
    description = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": (length,),
    }
    np.lib.format.write_array_header_1_0(header, description)

    content = (np.ascontiguousarray(piece, dtype).tobytes() for piece in pieces)
    files.write_stream(path, itertools.chain([header.getvalue()], content))


def load_array(path: str) -> Array:
    """Map a local .npy file read-only."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        # An empty file section cannot be mapped: read the empty array instead.
        return np.load(path, allow_pickle=False)


def refuse_damage(folder: str) -> None:
    """Compare the files of a local folder with its `checksums.json`, where it has one.

    A file that is mapped and is not whole could end the process without a word.

    Raises:
        StageError: names the file.
    """
    if not (Path(folder) / CHECKSUMS_NAME).exists():
        return
    damage = damage_in(Path(folder))
    if damage:
        raise StageError(
            f"{damage}; `trelm-pipeline run --verify` makes again what is damaged in a run"
        )


def local_folder(folder: str) -> str:
    """Return a folder's path on this machine: its own, or that of a copy of a remote folder.

    The copy is made once per machine and compared with `checksums.json`, where the folder has one;
    `schemas.bucket_cache` says where it lies and when it goes.

    Raises:
        StageError: there is no room for it, or it is damaged.
    """
    if files.is_local(folder):
        return folder

    with files.told():
        return str(copy_of(folder, folder_files(folder, deep=False)))
