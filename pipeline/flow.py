"""The whole flow on one screen: which stage reads which, and how one of them, or all that are missing, are run."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pipeline.config import RunConfig
from pipeline.runner import RunnerSettings, refuse_local_paths, run_graph
from pipeline.storage import files
from pipeline.storage.shuffle import build_shuffle_graph
from pipeline.storage.stage import StagePlan, build_graph, is_current, prepare
from pipeline.storage.tables import RunPaths
from schemas.settings import ConfigError, to_toml

#  dump ─▶ kb ─▶ titles ─▶ documents ─▶ index ─▶ link ─▶ stats ─▶ importance ─▶ shards ─▶ trelm-train
FLOW = ("kb", "titles", "documents", "index", "link", "stats", "importance", "shards")
SHUFFLES = {"index", "stats"}
logger = logging.getLogger("trelm")


def plan_stage(stage: str, config: RunConfig) -> StagePlan:
    """The plan of one stage: inputs checked, units counted, nothing done yet."""
    module = importlib.import_module(f"pipeline.stages.{stage}")
    section: Any = config.documents if stage == "titles" else getattr(config, stage)
    make_plan: Callable[..., StagePlan] = module.plan
    if stage in ("shards",):
        section = replace(section, model=section.model or config.importance.model)
    return replace(
        make_plan(section, RunPaths(root=config.run)), max_reject_rate=config.max_reject_rate, root=config.run
    )


def run_stage(stage: str, config: RunConfig, settings: RunnerSettings, *, redo: bool = False) -> bool:
    """Run one stage unless it is there already; says whether it ran.

    Raises:
        StageError, ConfigError: what was wrong, where, what to do.
    """
    if not config.run:
        raise ConfigError('no run folder; give --run FOLDER (or run = "…" in the configuration)')
    paths = RunPaths(root=config.run)
    refuse_local_paths(settings, [config.run, *config.kb.dumps, *config.documents.inputs])
    plan = plan_stage(stage, config)
    if is_current(plan, paths) and not redo:
        logger.info("%s: up to date, skipped (%s)", stage, _rows(paths, stage))
        return False
    if redo and not settings.is_dry:
        files.remove(files.join(paths.stage(stage), plan.data_folder))
    started_s = time.monotonic()
    files.make_folder(config.run)
    prepared = prepare(plan, paths)
    files.write_bytes(files.join(config.run, "config.toml"), to_toml(config).encode())
    total = sum(unit.size for unit in prepared.pending)

    def build(pipeline: Any, address: Any) -> None:  # noqa: ANN401
        if stage in SHUFFLES:
            build_shuffle_graph(pipeline, prepared, plan.worker, address)  # type: ignore[arg-type]
        else:
            build_graph(pipeline, prepared, address)

    run_graph(settings, build, stage, total, len(prepared.pending))
    if settings.is_dry:
        return False
    logger.info("%s: %s in %.1f s", stage, _rows(paths, stage), time.monotonic() - started_s)
    return True


def run_missing(config: RunConfig, settings: RunnerSettings, last: str = FLOW[-1]) -> Iterator[tuple[str, bool]]:
    """Every stage up to `last`, in order; each says whether it ran or was there already."""
    for stage in FLOW[: FLOW.index(last) + 1]:
        if stage != "titles" or reads_wiki(config):
            yield stage, run_stage(stage, config, settings)


def reads_wiki(config: RunConfig) -> bool:
    """Whether the corpus has MediaWiki pages, whose titles lead to items."""
    from pipeline.sources.corpus import kind_of

    wanted = config.documents.format
    return any(kind_of(path, wanted) == "wiki-xml" for path in files.expand(config.documents.inputs))


def _rows(paths: RunPaths, stage: str) -> str:
    manifest = paths.manifest(stage)
    if manifest is None:
        return "not finished"
    counted = [f"{name} {table.rows:,}" for name, table in manifest.tables.items() if table.rows or name != "rejects"]
    return ", ".join(counted) or "index written"
