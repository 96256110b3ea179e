"""flow.STAGES against the code: order, tables, settings, commands, modules."""

from __future__ import annotations

import importlib
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from pipeline.config import RunConfig, load_config
from pipeline.engine.tables import RunPaths
from pipeline.flow import STAGE_NAMES, STAGES, Stage, stage_named, stages_until, writer_of
from pipeline.stage_commands import EVERYDAY, stage_commands
from schemas import REJECTS, TABLES
from tests.pipeline.cases import SAMPLE


@pytest.mark.parametrize("stage", STAGES, ids=STAGE_NAMES)
def test_a_stage_reads_what_comes_before_it(stage: Stage) -> None:
    assert set(stage.reads) <= set(STAGE_NAMES[: STAGE_NAMES.index(stage.name)])
    assert callable(importlib.import_module(stage.module).plan)
    assert any(field.name == stage.section for field in fields(RunConfig))
    assert stage_named(stage.command).command == stage.command


@pytest.mark.parametrize("stage", STAGES, ids=STAGE_NAMES)
def test_a_finished_stage_wrote_and_read_what_is_declared(stage: Stage, sample_run: Path) -> None:
    manifest = RunPaths(root=str(sample_run)).manifest(stage.name)
    if manifest is None:
        pytest.skip(f"the sample's fixture does not run {stage.name}")
    declared = {table.name for table in stage.writes} | {REJECTS.name}
    # A table may be optional: `statements` is written only where the settings ask for it.
    assert set(manifest.tables) <= declared
    assert declared - set(manifest.tables) <= {"statements"}
    assert set(stage.artefacts) <= set(manifest.extra)
    inputs = {name for name in manifest.inputs if name in STAGE_NAMES}
    assert inputs <= set(stage.reads)
    # Through `link` their fingerprints hold `documents` already.
    assert set(stage.reads) - inputs <= ({"documents"} if "link" in inputs else set())


def test_every_table_has_a_writer() -> None:
    for table in TABLES:
        if table is not REJECTS:
            assert table in writer_of(table.name).writes
    assert writer_of("redirects").name == "kb"
    with pytest.raises(KeyError):
        writer_of("nothing")


def test_every_section_of_the_settings_belongs_to_a_stage() -> None:
    config = load_config(str(SAMPLE / "pipeline.toml"))
    sections = {
        field.name for field in fields(RunConfig) if is_dataclass(getattr(config, field.name))
    }
    assert sections == {stage.section for stage in STAGES}


def test_commands_follow_the_flow() -> None:
    names = [command.name for command in stage_commands()]
    assert names == [stage.name for stage in STAGES if stage.command == stage.name]
    assert {flag.setting.partition(".")[0] for flag in EVERYDAY} <= set(names)
    assert [stage.name for stage in stages_until("documents")] == ["kb", "titles", "documents"]
