"""A command asks each input file once: one listing, one look into it, however many stages ask."""

from __future__ import annotations

import functools
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline import flow
from pipeline.config import RunConfig, load_config
from pipeline.documents import stage as documents
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.kept_listings import forget_listings, kept_listings
from pipeline.engine.tables import RunPaths
from pipeline.run_stage import is_needed
from tests.pipeline.cases import in_process

NUM_FILES = 2000


def count_calls(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Counter[str]:
    """Count what Python asks the system about files, and the files of a folder that it opens."""
    calls: Counter[str] = Counter()
    kinds = {name: getattr(os, name) for name in ("stat", "lstat", "scandir", "listdir")}

    def counted(name: str, *arguments, **more):
        calls[name] += 1
        return kinds[name](*arguments, **more)

    for name in kinds:
        monkeypatch.setattr(os, name, functools.partial(counted, name))

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        calls["open"] += event == "open" and str(arguments[0]).startswith(str(folder))

    # A hook stays for good: it only counts files of this folder.
    sys.addaudithook(hook)
    return calls


def corpus(folder: Path) -> RunConfig:
    folder.mkdir()
    for number in range(NUM_FILES):
        (folder / f"{number:06d}.txt").write_text(f"Text {number}.")
    (folder / "deeper").mkdir()
    (folder / "deeper" / "no.txt").write_text("not of this folder")
    return load_config("", (f'documents.inputs=["{folder}"]',))


def test_a_launch_lists_a_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = corpus(tmp_path / "in")
    calls = count_calls(monkeypatch, tmp_path / "in")
    with kept_listings():
        documents.check(config.documents)
        assert not is_needed(flow.stage_named("titles"), config)
        plan = documents.plan(config.documents, RunPaths(root=str(tmp_path / "run")))
    assert len(plan.inputs) == NUM_FILES
    assert calls["scandir"] + calls["listdir"] == 1
    # The check looks into the first files before all of them are looked into.
    assert calls["open"] == NUM_FILES + documents.CHECKED_FILES
    assert calls["stat"] + calls["lstat"] < 20, "the listing says length and time"


def test_what_is_kept_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    pattern = (str(tmp_path),)
    with kept_listings():
        assert len(files.expand(pattern)) == 1
        (tmp_path / "b.txt").write_text("x")
        assert len(files.expand(pattern)) == 1
        # As after a stage that took hours.
        forget_listings()
        assert len(files.expand(pattern)) == 2
    (tmp_path / "c.txt").write_text("x")
    assert len(files.expand(pattern)) == 3, "nothing is kept outside"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", ["a.txt", ".hidden.txt", "b [1].txt"]),
        ("*.txt", ["a.txt", ".hidden.txt", "b [1].txt"]),
        ("?.txt", ["a.txt"]),
        ("[ab].txt", ["a.txt"]),
        ("b [1].txt", ["b [1].txt"]),
        ("*/*.txt", ["deep/c.txt"]),
        ("d*/c.txt", ["deep/c.txt"]),
        ("**.txt", ["a.txt", ".hidden.txt", "b [1].txt", "deep/c.txt", "deep/er/d.txt"]),
        ("deep/er", ["deep/er/d.txt"]),
    ],
)  # fmt: skip
def test_what_a_pattern_finds(tmp_path: Path, pattern: str, found: list[str]) -> None:
    for name in ("a.txt", ".hidden.txt", "b [1].txt", "deep/c.txt", "deep/er/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    wanted = sorted(str(tmp_path / name) for name in found)
    if "/" in pattern and "*" in pattern:
        wanted = [path for path in wanted if "/link/" not in path]
    entries = files.find((str(tmp_path / pattern) if pattern else str(tmp_path),))
    assert [entry.path for entry in entries] == wanted
    for entry in entries:
        assert entry.num_bytes == len(Path(entry.path).read_bytes())
        assert entry.stamp == files.stamp(entry.path)


def test_a_relative_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert files.expand(("*.txt",)) == files.expand(("a.txt",)) == ["a.txt"]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for pattern in (tmp_path / "pipe", tmp_path):
        with pytest.raises(StageError, match=r"pipe: is a pipe or a device.*to a file"):
            files.expand((str(pattern),))
    done = in_process("documents", "--run", str(tmp_path / "r"), "--input", str(tmp_path / "pipe"))
    assert (done.returncode, (tmp_path / "r").exists()) == (1, False)
