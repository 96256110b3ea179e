"""Collect what the page shows: the rows of `data` and `entities`, and the manifests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.report.data import (
    Band,
    Changes,
    Confidences,
    Detector,
    NilSurface,
    NilType,
    RankPoint,
    RejectGroup,
)
from pipeline.report.entities import EntityRow
from pipeline.report.training import Training
from schemas.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Calibration:
    """Hold the path of a gold file and the scores against it."""

    gold: str
    scores: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContent:
    """Hold everything that the page shows."""

    # The run's folder, and the manifests of its stages by name.
    run: str
    manifests: dict[str, Manifest]
    # The text of the run's config.toml; empty where it has none.
    config: str
    # Stages whose tables no longer fit the stages before them.
    outdated: tuple[str, ...]
    # The one row of `tail_summary`.
    tail: dict[str, Any]
    points: list[RankPoint]
    num_facts: int
    # By band; empty where the run has no current `importance`.
    changes: dict[str, Changes]
    bands: list[Band]
    confidences: Confidences
    detectors: list[Detector]
    # NIL mentions without a candidate.
    nil_unknown: int
    nil_surfaces: list[NilSurface]
    nil_types: list[NilType]
    rejects: list[RejectGroup]
    top: list[EntityRow]
    sample: list[EntityRow]
    calibration: Calibration | None
    training: Training
