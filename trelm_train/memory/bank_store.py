"""Where the notes of the memory bank lie: main memory, a sparse file, or the model's device.

Goes in: a number of rows of 2 x H float16 (4 H bytes). Comes out: a store whose rows are all zero, made at once; only rows
that were written cost memory or disk. A row holds both notes side by side: 3 KB at hidden size 768, one or two pages.

The file has no name: nothing is left behind by a run that was killed, nothing can be read by another. It is read through a
memory map and written by `pwrite`, since a full disk is an error there and a deadly signal in a map.
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
from trelm_train.config import MemoryConfig
from trelm_train.errors import ConfigError, TrelmError

# Legend: B rows of the bank, U distinct rows, H hidden size; the 2 are the local and the global note.

F16 = npt.NDArray[np.float16]
log = logging.getLogger(__name__)
TRIAL_BYTES = 4 << 20  # of a file that shows whether holes take room
BLOCK_BYTES = 512  # unit of st_blocks
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class NoteStore(Protocol):
    """Rows of notes by number; a row that was never put is zero."""

    def gather(self, row_U: I64) -> Tensor:
        """Both notes of some rows, a copy: U x 2 x H float16."""

    def put(self, row_U: I64, note_U2H: Tensor) -> None:
        """Write distinct rows, in ascending order."""

    def clear(self) -> None:
        """Make every row zero again."""

    @property
    def disk_bytes(self) -> int:
        """What it takes on disk now."""


def note_bytes(num_rows: int, hidden_size: int) -> int:
    """Bytes of all notes when every row has been written."""
    return 4 * num_rows * hidden_size


def main_memory_bytes() -> int:
    """Main memory of the machine, or of the control group that this process is confined to."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in CGROUP_LIMITS:
        path = Path(name)
        text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def ranks_here() -> int:
    """Processes that train together on this machine, as torchrun says: each has a model and a bank."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def pick_storage(config: MemoryConfig, num_rows: int, hidden_size: int) -> str:
    """The storage asked for; `auto` is the file when all notes, of all ranks here, exceed their share of main memory."""
    if config.storage != "auto":
        return config.storage
    whole = ranks_here() * note_bytes(num_rows, hidden_size)
    return "file" if whole > config.ram_share * main_memory_bytes() else "ram"


def make_store(
    config: MemoryConfig,
    num_rows: int,
    hidden_size: int,
    *,
    folder: Path | None,
    device: torch.device,
) -> NoteStore:
    """An empty store of the configured kind; `folder` is where a file goes unless `memory.folder` says otherwise.

    Raises:
        ConfigError: a file is wanted, and there is no folder that can be written and has sparse files.
        TrelmError: not enough memory or disk.
    """
    storage = pick_storage(config, num_rows, hidden_size)
    if storage == "device":
        return DeviceStore(num_rows, hidden_size, device)
    if storage == "ram":
        return RamStore(num_rows, hidden_size)
    place = Path(config.folder) if config.folder else folder
    if place is None:
        raise ConfigError("memory.storage 'file' needs a folder; set memory.folder")
    return FileStore(num_rows, hidden_size, place)


class RamStore:
    """Anonymous memory: a page that was never written takes no room, which huge pages would spoil."""

    disk_bytes = 0

    def __init__(self, num_rows: int, hidden_size: int) -> None:
        self.shape = (num_rows, 2, hidden_size)
        self.clear()

    def clear(self) -> None:
        """Take a fresh mapping; the old one goes with its last reader."""
        num_bytes = note_bytes(self.shape[0], self.shape[2])
        try:
            memory = mmap.mmap(-1, max(1, num_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise TrelmError(
                f"memory bank of {_gb(num_bytes)}: no room in main memory ({error.strerror}); set memory.storage = 'file'"
            ) from error
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            try:
                memory.madvise(mmap.MADV_NOHUGEPAGE)
            except OSError:  # a kernel without huge pages
                log.debug("no advice on huge pages")
        self.note_B2H: F16 = np.frombuffer(memory, np.float16, num_bytes // 2).reshape(self.shape)

    def gather(self, row_U: I64) -> Tensor:
        """See `NoteStore`."""
        return torch.from_numpy(self.note_B2H[row_U])

    def put(self, row_U: I64, note_U2H: Tensor) -> None:
        """See `NoteStore`."""
        self.note_B2H[row_U] = note_U2H.cpu().numpy()


class FileStore:
    """A sparse file without a name in a folder."""

    def __init__(self, num_rows: int, hidden_size: int, folder: Path) -> None:
        self.shape, self.folder = (num_rows, 2, hidden_size), folder
        self.row_bytes = note_bytes(1, hidden_size)
        self.num_bytes = num_rows * self.row_bytes
        self.handle = _open_nameless(folder)
        weakref.finalize(self, os.close, self.handle)
        self._check_holes()
        self.clear()
        free = shutil.disk_usage(folder).free
        if free < self.num_bytes:
            log.warning(
                "%s: the memory bank takes %s once every row is written, and %s are free here; memory.folder puts it elsewhere",
                folder, _gb(self.num_bytes), _gb(free),
            )  # fmt: skip
        memory = mmap.mmap(self.handle, max(1, self.num_bytes), mmap.MAP_SHARED, mmap.PROT_READ)
        if hasattr(mmap, "MADV_RANDOM"):
            memory.madvise(mmap.MADV_RANDOM)  # rows are read here and there: no reading ahead
        self.note_B2H: F16 = np.frombuffer(memory, np.float16, self.num_bytes // 2).reshape(
            self.shape
        )

    def _check_holes(self) -> None:
        self._resize(TRIAL_BYTES)
        if self.disk_bytes > TRIAL_BYTES // 2:
            raise ConfigError(
                f"{self.folder}: this filesystem has no sparse files, the memory bank would take all of "
                f"{_gb(self.num_bytes)} at once; set memory.folder to a folder on another, or memory.storage = 'ram'"
            )

    def _resize(self, num_bytes: int) -> None:
        try:
            os.ftruncate(self.handle, num_bytes)
        except OSError as error:
            raise TrelmError(self._trouble("cannot make a file of that size", error)) from error

    def _trouble(self, what: str, error: OSError) -> str:
        return (
            f"{self.folder}: memory bank of up to {_gb(self.num_bytes)}: {what} ({error.strerror}); "
            "make room and resume, or set memory.folder to a folder on another disk"
        )

    @property
    def disk_bytes(self) -> int:
        """Blocks in use."""
        return os.fstat(self.handle).st_blocks * BLOCK_BYTES

    def clear(self) -> None:
        """Punch everything out."""
        self._resize(0)
        self._resize(max(1, self.num_bytes))

    def gather(self, row_U: I64) -> Tensor:
        """See `NoteStore`."""
        return torch.from_numpy(self.note_B2H[row_U])

    def put(self, row_U: I64, note_U2H: Tensor) -> None:
        """One call per run of neighbouring rows.

        Raises:
            TrelmError: the disk is full.
        """
        data = np.ascontiguousarray(note_U2H.cpu().numpy()).reshape(-1).view(np.uint8).data
        breaks = np.flatnonzero(np.diff(row_U) != 1) + 1
        firsts = np.concatenate([np.zeros(1, np.int64), breaks, np.asarray([len(row_U)])]).tolist()
        rows = row_U.tolist()
        for first, following in zip(firsts[:-1], firsts[1:], strict=True):
            if first < following:
                part = data[first * self.row_bytes : following * self.row_bytes]
                self._write(part, rows[first] * self.row_bytes)

    def _write(self, data: memoryview, at: int) -> None:
        while len(data):
            try:
                done = os.pwrite(self.handle, data, at)
            except OSError as error:
                what = (
                    "the disk is full"
                    if error.errno in (errno.ENOSPC, errno.EDQUOT)
                    else "cannot write"
                )
                raise TrelmError(self._trouble(what, error)) from error
            data, at = data[done:], at + done


class DeviceStore:
    """One tensor on the model's device, all of it allocated."""

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
        """See `NoteStore`."""
        self.note_B2H.zero_()

    def gather(self, row_U: I64) -> Tensor:
        """See `NoteStore`."""
        return self.note_B2H.index_select(0, torch.from_numpy(row_U).to(self.note_B2H.device))

    def put(self, row_U: I64, note_U2H: Tensor) -> None:
        """See `NoteStore`."""
        device = self.note_B2H.device
        self.note_B2H.index_copy_(0, torch.from_numpy(row_U).to(device), note_U2H.to(device))


def _open_nameless(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(os, "O_TMPFILE"):
            try:
                return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except OSError as error:
                if error.errno not in (errno.EISDIR, errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL):
                    raise
        handle, name = tempfile.mkstemp(prefix=".memory-bank-", dir=folder)
        Path(name).unlink()
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot write the memory bank there ({error.strerror}); set memory.folder to a folder that can be "
            "written, or memory.storage = 'ram'"
        ) from error
    return handle


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
