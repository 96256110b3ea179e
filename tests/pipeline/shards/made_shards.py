"""Shards made in this process, and what follows from a run the plain way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.config import ShardsConfig
from pipeline.engine.tables import RunPaths
from pipeline.shards import stage as shards
from pipeline.shards.policies import PolicyLimits
from pipeline.stats.rare_entities import default_r_freq
from schemas import ENTITIES, TAIL_SUMMARY
from schemas.manifest import Manifest
from schemas.shards import EXAMPLES
from tests.pipeline.cases import Row, rows_of
from tests.pipeline.inputs_run import run_plan


def made(run: Path, model: Path, **settings: object) -> Manifest:
    """Run the stage in this process."""
    paths = RunPaths(root=str(run))
    return run_plan(shards.plan(ShardsConfig(model=str(model), **settings), paths), paths)


def files_of(manifest: Manifest) -> dict[str, list[tuple[int, str]]]:
    """Rows and hash of each file, in order."""
    return {
        name: [(part.rows, part.sha256) for part in table.files]
        for name, table in manifest.tables.items()
    }


def in_order(run: Path) -> list[Row]:
    """Rows of `examples`, file after file."""
    tables = [
        pq.read_table(path, partitioning=None)
        for path in RunPaths(root=str(run)).files("shards", EXAMPLES)
    ]
    return [tuple(row.values()) for table in tables for row in table.to_pylist()]


def limits_of(run: Path) -> PolicyLimits:
    distances = [round(1 - row[3], 4) for row in rows_of(run, "importance")]
    (summary,) = rows_of(run, "tail_summary")
    named = dict(zip(TAIL_SUMMARY.column_names, summary, strict=True))
    r_freq = default_r_freq(named["num_linked"], named["num_entities"])
    return PolicyLimits(
        r_freq=r_freq,
        median_distance=round(float(np.median(distances)), 4),
        klt_r_min=2,
        klt_r_max=100,
    )


def reach_of(run: Path) -> dict[int, int]:
    """Entities within two hops of each linked entity, by row: a naive count over all usable
    triples.
    """
    is_meta = ENTITIES.column_names.index("is_meta")
    named = {row[0] for row in rows_of(run, "entities") if row[1] and not row[is_meta]}
    properties = {row[0] for row in rows_of(run, "properties") if row[1]}
    merged = {int(source[1:]): int(target[1:]) for source, target in rows_of(run, "redirects")}
    near: dict[int, set[int]] = {}
    for subject, predicate, stored, _ in rows_of(run, "triples"):
        target = merged.get(stored, stored)
        if subject in named and target in named and subject != target and predicate in properties:
            near.setdefault(subject, set()).add(target)
            near.setdefault(target, set()).add(subject)
    reach = {}
    for row in rows_of(run, "knowledge"):
        if row[1] == "entity" and row[5]:
            others = near.get(row[2], set())
            reach[row[0]] = min(
                len(others.union(*(near[other] for other in others)) - {row[2]}), 100
            )
    return reach
