import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from schemas.errors import ConfigError, TrelmError
from trelm_train.config import MemoryConfig
from trelm_train.memory import bank_file
from trelm_train.memory.bank_file import read_bank, write_bank
from trelm_train.memory.memory_bank import MemoryBank, Notes

H = 4


def filled(num_rows: int = 50, storage: str = "ram", folder: Path | None = None) -> MemoryBank:
    """Every third row written."""
    bank = MemoryBank(num_rows, H, MemoryConfig(storage=storage), folder=folder)
    rows = np.arange(0, num_rows, 3)
    names = torch.from_numpy(np.stack([rows, rows + 7, 0 * rows, 0 * rows], axis=1))
    bank.write(
        Notes.from_tensors(
            names, torch.randn(len(rows), 2, H, generator=torch.Generator().manual_seed(0))
        )
    )
    return bank


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


@pytest.mark.parametrize("piece", [1, 5, 1000])
def test_the_file_is_the_state(piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_file, "PIECE", piece)
    bank = filled()
    write_bank(bank, tmp_path / "bank.safetensors")
    assert same(load_file(tmp_path / "bank.safetensors"), bank.state())
    with safe_open(tmp_path / "bank.safetensors", framework="np") as file:
        assert file.get_slice("note").get_shape() == [17, 2, H]


@pytest.mark.parametrize("storage", ["ram", "file", "device"])
def test_a_bank_is_taken_up_from_its_file(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trelm_train.memory.memory_bank.PIECE", 5)
    bank, other = filled(), filled(50, storage, tmp_path)
    write_bank(bank, tmp_path / "bank.safetensors")
    other.write(Notes.from_tensors(torch.tensor([[1, 1, 0, 0], [3, 1, 0, 0]]), torch.ones(2, 2, H)))
    read_bank(other, tmp_path / "bank.safetensors")
    assert same(other.state(), bank.state())
    assert other.count_B[1] == 0


def test_an_empty_bank(tmp_path: Path) -> None:
    write_bank(MemoryBank(5, H, MemoryConfig()), tmp_path / "bank.safetensors")
    bank = filled(5)
    read_bank(bank, tmp_path / "bank.safetensors")
    assert not bank.count_B.any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_notes_that_are_not_finite_are_refused(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trelm_train.memory.memory_bank.PIECE", 5)
    bank = filled()
    tensors = bank.state()
    tensors["note"][-1, 1, 0] = value
    save_file(tensors, tmp_path / "bank.safetensors")
    with pytest.raises(ConfigError, match="bank.safetensors: .*a note of rows 15 to 16 holds NaN"):
        read_bank(bank, tmp_path / "bank.safetensors")


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    """safetensors checks its header alone: 1,152 of 4,000 changed files gave other notes."""
    path = tmp_path / "bank.safetensors"
    write_bank(filled(), path)
    good = path.read_bytes()
    start = 8 + int.from_bytes(good[:8], "little")
    for place in range(start, len(good), 7):
        changed = bytearray(good)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        with pytest.raises(ConfigError, match=r"bank.safetensors: it was changed"):
            read_bank(filled(), path)
    path.write_bytes(good)
    read_bank(filled(), path)


def test_the_same_bank_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_bank(filled(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_cannot_be_read_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no memory bank there"):
        read_bank(filled(), tmp_path / "none")
    (tmp_path / "damaged").write_bytes(b"12345678" * 4)
    with pytest.raises(ConfigError, match="a damaged one"):
        read_bank(filled(), tmp_path / "damaged")
    write_bank(filled(), tmp_path / "good")
    with pytest.raises(ConfigError, match="fewer than 5 rows"):
        read_bank(filled(5), tmp_path / "good")
    with pytest.raises(TrelmError, match="cannot write the memory bank"):
        write_bank(filled(), tmp_path / "missing" / "bank")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrelmError, match=r"\(No space left on device\); make room"):
        write_bank(filled(), tmp_path / "full")
