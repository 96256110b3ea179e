import errno
import logging
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from schemas import machine
from schemas.errors import ConfigError, TrelmError
from schemas.machine import total_memory
from tests.trelm_train.conftest import small_config
from trelm_train.config import MemoryConfig
from trelm_train.memory import bank_store
from trelm_train.memory.bank_store import (
    FileStore,
    NoteStore,
    RamStore,
    make_store,
    pick_storage,
)
from trelm_train.memory.memory_bank import MemoryBank, Notes

CPU = torch.device("cpu")
MANY_ROWS, BASE = 5_000_000, 768  # 15 GB of notes


def store(storage: str, folder: Path | None, num_rows: int = 10, hidden: int = 4) -> NoteStore:
    return make_store(MemoryConfig(storage=storage), num_rows, hidden, folder=folder, device=CPU)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("storage", ["ram", "file", "device"])
def test_rows_are_zero_until_they_are_put(storage: str, tmp_path: Path) -> None:
    notes = store(storage, tmp_path)
    value = torch.arange(24, dtype=torch.float16).view(3, 2, 4)
    notes.put(np.asarray([2, 3, 7]), value)  # a run of two, and one
    assert torch.equal(notes.gather(np.asarray([7, 2, 2, 3])), value[[2, 0, 0, 1]])
    assert not notes.gather(np.asarray([0, 4, 9])).any()
    copied = notes.gather(np.asarray([2]))
    notes.put(np.asarray([2]), torch.zeros(1, 2, 4, dtype=torch.float16))
    assert copied.any(), "a copy, not a view"
    notes.put(np.zeros(0, np.int64), value[:0])
    notes.clear()
    assert not notes.gather(np.arange(10)).any()


