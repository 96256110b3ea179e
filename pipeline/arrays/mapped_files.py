"""Flat numpy arrays as files: written through Beam's file systems, read memory-mapped. Never pickled."""

from __future__ import annotations

import hashlib
import io
import itertools
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engine import files


def save_array(path: str, values: np.ndarray[Any, Any]) -> None:
    """Write an array as .npy, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    files.write_bytes(path, buffer.getvalue())


def save_joined(
    path: str, kind: type[np.generic], length: int, parts: Iterable[np.ndarray[Any, Any]]
) -> None:
    """Write parts, `length` values together, as one .npy of a kind, whole or not at all. Memory: one part."""
    header = io.BytesIO()
    description = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(kind)),
        "fortran_order": False,
        "shape": (length,),
    }
    np.lib.format.write_array_header_1_0(header, description)
    content = (np.ascontiguousarray(part, kind).tobytes() for part in parts)
    files.write_stream(path, itertools.chain([header.getvalue()], content))


def load_array(path: str) -> np.ndarray[Any, Any]:
    """Map a local .npy file; an empty array is read (it cannot be mapped)."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        return np.load(path, allow_pickle=False)


def local_folder(folder: str) -> str:
    """The folder itself where it is local, else a copy on this machine's disk, made once.

    The copy's name is the hash of the address, so all processes of a machine share it; it appears by a rename.
    """
    if files.REMOTE_MARK not in folder:
        return folder
    target = (
        Path(tempfile.gettempdir()) / f"trelm-{hashlib.sha256(folder.encode()).hexdigest()[:16]}"
    )
    if target.exists():
        return str(target)
    scratch = Path(tempfile.mkdtemp(prefix="trelm-copy-"))
    for metadata in files.list_files(files.join(folder, "*")):
        with (
            files.open_read(metadata.path) as source,
            (scratch / Path(metadata.path).name).open("wb") as copy,
        ):
            shutil.copyfileobj(source, copy)
    try:
        scratch.rename(target)
    except OSError:
        shutil.rmtree(scratch)  # another process was first: its copy is as good
    return str(target)
