"""Write flat numpy arrays, here or in a bucket, read them memory-mapped. Never pickled."""

from __future__ import annotations

import fcntl
import hashlib
import io
import itertools
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.local_listing import FileEntry
from schemas.array_types import Array
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

    The copy is made once. Its name is a hash of the address and of what the folder holds, so all
    processes of a machine share it, and none finds an older state of the folder.
    """
    if files.is_local(folder):
        return folder

    entries = files.list_files(files.join(folder, "*"))
    stamps = "\n".join([folder, *(entry.stamp for entry in entries)])
    name = f"trelm-{hashlib.sha256(stamps.encode()).hexdigest()[:16]}"
    target = Path(tempfile.gettempdir()) / name
    # One process copies, the others wait for it. The lock ends with its process.
    with target.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _copy(entries, target)
    return str(target)


def _copy(entries: Iterable[FileEntry], target: Path) -> None:
    """Copy files into a folder, which appears whole."""
    # Beside the target, since only a rename within one file system is atomic.
    scratch = Path(tempfile.mkdtemp(prefix="trelm-copy-", dir=target.parent))
    try:
        for entry in entries:
            copy_path = scratch / Path(entry.path).name
            with files.open_read(entry.path) as source, copy_path.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 22)
        scratch.rename(target)
    except BaseException as error:
        shutil.rmtree(scratch, ignore_errors=True)
        if isinstance(error, OSError):
            raise files.unwritable(str(target), error) from error
        raise
