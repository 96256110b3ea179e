"""Store the notes of the memory bank: in main memory, in a sparse file, or on the model's device.

A number of rows of 2 x H float16 (4 H bytes) goes in. A store whose rows are all zero comes out at
once; only rows that were written cost memory or disk. A row holds both notes side by side: 3 KB at
hidden size 768, one or two pages.

The file has no name: a run that was killed leaves nothing behind, and no other run can read it. It
is read through a memory map and written by `pwrite`, since a full disk is an error there, while in
a map it is a signal that ends the process.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from schemas.array_types import I64
from schemas.errors import ConfigError, TrelmError
from schemas.machine import total_memory
from trelm_train.config import MemoryConfig

# Legend: B rows of the bank, U distinct rows, H hidden size; the 2 are the local and the global
# note.

F16 = npt.NDArray[np.float16]
log = logging.getLogger(__name__)
# Size of a trial file that shows whether holes take room.
TRIAL_BYTES = 4 << 20
# The unit of st_blocks.
BLOCK_BYTES = 512


class NoteStore(Protocol):
    """Keep rows of notes by number; a row that was never put is zero."""

    def gather(self, row_U: I64) -> Tensor:
        """Copy both notes of some rows: U x 2 x H float16."""

    def put(self, row_U: I64, note_U2H: Tensor) -> None:
        """Write distinct rows, in ascending order."""

    def clear(self) -> None:
        """Make every row zero again."""

    @property
    def disk_bytes(self) -> int:
        """Return the bytes that it takes on disk at present."""


def note_bytes(num_rows: int, hidden_size: int) -> int:
    """Return the bytes of all notes when every row has been written."""
    return 4 * num_rows * hidden_size


def ranks_here() -> int:
    """Return how many processes train together on this machine, each with a model and a bank.

    torchrun sets the number.
    """
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def pick_storage(config: MemoryConfig, num_rows: int, hidden_size: int) -> str:
    """Return the configured storage.

    `auto` is the file when all notes, of all ranks here, exceed their share of main memory.
    """
    if config.storage != "auto":
        return config.storage

    # Every rank has a bank of its own in the same memory.
    all_bytes = ranks_here() * note_bytes(num_rows, hidden_size)
    return "file" if all_bytes > config.ram_share * total_memory() else "ram"


def make_store(
    config: MemoryConfig,
    num_rows: int,
    hidden_size: int,
    *,
    folder: Path | None,
    device: torch.device,
) -> NoteStore:
    """Make an empty store of the configured kind.

    `folder` is where a file goes if `memory.folder` is empty.

    Raises:
        ConfigError: a file is configured, and there is no folder that can be written and has sparse
            files.
        TrelmError: not enough memory or disk.
    """
    storage = pick_storage(config, num_rows, hidden_size)
    if storage == "device":
        return DeviceStore(num_rows, hidden_size, device)
    if storage == "ram":
        return RamStore(num_rows, hidden_size)

    file_folder = Path(config.folder) if config.folder else folder
    if file_folder is None:
        raise ConfigError("memory.storage 'file' needs a folder; set memory.folder")
    return FileStore(num_rows, hidden_size, file_folder)


class RamStore:
    """Keep notes in anonymous memory.

    A page that was never written takes no room; huge pages would spoil that.
    """

    disk_bytes = 0

    def __init__(self, num_rows: int, hidden_size: int) -> None:
        self.shape = (num_rows, 2, hidden_size)
        self.clear()

    def clear(self) -> None:
        """Take a fresh mapping; the old one goes with its last reader.

        Raises:
            TrelmError: not enough main memory.
        """
        num_bytes = note_bytes(self.shape[0], self.shape[2])
        try:
            # A map of length 0 is an error, also for a bank without rows.
            memory = mmap.mmap(-1, max(1, num_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise TrelmError(
                f"memory bank of {_gb(num_bytes)}: no room in main memory ({error.strerror}); "
                "set memory.storage = 'file'"
            ) from error

        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            try:
                memory.madvise(mmap.MADV_NOHUGEPAGE)
            except OSError:
                # A kernel without huge pages refuses advice on them.
                log.debug("no advice on huge pages")

        self.note_B2H: F16 = np.frombuffer(memory, np.float16, num_bytes // 2).reshape(self.shape)

    def gather(self, row_U: I64) -> Tensor:
        """Copy both notes of some rows: U x 2 x H float16."""
        return torch.from_numpy(self.note_B2H[row_U])

    def put(self, row_U: I64, note_U2H: Tensor) -> None:
        """Write distinct rows."""
        # Only the pages of these rows are taken from the system.
        self.note_B2H[row_U] = note_U2H.cpu().numpy()


class FileStore:
    """Keep notes in a sparse file without a name.

    Raises:
        ConfigError: the folder cannot be written, or does not support sparse files.
        TrelmError: the folder takes no file of that size.
    """

    def __init__(self, num_rows: int, hidden_size: int, folder: Path) -> None:
        self.shape, self.folder = (num_rows, 2, hidden_size), folder
        self.row_bytes = note_bytes(1, hidden_size)
        self.num_bytes = num_rows * self.row_bytes
        self.handle = _open_nameless(folder)
        # The handle is the only way to the file: when it closes, the file is gone.
        weakref.finalize(self, os.close, self.handle)
        self._check_holes()
        self.clear()

        # Perhaps the run never writes every row, so too little free room is no error here.
        free = shutil.disk_usage(folder).free
        if free < self.num_bytes:
            log.warning(
                "%s: the memory bank takes %s once every row is written, and %s are free here; "
                "memory.folder puts it elsewhere",
                folder, _gb(self.num_bytes), _gb(free),
            )  # fmt: skip

        # Rows are read here and there: reading ahead would be wasted.
        memory = mmap.mmap(self.handle, max(1, self.num_bytes), mmap.MAP_SHARED, mmap.PROT_READ)
        if hasattr(mmap, "MADV_RANDOM"):
            memory.madvise(mmap.MADV_RANDOM)
        self.note_B2H: F16 = np.frombuffer(memory, np.float16, self.num_bytes // 2).reshape(
            self.shape
        )

    def _check_holes(self) -> None:
        """Refuse a filesystem where a file of holes takes room."""
        self._resize(TRIAL_BYTES)
        if self.disk_bytes > TRIAL_BYTES // 2:
            raise ConfigError(
                f"{self.folder}: this filesystem has no sparse files, the memory bank would take "
                f"all of {_gb(self.num_bytes)} at once; set memory.folder to a folder on another, "
                "or memory.storage = 'ram'"
            )

    def _resize(self, num_bytes: int) -> None:
        try:
            os.ftruncate(self.handle, num_bytes)
        except OSError as error:
            raise TrelmError(self._message("cannot make a file of that size", error)) from error

    def _message(self, failure: str, error: OSError) -> str:
        return (
            f"{self.folder}: memory bank of up to {_gb(self.num_bytes)}: {failure} "
            f"({error.strerror}); make room and resume, or set memory.folder to a folder on "
            "another disk"
        )

    @property
    def disk_bytes(self) -> int:
        """Return the bytes of the blocks in use."""
        return os.fstat(self.handle).st_blocks * BLOCK_BYTES

    def clear(self) -> None:
        """Make every row a hole again."""
        # Cutting to nothing and growing again leaves one hole, faster than writing zeros.
        self._resize(0)
        self._resize(max(1, self.num_bytes))

    def gather(self, row_U: I64) -> Tensor:
        """Copy both notes of some rows: U x 2 x H float16."""
        return torch.from_numpy(self.note_B2H[row_U])

    def put(self, row_U: I64, note_U2H: Tensor) -> None:
        """Write distinct rows in ascending order, with one call per run of neighbouring rows.

        Raises:
            TrelmError: the disk is full.
        """
        # Bytes, so that a run of rows is a slice of memory and goes to the disk without a copy.
        data = np.ascontiguousarray(note_U2H.cpu().numpy()).reshape(-1).view(np.uint8).data

        # Where a row does not follow its predecessor, a new run begins.
        breaks = np.flatnonzero(np.diff(row_U) != 1) + 1
        borders = np.concatenate([np.zeros(1, np.int64), breaks, np.asarray([len(row_U)])]).tolist()
        rows = row_U.tolist()
        for start, end in zip(borders[:-1], borders[1:], strict=True):
            if start < end:
                run = data[start * self.row_bytes : end * self.row_bytes]
                self._write(run, rows[start] * self.row_bytes)

    def _write(self, data: memoryview, offset: int) -> None:
        """Write all of the data; one call may write less than it was given."""
        while len(data):
            try:
                num_written = os.pwrite(self.handle, data, offset)
            except OSError as error:
                is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                failure = "the disk is full" if is_full else "cannot write"
                raise TrelmError(self._message(failure, error)) from error
            data, offset = data[num_written:], offset + num_written


class DeviceStore:
    """Keep notes in one tensor on the model's device, all of it allocated.

    Raises:
        TrelmError: not enough memory on the device.
    """

    disk_bytes = 0

    def __init__(self, num_rows: int, hidden_size: int, device: torch.device) -> None:
        try:
            self.note_B2H = torch.zeros(
                num_rows, 2, hidden_size, dtype=torch.float16, device=device
            )
        except (torch.OutOfMemoryError, RuntimeError) as error:
            size = _gb(note_bytes(num_rows, hidden_size))
            raise TrelmError(
                f"memory bank of {size}: no room on {device}; set memory.storage = 'ram' or 'file'"
            ) from error

    def clear(self) -> None:
        """Make every row zero again."""
        self.note_B2H.zero_()

    def gather(self, row_U: I64) -> Tensor:
        """Copy both notes of some rows: U x 2 x H float16."""
        return self.note_B2H.index_select(0, torch.from_numpy(row_U).to(self.note_B2H.device))

    def put(self, row_U: I64, note_U2H: Tensor) -> None:
        """Write distinct rows."""
        device = self.note_B2H.device
        self.note_B2H.index_copy_(0, torch.from_numpy(row_U).to(device), note_U2H.to(device))


def _open_nameless(folder: Path) -> int:
    """Open a file without a name in a folder, and return its handle.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(os, "O_TMPFILE"):
            try:
                return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except OSError as error:
                # With one of these errors the kernel or the filesystem lacks O_TMPFILE.
                if error.errno not in (errno.EISDIR, errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL):
                    raise

        # Elsewhere: a file that loses its name at once.
        handle, name = tempfile.mkstemp(prefix=".memory-bank-", dir=folder)
        Path(name).unlink()
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot write the memory bank there ({error.strerror}); "
            "set memory.folder to a folder that can be written, or memory.storage = 'ram'"
        ) from error
    return handle


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