@pytest.mark.parametrize("storage", ["ram", "file"])
def test_five_million_rows_cost_what_was_written(storage: str, tmp_path: Path) -> None:
    """All rows would take 15 GB: written pages count alone, in memory as on disk."""
    before = resident_bytes()
    bank = MemoryBank(MANY_ROWS, BASE, MemoryConfig(storage=storage), folder=tmp_path)
    rows = np.arange(0, MANY_ROWS, MANY_ROWS // 256)
    names = np.stack([rows, rows, rows * 0, rows * 0], axis=1)
    bank.write(Notes.from_tensors(torch.from_numpy(names), torch.ones(len(rows), 2, BASE)))
    assert bank.read(rows).eq(1).all()
    saved = bank.state()
    assert saved["row"].tolist() == rows.tolist()
    assert resident_bytes() - before < 200e6
    assert bank.store.disk_bytes < 10e6


@pytest.mark.parametrize("storage", ["auto", "file"])
def test_what_a_killed_run_wrote_is_not_there(storage: str, tmp_path: Path) -> None:
    """The file of a run that was killed, and that ran on after its checkpoint, leaves nothing for
    the next one.
    """
    config = MemoryConfig(storage=storage, ram_share=0.0)
    killed = MemoryBank(10, 4, config, folder=tmp_path)
    killed.write(Notes.from_tensors(torch.tensor([[3, 1, 0, 0]]), torch.ones(1, 2, 4)))
    assert isinstance(killed.store, FileStore)
    assert killed.store.disk_bytes > 0
    assert not list(tmp_path.iterdir()), "the file has no name"
    following = MemoryBank(10, 4, config, folder=tmp_path)
    assert not following.store.gather(np.arange(10)).any()
    assert not len(following.state()["row"])


def test_auto_goes_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    memory = total_memory()
    assert 1e8 < memory < 1e14
    rows = memory // (4 * BASE)
    assert pick_storage(MemoryConfig(), rows // 5, BASE) == "ram"
    assert pick_storage(MemoryConfig(), rows // 3, BASE) == "file"
    assert pick_storage(MemoryConfig(ram_share=0.5), rows // 3, BASE) == "ram"
    assert pick_storage(MemoryConfig(storage="device"), rows, BASE) == "device"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert pick_storage(MemoryConfig(), rows // 5, BASE) == "file", (
        "each rank has a bank of its own"
    )


def test_a_control_group_confines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "some").write_text("50000000\n")
    monkeypatch.setattr(machine, "MEMORY_LIMITS", (tmp_path / "some",))
    assert pick_storage(MemoryConfig(), 10_000, BASE) == "file"


def test_the_folder_of_the_configuration_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    good = bank_store._open_nameless
    monkeypatch.setattr(
        bank_store, "_open_nameless", lambda folder: opened.append(folder) or good(folder)
    )
    for folder in (str(tmp_path / "scratch"), ""):
        make_store(
            MemoryConfig(storage="file", folder=folder), 10, 4, folder=tmp_path / "run", device=CPU
        )
    assert opened == [tmp_path / "scratch", tmp_path / "run"]
    with pytest.raises(ConfigError, match="needs a folder; set memory.folder"):
        store("file", None)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"cannot write the memory bank there .*; set memory.folder"
    ):
        store("file", tmp_path / "file" / "run")


def test_a_filesystem_without_nameless_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def without(path: Any, flags: int, *more: Any, **others: Any) -> int:
        if flags & getattr(os, "O_TMPFILE", 0) == getattr(os, "O_TMPFILE", -1):
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", without)
    notes = store("file", tmp_path)
    notes.put(np.asarray([1]), torch.ones(1, 2, 4, dtype=torch.float16))
    assert notes.gather(np.asarray([1])).eq(1).all()
    assert not list(tmp_path.iterdir())


def test_a_filesystem_without_sparse_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        FileStore, "disk_bytes", property(lambda self: os.fstat(self.handle).st_size)
    )
    with pytest.raises(
        ConfigError, match=r"no sparse files, .*15\.4 GB at once; set memory.folder"
    ):
        store("file", tmp_path, MANY_ROWS, BASE)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EIO, "cannot write"),
    ],
)
def test_a_disk_that_fills_up(
    number: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call takes a part, as a full disk does; the next one fails."""
    calls: Iterator[int] = iter(range(9))

    def fail(handle: int, data: memoryview, at: int) -> int:
        if next(calls):
            raise OSError(number, os.strerror(number))
        return len(data) // 2

    notes = store("file", tmp_path)
    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(TrelmError, match=rf"{message} .*; make room and resume"):
        notes.put(np.asarray([1, 2]), torch.ones(2, 2, 4, dtype=torch.float16))


def test_a_write_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, at: real(handle, data[:5], at))
    notes = store("file", tmp_path)
    value = torch.randn(2, 2, 4).half()
    notes.put(np.asarray([1, 2]), value)
    assert torch.equal(notes.gather(np.asarray([1, 2])), value)


def test_a_file_larger_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, size: int) -> None:
        if size > 1e9:
            raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(TrelmError, match=r"cannot make a file of that size \(File too large\)"):
        store("file", tmp_path, MANY_ROWS, BASE)


def test_little_room_is_said_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bank_store.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    with caplog.at_level(logging.WARNING):
        store("file", tmp_path, MANY_ROWS, BASE)
    assert "takes 15.4 GB once every row is written, and 1.0 GB are free" in caplog.text


def test_no_room_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(bank_store.mmap, "mmap", refuse)
    with pytest.raises(TrelmError, match=r"no room in main memory .*memory.storage = 'file'"):
        RamStore(10, 4)
    monkeypatch.setattr(
        torch, "zeros", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))
    )
    with pytest.raises(TrelmError, match=r"no room on cpu; set memory.storage"):
        store("device", None)


def test_handles_are_given_back(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        store("file", tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("memory.storage=disk", "one of auto, ram, file, device"),
        ("memory.ram_share=2", "between 0 and 1"),
    ],
)
def test_wrong_settings(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_config(setting)
