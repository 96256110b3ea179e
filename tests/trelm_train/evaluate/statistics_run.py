"""A run's folder as `trelm-pipeline stats` leaves it, with rows of our own."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from schemas import ENTITY_FREQUENCY, FACT_SUPPORT, REDIRECTS, Table
from schemas.checksums import checksum_of
from schemas.manifest import Manifest, PartFile, TableFiles

Rows = list[tuple[Any, ...]]


def write_stage(folder: Path, stage: str, table_to_parts: dict[Table, list[Rows]]) -> None:
    """A finished stage; every list of rows is a part file."""
    folder.mkdir(parents=True)
    tables = {}
    for table, parts in table_to_parts.items():
        files = []
        for number, rows in enumerate(parts):
            path = folder / f"{table.name}-{number}.parquet"
            pq.write_table(table.from_rows(rows), path)
            files.append(
                PartFile(
                    path=path.name,
                    rows=len(rows),
                    num_bytes=path.stat().st_size,
                    sha256=checksum_of(path).sha256,
                )
            )
        num_rows = sum(map(len, parts))
        tables[table.name] = TableFiles(version=table.version, rows=num_rows, files=tuple(files))
    manifest = Manifest(stage=stage, fingerprint="test", code_version="test", tables=tables)
    (folder / "manifest.json").write_text(manifest.to_json())


def write_run(
    folder: Path, frequencies: list[Rows], facts: list[Rows], redirects: Rows | None = None
) -> Path:
    """A run with statistics, and with a KB where redirects are given."""
    write_stage(folder / "stats", "stats", {ENTITY_FREQUENCY: frequencies, FACT_SUPPORT: facts})
    if redirects is not None:
        write_stage(folder / "kb", "kb", {REDIRECTS: [redirects]})
    return folder
