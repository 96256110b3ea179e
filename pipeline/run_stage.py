"""Running one stage: plan it, skip it where it is up to date, build its graph, run it, say what it wrote."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.config import RunConfig
from pipeline.database.run_database import has_database, write_database
from pipeline.engine import files
from pipeline.engine.beam_runner import RunnerSettings, refuse_local_paths, run_graph
from pipeline.engine.progress_text import Work
from pipeline.engine.stage import StagePlan, build_graph, is_current, prepare
from pipeline.engine.tables import RunPaths
from pipeline.link.weights import weights_file
from schemas.settings import ConfigError, to_toml

MODULES = {"titles": "pipeline.documents.titles_stage"}  # stages that share a folder
SECTIONS = {"titles": "documents"}  # stages without a section of their own
logger = logging.getLogger("trelm")


def plan_stage(stage: str, config: RunConfig) -> StagePlan:
    """The plan of one stage: inputs checked, units counted, nothing done yet."""
    make_plan: Callable[..., StagePlan] = importlib.import_module(
        MODULES.get(stage, f"pipeline.{stage}.stage")
    ).plan
    section: Any = getattr(config, SECTIONS.get(stage, stage))
    if stage == "shards":
        section = replace(section, model=section.model or config.importance.model)
    plan = make_plan(section, RunPaths(root=config.run))
    return replace(plan, max_reject_rate=config.max_reject_rate, root=config.run)


def run_stage(
    stage: str, config: RunConfig, settings: RunnerSettings, *, redo: bool = False
) -> bool:
    """Run one stage unless it is there already; says whether it ran.

    Raises:
        StageError, ConfigError: what was wrong, where, what to do.
    """
    if not config.run:
        raise ConfigError('no run folder; give --run FOLDER (or run = "…" in the configuration)')
    if any(character in config.run for character in files.GLOB_CHARACTERS):
        raise ConfigError(
            f"--run {config.run!r}: a run's folder may not have any of {files.GLOB_CHARACTERS} in its name"
        )
    paths = RunPaths(root=config.run)
    own_files = [
        path for path in (config.link.gold_spans, weights_file(config.link.weights)) if path
    ]
    refuse_local_paths(
        settings, [config.run, *config.kb.dumps, *config.documents.inputs, *own_files]
    )
    plan = plan_stage(stage, config)
    if is_current(plan, paths) and not redo:
        logger.info("%s: up to date, skipped (%s)", stage, rows_written(paths, stage))
        if not settings.is_dry and not has_database(paths):
            write_database(paths)
        return False
    if redo and not settings.is_dry:
        files.remove(
            paths.manifest_path(stage)
        )  # first: without its manifest an output does not exist
        files.remove(files.join(paths.stage(stage), plan.data_folder))
    started_s = time.monotonic()
    files.make_folder(config.run)
    prepared = prepare(plan, paths)
    files.write_bytes(files.join(config.run, "config.toml"), to_toml(config).encode())
    work = Work(
        stage=stage,
        total=sum(unit.size for unit in prepared.pending),
        num_units=len(prepared.pending),
        measure=plan.measure,
        noun=plan.noun,
    )

    def build(pipeline: Any, address: Any) -> None:  # noqa: ANN401
        build_graph(pipeline, prepared, address)

    run_graph(settings, build, work)
    if settings.is_dry:
        return False
    write_database(paths)
    logger.info("%s: %s in %.1f s", stage, rows_written(paths, stage), time.monotonic() - started_s)
    return True


def rows_written(paths: RunPaths, stage: str) -> str:
    """The rows of a stage's tables, in words."""
    manifest = paths.manifest(stage)
    if manifest is None:
        return "not finished"
    counted = [
        f"{name} {table.rows:,}"
        for name, table in manifest.tables.items()
        if table.rows or name != "rejects"
    ]
    return ", ".join(counted) or "index written"
