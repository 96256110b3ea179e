"""Read what a trainer left: the losses of its runs, and a model's answers to probes.

Goes in: folders of `trelm-train run`, and files of `trelm-train evaluate lama --items`. Comes out:
frozen rows, small whatever the length of a run. Lines that a killed program left half written are
passed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from pipeline.database.answers import missing_table, stage_of
from pipeline.database.questions import LEARNED_NEEDS
from pipeline.engine.errors import StageError
from pipeline.learned.answer import AskedModel, LearnedFacts, learned_facts
from pipeline.learned.fact_features import check_items
from schemas import buckets
from schemas.bounded_lines import bounded_lines
from schemas.errors import ConfigError
from schemas.regular_files import open_regular
from schemas.stats import BANDS

METRICS, EVALUATIONS, SUMMARY = "metrics.jsonl", "evaluations.jsonl", "summary.json"
# Points of a curve on the page.
MAX_POINTS = 200
MAX_RUNS = 4
# A higher number is damage: no run takes as many steps.
MAX_STEP = 10**12
NEVER_LINKED = "never linked"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSources:
    """Name what the page shows of training."""

    runs: tuple[str, ...] = ()
    # Answers of models, each in a file.
    items: tuple[str, ...] = ()
    # Answers of the model before training, for the last of `items`.
    before: str = ""


NO_TRAINING = TrainingSources()


@dataclass(frozen=True, slots=True)
class LossPoint:
    """Hold the mean losses of one logged interval; None where it has none."""

    step: int
    mlm_loss: float | None
    fact_loss: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """Hold the curve and the end of one training run."""

    name: str
    points: list[LossPoint]
    # Step and loss on the validation split.
    evaluations: list[tuple[int, float]]
    # Empty for a run that has not ended.
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Group:
    """Hold how often a model's first answer was right in a group of questions."""

    name: str
    num_items: int
    p_at_1: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelAnswers:
    """Hold a model's answers to probes."""

    name: str
    # Mean over items, and over relations.
    micro: float
    macro: float
    num_items: int
    # By the band of the subject, from the most frequent on; relations by name.
    bands: list[Group]
    relations: list[Group]


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Hold what the page shows of training."""

    runs: list[TrainedRun] = field(default_factory=list)
    answers: list[ModelAnswers] = field(default_factory=list)
    # Or why nothing can be said; None where no answers were given.
    learned: LearnedFacts | str | None = None


def read_training(connection: duckdb.DuckDBPyConnection, sources: TrainingSources) -> Training:
    """Read all sources.

    Raises:
        ConfigError: a folder holds no run of the trainer, a file no answers, or there are too many.
        StageError: a query fails.
    """
    for option, given in (("--training", sources.runs), ("--items", sources.items)):
        if len(given) > MAX_RUNS:
            raise ConfigError(f"{option}: {len(given)} were given; a page shows {MAX_RUNS} at most")
    if sources.before and not sources.items:
        raise ConfigError("--before says what a model knew before; give --items FILE too")

    for folder in filter(buckets.is_bucket, sources.runs):
        raise ConfigError(
            f"--training {folder}: lies in a bucket; copy {METRICS}, {EVALUATIONS} and {SUMMARY} "
            "into a folder here first"
        )
    names = _short_names(sources.runs)
    runs = [_trained_run(Path(run), name) for run, name in zip(sources.runs, names, strict=True)]
    names = _short_names(sources.items)
    answers = [
        _answers(connection, path, name) for path, name in zip(sources.items, names, strict=True)
    ]
    return Training(runs=runs, answers=answers, learned=_learned(connection, sources))


def _learned(
    connection: duckdb.DuckDBPyConnection, sources: TrainingSources
) -> LearnedFacts | str | None:
    if not sources.items:
        return None
    before = (sources.before,) if sources.before else ()
    asked = AskedModel(items=(sources.items[-1],), before=before)
    missing = missing_table(connection, LEARNED_NEEDS)
    if missing:
        return f"it needs {missing!r}, which `trelm-pipeline {stage_of(missing)}` makes"
    try:
        return learned_facts(connection, asked)
    except StageError as error:
        # The rest of the page stands without it: a table is missing, or there are too few facts.
        return error.message


def _short_names(paths: Sequence[str]) -> list[str]:
    """Return as much of the end of each path as tells them apart."""
    parts = [Path(path).parts for path in paths]
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def _trained_run(folder: Path, name: str) -> TrainedRun:
    """Read one run of the trainer.

    Raises:
        ConfigError: the folder holds none.
    """
    if not (folder / METRICS).is_file():
        raise ConfigError(
            f"--training {folder}: no {METRICS} there; give the --out folder of `trelm-train run`"
        )
    points = [
        LossPoint(row["step"], number_of(row, "mlm_loss"), number_of(row, "fact_loss") or None)
        for row in _rows(folder / METRICS)
    ]
    evaluations = [
        (row["step"], loss)
        for row in (_rows(folder / EVALUATIONS) if (folder / EVALUATIONS).is_file() else [])
        if (loss := number_of(row, "loss")) is not None
    ]
    summary_path = folder / SUMMARY
    # A run that goes on has none.
    summary = _parsed(summary_path.read_bytes()) if summary_path.is_file() else None
    return TrainedRun(
        name=name, points=_thinned(points), evaluations=evaluations, summary=summary or {}
    )


def _thinned(points: list[LossPoint]) -> list[LossPoint]:
    """Return means of neighbours where there are more points than a page shows."""
    if len(points) <= MAX_POINTS:
        return points
    return [
        LossPoint(
            group[-1].step,
            _mean([point.mlm_loss for point in group]),
            _mean([point.fact_loss for point in group]),
        )
        for places in np.array_split(np.arange(len(points)), MAX_POINTS)
        if (group := [points[place] for place in places.tolist()])
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines that are whole, in the order of their steps."""
    try:
        with open_regular(path) as file:
            rows = [_parsed(line) for _, line in bounded_lines(file, str(path))]
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read it ({error.strerror}); check its permissions"
        ) from error
    return sorted(
        (
            row
            for row in rows
            if row is not None and isinstance(row.get("step"), int) and row["step"] <= MAX_STEP
        ),
        key=lambda row: int(row["step"]),
    )


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def number_of(row: dict[str, Any], name: str) -> float | None:
    """Return a number of a row; None where it has none, or one that is not finite."""
    value = row.get(name)
    try:
        found = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _relation_names(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Return "place of birth (P19)" by "P19", for relations that the knowledge base knows."""
    rows = connection.execute("SELECT pid, label FROM properties WHERE label <> ''").fetchall()
    return {f"P{pid}": f"{label} (P{pid})" for pid, label in rows}


def _answers(connection: duckdb.DuckDBPyConnection, path: str, name: str) -> ModelAnswers:
    """Read the answers of one model.

    Raises:
        ConfigError: the file is not what is needed.
        StageError: the query fails.
    """
    check_items(connection, [path])
    query = """
        SELECT {group}, count(*), avg((rank = 1)::DOUBLE) FROM read_parquet($items)
        GROUP BY 1 ORDER BY 1
    """

    def groups(expression: str) -> list[Group]:
        rows = connection.execute(query.format(group=expression), {"items": path}).fetchall()
        return [Group(*row) for row in rows]

    try:
        names = _relation_names(connection)
        by_band = {group.name: group for group in groups(f"coalesce(sub_band, '{NEVER_LINKED}')")}
        relations = [
            replace(group, name=names.get(group.name, group.name)) for group in groups("relation")
        ]
    except duckdb.Error as error:
        raise StageError(f"{path}: the query failed: {error}") from error
    if not relations:
        raise ConfigError(f"--items {path}: holds no answer")
    num_items = sum(group.num_items for group in relations)
    return ModelAnswers(
        name=name,
        micro=sum(group.num_items * group.p_at_1 for group in relations) / num_items,
        macro=sum(group.p_at_1 for group in relations) / len(relations),
        num_items=num_items,
        bands=[by_band[band] for band in (*BANDS, NEVER_LINKED) if band in by_band],
        relations=relations,
    )
