"""Write the report of a run.

The tables are queried, the page is made, and the file is put in place whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from pipeline.database.connection import open_run
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.tables import CONFIG_NAME, RunPaths
from pipeline.flow import STAGE_NAMES
from pipeline.link.evaluation.evaluate import evaluate_run
from pipeline.report import data, entities
from pipeline.report.facts import Calibration, ReportContent
from pipeline.report.page import page
from pipeline.report.training import NO_TRAINING, Training, TrainingSources, read_training
from schemas import BY_NAME
from schemas.errors import ConfigError
from schemas.outputs import check_output


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """Hold the path of a report and its size."""

    path: str
    num_bytes: int


def write_report(
    run_folder: str,
    out: str = "",
    gold: str = "",
    num_entities: int = 20_000,
    sources: TrainingSources = NO_TRAINING,
) -> WrittenReport:
    """Make the report of a run and write it, by default to `report.html` in the run's folder.

    Args:
        run_folder: folder of a run whose stage `stats` is up to date.
        out: the file to write.
        gold: gold links, for calibration; empty = none.
        num_entities: how many of the most frequent entities the search box knows.
        sources: what the page shows of training.

    Raises:
        StageError: a stage is missing or out of date (names the command), or the file cannot be
            written.
        ConfigError: `out` is a folder or a named pipe, or a source of training is not what it
            should be.
    """
    paths = RunPaths(root=run_folder)
    target = out or files.join(run_folder, "report.html")
    if Path(target).is_dir():
        example = files.join(target, "report.html")
        raise ConfigError(f"--out {target}: a folder; name a file, for example {example}")
    check_output(target, "--out", [gold, *sources.items, sources.before])
    files.refuse_named_pipe(target, "--out")
    # Everything else that the page shows can be missing, but not the counts.
    paths.require("stats")

    # Gold is compared first: a wrong gold file should stop before the slow queries.
    scores = evaluate_run(run_folder, gold) if gold else None
    with open_run(paths) as connection:
        # Small, and given by hand: what is wrong with it is said before the slow queries.
        training = read_training(connection, sources)
        calibration = Calibration(gold, scores) if scores else None
        content = collect(connection, paths, calibration, training)
        search_columns = entities.searchable(connection, num_entities)

    html = page(content, search_columns).encode()
    files.write_bytes(target, html)
    return WrittenReport(target, len(html))


def collect(
    connection: duckdb.DuckDBPyConnection,
    paths: RunPaths,
    calibration: Calibration | None,
    training: Training,
) -> ReportContent:
    """Collect everything that the page shows, as small rows."""
    # A stage that has not run has no manifest.
    manifests = {
        stage: manifest for stage in STAGE_NAMES if (manifest := paths.manifest(stage)) is not None
    }
    is_current = {stage: _is_current(paths, stage) for stage in ("importance", "shards")}
    outdated = tuple(
        stage for stage, current in is_current.items() if not current and stage in manifests
    )

    # The tables that `weigh` leaves behind are read by later queries: it must come before them.
    tail = data.tail_summary(connection)
    changes = data.no_weights(connection)
    if is_current["importance"]:
        mentions = manifests["importance"].config.get("mentions")
        changes = data.weigh(connection, only_sample=mentions == "needed")

    # Targets can be counted only where the shards were made with the default policy.
    targets = None
    if is_current["shards"]:
        policies = manifests["shards"].config.get("policies", ())
        if data.DEFAULT_POLICY in policies:
            targets = data.targets_by_band(connection)

    return ReportContent(
        run=paths.root,
        manifests=manifests,
        config=_config(paths),
        outdated=outdated,
        tail=tail,
        points=data.rank_points(connection, tail["num_entities"]),
        num_facts=data.num_facts(connection),
        changes=changes,
        bands=data.bands(connection, changes, targets),
        confidences=data.confidences(connection),
        detectors=data.detectors(connection),
        nil_unknown=data.nil_without_candidates(connection),
        nil_surfaces=data.nil_surfaces(connection),
        nil_types=data.nil_types(connection),
        rejects=data.reject_groups(connection),
        top=entities.top_entities(connection),
        sample=entities.tail_sample(connection),
        calibration=calibration,
        training=training,
    )


def _is_current(paths: RunPaths, stage: str) -> bool:
    """Say whether a stage has run on what the stages before it hold now, into tables of today's form."""
    try:
        manifest = paths.require(stage)
    except StageError:
        return False
    return all(
        listed.version == BY_NAME[name].version
        for name, listed in manifest.tables.items()
        if name in BY_NAME
    )


def _config(paths: RunPaths) -> str:
    """Return the text of the run's configuration file; empty if it has none."""
    path = files.join(paths.root, CONFIG_NAME)
    # A file that the user has edited may hold bytes that are no UTF-8.
    return files.read_bytes(path).decode(errors="replace") if files.exists(path) else ""
