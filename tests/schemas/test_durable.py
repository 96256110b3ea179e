"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from schemas.checksums import damage_in, seal
from schemas.durable import partial_of, publish, write_durably


def test_the_order_is_file_rename_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between any two of these steps leaves the old file or the new one."""
    steps: list[str] = []
    replace, fsync = os.replace, os.fsync

    def path_of(handle: int) -> str:
        return Path(f"/proc/self/fd/{handle}").readlink().name

    def synced(handle: int) -> None:
        steps.append(f"sync {path_of(handle)}")
        fsync(handle)

    def replaced(self: Path, target: Path) -> Any:
        steps.append(f"rename {self.name} to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_durably(tmp_path / "run.json", "{}\n")
    assert steps == [
        "sync .run.json.part",
        "rename .run.json.part to run.json",
        f"sync {tmp_path.name}",
    ]
    assert (tmp_path / "run.json").read_text() == "{}\n"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_beside_it(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.toml"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if step == "fsync" else Path, step, full)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_torn_leftover_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    partial_of(path).write_text('{"torn')
    write_durably(path, b"{}")
    assert path.read_bytes() == b"{}"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "config.toml", tmp_path / "config.toml"
    target.write_text("old")
    link.symlink_to(target)
    write_durably(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_durably(pipe, "text")
    reader.join(timeout=60)
    assert read == [b"text"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["pipe", "link"])
def test_publishing_leaves_what_is_no_file(tmp_path: Path, name: str) -> None:
    pipe, target = tmp_path / "pipe", tmp_path / name
    os.mkfifo(pipe)
    if name == "link":
        target.symlink_to(pipe)
    (tmp_path / "a.part").write_text("new")
    with pytest.raises(FileExistsError, match="is no regular file"):
        publish(tmp_path / "a.part", target)
    assert pipe.is_fifo()
    assert target.is_symlink() == (name == "link")


def test_publishing_replaces(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_text("new")
    (tmp_path / "a").write_text("old")
    publish(tmp_path / "a.part", tmp_path / "a")
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / "a.part").exists()


def test_a_seal_lists_nothing_that_a_killed_program_has_left(tmp_path: Path) -> None:
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "notes.bin").write_bytes(b"notes")
    # Killed while it was sealed, and while a file was written.
    partial_of(tmp_path / "bank" / "checksums.json").write_text("{")
    partial_of(tmp_path / "bank" / "more.bin").write_bytes(b"mo")
    seal(tmp_path / "bank")
    assert damage_in(tmp_path / "bank") == ""
    partial_of(tmp_path / "bank" / "more.bin").unlink()
    assert damage_in(tmp_path / "bank") == "", "it does not miss what is gone"
