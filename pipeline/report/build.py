"""Writes the report of a run: asks the tables, makes the page, puts it in place whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from pipeline.database.connection import open_run
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.flow import STAGE_NAMES
from pipeline.link.evaluation.evaluate import evaluate_run
from pipeline.report import data, entities
from pipeline.report.facts import Calibration, Facts
from pipeline.report.page import page
from schemas.errors import ConfigError

CONFIG_NAME = "config.toml"


@dataclass(frozen=True, slots=True)
class Written:
    """Where the report is, and how large."""

    path: str
    num_bytes: int


def write_report(
    run_folder: str, out: str = "", gold: str = "", num_entities: int = 20_000
) -> Written:
    """Make the report of a run and write it, by default to `report.html` in the run's folder.

    Args:
        run_folder: folder of a run whose stage `stats` is up to date.
        out: where to write.
        gold: gold links, for calibration; empty = none.
        num_entities: how many of the most frequent entities the search box knows.

    Raises:
        StageError: a stage is missing or out of date (names the command), or the file cannot be written.
        ConfigError: `out` is a folder.
    """
    paths = RunPaths(root=run_folder)
    target = out or files.join(run_folder, "report.html")
    if Path(target).is_dir():
        raise ConfigError(
            f"--out {target}: a folder; name a file, for example {files.join(target, 'report.html')}"
        )
    paths.require("stats")
    scores = evaluate_run(run_folder, gold) if gold else None
    with open_run(paths) as connection:
        found = collect(connection, paths, Calibration(gold, scores) if scores else None)
        known = entities.searchable(connection, num_entities)
    content = page(found, known).encode()
    files.write_bytes(target, content)
    return Written(target, len(content))


def collect(
    connection: duckdb.DuckDBPyConnection, paths: RunPaths, calibration: Calibration | None
) -> Facts:
    """Everything that the page says, as small rows."""
    manifests = {
        stage: manifest for stage in STAGE_NAMES if (manifest := paths.manifest(stage)) is not None
    }
    weighed, sharded = _current(paths, "importance"), _current(paths, "shards")
    tail = data.tail_summary(connection)
    changes = data.weigh(connection) if weighed else data.no_weights(connection)
    chooses = sharded and data.DEFAULT_POLICY in manifests["shards"].config.get("policies", ())
    return Facts(
        run=paths.root,
        manifests=manifests,
        config=_config(paths),
        outdated=tuple(
            stage
            for stage, fresh in (("importance", weighed), ("shards", sharded))
            if not fresh and stage in manifests
        ),
        tail=tail,
        points=data.rank_points(connection, tail["num_entities"]),
        num_facts=data.num_facts(connection),
        changes=changes,
        bands=data.bands(
            connection, changes, data.targets_by_band(connection) if chooses else None
        ),
        confidences=data.confidences(connection),
        detectors=data.detectors(connection),
        nil_unknown=data.nil_without_candidates(connection),
        nil_surfaces=data.nil_surfaces(connection),
        nil_types=data.nil_types(connection),
        rejects=data.reject_groups(connection),
        top=entities.top_entities(connection),
        sample=entities.tail_sample(connection),
        calibration=calibration,
    )


def _current(paths: RunPaths, stage: str) -> bool:
    """Whether a stage has run on what the stages before it hold now."""
    try:
        paths.require(stage)
    except StageError:
        return False
    return True


def _config(paths: RunPaths) -> str:
    path = files.join(paths.root, CONFIG_NAME)
    return files.read_bytes(path).decode(errors="replace") if files.exists(path) else ""
