"""A pipe or a device in the place of a file: refused at once; devices are written to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.config import LinkConfig
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.index.added_file import read_added
from pipeline.link.gold import load_gold
from pipeline.templates.template_file import read_templates
from schemas import regular_files
from schemas.durable import write_durably
from schemas.errors import ConfigError, TrelmError
from schemas.model_folder import model_problem
from schemas.regular_files import is_named_pipe, open_regular
from schemas.settings import load_toml
from trelm_train.evaluate.items_file import check_items_path
from trelm_train.evaluate.lama import read_jsonl
from trelm_train.evaluate.text_loss import read_text

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe that nobody writes to or reads."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


DOORS = {
    "--config": load_toml,
    "--gold": load_gold,
    "index --add": read_added,
    "--templates": read_templates,
    "--weights": files.read_bytes,
    "--relations": lambda path: read_jsonl(Path(path)),
    "text of compare": lambda path: read_text(Path(path)),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_refused_without_waiting(pipe: Path, door: str, kind: str) -> None:
    path = str(pipe) if kind == "pipe" else "/dev/zero"
    with pytest.raises(TrelmError, match=f"{path}.*a pipe or a device"):
        DOORS[door](path)


def test_a_pipe_as_part_of_a_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert "a pipe or a device" in model_problem(tmp_path)


def test_regular_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"text")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"text"
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


def test_a_pipe_that_nobody_reads_is_not_waited_for(
    pipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regular_files, "READER_WAIT_S", 0.1)
    with pytest.raises(StageError, match="pipe: cannot be written.*a pipe that no program reads"):
        files.write_bytes(str(pipe), b"text")
    with pytest.raises(OSError, match="a pipe that no program reads"):
        write_durably(pipe, b"text")
    assert pipe.is_fifo()


def test_a_named_pipe_is_no_place_for_a_file(pipe: Path) -> None:
    for check in (files.check_folder, files.refuse_named_pipe):
        with pytest.raises(ConfigError, match=r"--out.*pipe' is a named pipe"):
            check(str(pipe), "--out")
    with pytest.raises(ConfigError, match="--items.*a pipe or a device"):
        check_items_path(pipe)


def test_devices_are_written_to() -> None:
    before = Path("/dev/null").stat()
    files.check_folder("/dev/null", "--out")
    files.write_bytes("/dev/null", b"text")
    write_durably(Path("/dev/null"), b"text")
    assert Path("/dev/null").stat().st_ino == before.st_ino


def test_standard_output_into_a_pipe(tmp_path: Path) -> None:
    """`sql --out /dev/stdout | less`: its pipe has no name, and somebody reads it."""
    ours, theirs = os.pipe()
    path = f"/dev/fd/{theirs}"
    assert not is_named_pipe(Path(path))
    files.write_bytes(path, b"text")
    os.close(theirs)
    with os.fdopen(ours, "rb") as file:
        assert file.read() == b"text"


def test_weights_are_read_through_the_same_door(pipe: Path) -> None:
    from pipeline.link.weights import load_weights

    with pytest.raises(TrelmError, match="a pipe or a device"):
        load_weights(LinkConfig(weights=str(pipe)).weights)
