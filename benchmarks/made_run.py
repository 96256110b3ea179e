"""Make a run's folder from given tables, as its stages would have left it: for benchmarks and tests
of later stages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import __version__
from pipeline.engine.tasks import Bucket, Unit
from pipeline.engine.units import UnitWriter
from schemas import REJECTS
from schemas.manifest import MANIFEST_NAME, Manifest, PartFile, TableFiles
from schemas.table import Table

DATA = "data-made"


def write_stage(
    root: Path,
    stage: str,
    tables: Mapping[str, tuple[Table, Iterable[pa.Table]]],
    config: dict[str, Any] | None = None,
) -> None:
    """Write a finished stage.

    Args:
        root: the run.
        stage: its name.
        tables: table name -> the table, and its rows, a part file each.
        config: its configuration, for the manifest.
    """
    data = root / stage / DATA
    found: dict[str, list[PartFile]] = {REJECTS.name: []}
    for name, (table, parts) in tables.items():
        for folder in ("_tmp", "_units", name):
            (data / folder).mkdir(parents=True, exist_ok=True)
        found[name] = []
        for index, rows in enumerate(parts):
            out = UnitWriter(str(data), stage, Unit(index=index, of=0, task=Bucket(kind=name)))
            out.write(table, rows)
            found[name] += out.finish().parts.values()
    versions = {name: table.version for name, (table, _) in tables.items()} | {
        REJECTS.name: REJECTS.version
    }
    manifest = Manifest(
        stage=stage,
        fingerprint=f"made-{stage}",
        code_version=__version__,
        tables={
            name: TableFiles(
                version=versions[name],
                rows=sum(part.rows for part in parts),
                files=tuple(
                    PartFile(
                        path=f"{DATA}/{part.path}",
                        rows=part.rows,
                        num_bytes=part.num_bytes,
                        sha256=part.sha256,
                    )
                    for part in parts
                ),
            )
            for name, parts in found.items()
        },
        config=config or {},
        created="2026-01-01T00:00:00+00:00",
    )
    (root / stage / MANIFEST_NAME).write_text(manifest.to_json())
