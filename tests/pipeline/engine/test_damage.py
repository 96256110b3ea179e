"""Outputs that are missing or changed: noticed, named, and made again with the same rows."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.engine.errors import StageError
from pipeline.engine.stage import why_needed
from pipeline.engine.tables import RunPaths, read_table
from pipeline.engine.units import finished_units
from pipeline.flow import command_of
from pipeline.index.extended_index import IndexFolders, open_index
from pipeline.run_stage import plan_stage
from schemas import ENTITIES, LINKS
from schemas.manifest import Manifest
from tests.pipeline.cases import in_process, rows_of, sample_arguments

STAGES = ("kb", "titles", "documents", "index", "link", "stats")
TABLES = ("entities", "documents", "links", "entity_frequency", "rejects")


@pytest.fixture
def run(sample_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample_run, tmp_path / "run"))


def manifest_of(run: Path, stage: str) -> Manifest:
    return RunPaths(root=str(run)).finished(stage)


def flip(path: Path, place: int = -1) -> None:
    """Change one bit, in the middle where no place is given."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place < 0 else place] ^= 4
    path.write_bytes(content)


def removed(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def again(run: Path, *more: str) -> str:
    """Run to the end; return what was said."""
    done = in_process("run", *sample_arguments(run, "--until", "stats", *more))
    assert done.returncode == 0, done.stderr
    return done.stderr


def assert_same(run: Path, sample_run: Path) -> None:
    for table in TABLES:
        assert rows_of(run, table) == rows_of(sample_run, table), table
    for stage in STAGES:
        assert manifest_of(run, stage).files == manifest_of(sample_run, stage).files, stage


@pytest.mark.slow
@pytest.mark.parametrize("harm", [removed, cut])
@pytest.mark.parametrize("stage", STAGES)
def test_a_missing_or_cut_file_is_made_again(
    run: Path, sample_run: Path, stage: str, harm: Callable[[Path], None]
) -> None:
    """Every kind of file in turn would be slow: the last one stands for all."""
    path = run / stage / manifest_of(run, stage).files[-1].path
    harm(path)
    command = command_of(stage)
    with pytest.raises(StageError, match=rf"{path.name} .*run `trelm-pipeline {command} --run"):
        RunPaths(root=str(run)).require(stage)
    said = again(run)
    assert f"{stage}: runs again: {path}" in said
    # Nothing that reads it has to run again: the same rows have the same fingerprint.
    assert said.count("runs again") == 1
    assert said.count("up to date") == len(STAGES) - 1
    assert_same(run, sample_run)


@pytest.mark.slow
def test_changed_bytes_are_found_by_verify(run: Path, sample_run: Path) -> None:
    paths = [run / stage / manifest_of(run, stage).files[-1].path for stage in STAGES]
    for path in paths:
        # A bit in the middle of the weights may be a digit's: JSON all the same.
        flip(path, 0 if path.suffix == ".json" else -1)
    said = again(run)
    assert said.count("up to date") == len(STAGES), "only lengths are compared"
    assert "its weights are damaged" in said
    said = again(run, "--verify")
    for stage, path in zip(STAGES, paths, strict=True):
        assert f"{stage}: runs again: {path} was changed after it was written" in said
    assert_same(run, sample_run)
    assert again(run, "--verify").count("up to date") == len(STAGES)


def test_every_file_of_a_stage_is_listed(sample_run: Path) -> None:
    for stage in STAGES:
        manifest = manifest_of(sample_run, stage)
        listed = {entry.path for entry in manifest.files}
        folder = sample_run / stage
        found = {
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file() and path.parent.name != "_units" and path.name != "manifest.json"
        }
        # Rows that a later unit has written again stay where they were, and nobody reads them.
        replaced = {
            f"{stage_folder.name}/{part.path}"
            for stage_folder in folder.glob("data-*")
            for report in finished_units(str(stage_folder)).values()
            for index in report.replaces
            for part in finished_units(str(stage_folder))[index].parts.values()
        }
        assert found - replaced == listed - replaced, stage
        assert len(listed) >= len(manifest.files)


@pytest.mark.slow
def test_a_killed_stage_goes_on_from_what_is_whole(run: Path) -> None:
    """Without its manifest a stage is unfinished; two of its units are damaged."""
    finer = ("--set", "link.unit_mb=0.005")
    again(run, *finer)
    whole = {table: rows_of(run, table) for table in TABLES}
    folder = run / "link" / next((run / "link").glob("data-*")).name
    reports = finished_units(str(folder))
    assert len(reports) > 2
    (run / "link" / "manifest.json").unlink()
    flip(folder / reports[0].parts["links"].path)
    torn = folder / "_units" / "00001.json"
    torn.write_text(torn.read_text()[:-20])
    said = again(run, *finer)
    assert "00001.json" in said
    assert "was changed after it was written" in said
    assert f"{len(reports) - 2} of {len(reports)} units were done before" in said
    assert {table: rows_of(run, table) for table in TABLES} == whole


@pytest.mark.slow
def test_later_phases_are_done_again_with_an_earlier_one(run: Path, sample_run: Path) -> None:
    """What the first phase of the index left is gone, so all of it has to be done."""
    (run / "index" / "manifest.json").unlink()
    said = again(run)
    assert "finished units are done again" in said
    assert "were done before" not in said
    assert_same(run, sample_run)


def test_a_damaged_manifest_is_named_and_made_again(run: Path, sample_run: Path) -> None:
    path = run / "stats" / "manifest.json"
    path.write_text(path.read_text().replace('"rows_in": ', '"rows_in": 1'))
    with pytest.raises(StageError, match="not as it was written"):
        RunPaths(root=str(run)).require("stats")
    assert "stats: runs again: its manifest is damaged" in again(run)
    assert_same(run, sample_run)


def test_pages_are_checked_as_they_are_read(run: Path) -> None:
    """Arrow would return other rows."""
    paths = RunPaths(root=str(run))
    for stage, table in (("kb", ENTITIES), ("link", LINKS)):
        path = Path(paths.files(stage, table)[0])
        # Behind the magic number and the first page's header.
        flip(path, 120)
        with pytest.raises(StageError, match=r"parquet: damaged .*`trelm-pipeline run --verify`"):
            read_table([str(path)], table)


def test_a_damaged_index_is_refused_whatever_was_changed(run: Path) -> None:
    """Mapped without a look, one in thirty ended the process, and more gave other candidates."""
    paths, place = RunPaths(root=str(run)), random.Random(0)
    folders = IndexFolders.of(paths)
    for entry in manifest_of(run, "index").files:
        path = run / "index" / entry.path
        good = path.read_bytes()
        for _ in range(3):
            flip(path, place.randrange(len(good)))
            with pytest.raises(StageError, match=path.name):
                open_index(folders)
            path.write_bytes(good)
    open_index(folders)


def test_why_a_stage_runs_again_is_said(run: Path) -> None:
    from pipeline.config import load_config

    paths = RunPaths(root=str(run))

    def reason(*settings: str) -> str:
        config = load_config(str(run / "config.toml"), (f"run={run}", *settings))
        return why_needed(plan_stage("link", config), paths)

    assert not reason()
    assert reason("link.top_k=3") == "top_k is 3 now, it was 8"
    assert reason("link.unit_mb=0.001") == "unit_mb is 0.001 now, it was 1.0"
