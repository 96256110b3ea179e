"""What the page says, collected: the rows of `data` and `entities`, and the manifests."""

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
from schemas.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores against a gold file."""

    gold: str
    scores: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Everything that the page says."""

    run: str
    manifests: dict[str, Manifest]
    config: str
    outdated: tuple[str, ...]
    tail: dict[str, Any]
    points: list[RankPoint]
    num_facts: int
    changes: dict[str, Changes]
    bands: list[Band]
    confidences: Confidences
    detectors: list[Detector]
    nil_unknown: int
    nil_surfaces: list[NilSurface]
    nil_types: list[NilType]
    rejects: list[RejectGroup]
    top: list[EntityRow]
    sample: list[EntityRow]
    calibration: Calibration | None
