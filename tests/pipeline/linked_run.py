"""A finished run whose documents and links are cut again: other units of `link` without linking
again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.engine.tables import RunPaths, read_table
from pipeline.engine.tasks import RowRange, Unit
from pipeline.link.linked_sentences import linked_units
from schemas import DOCUMENTS, IMPORTANCE, LINKS, SENTENCES, Table
from schemas.checksums import sealed


def one_file_of_documents(paths: RunPaths) -> None:
    """All documents in one part, so that any number of units is possible."""
    rows = read_table(paths.files("documents", DOCUMENTS), DOCUMENTS)
    _replace(paths, "documents", DOCUMENTS, [rows.take(pa.array(range(len(rows))))])


def cut_links(paths: RunPaths, num_units: int) -> None:
    """Change a run into what it would be with this number of units of `link`."""
    metadata = pq.read_metadata(*paths.files("documents", DOCUMENTS)).row_group(0)
    step = -(-metadata.num_rows // num_units)
    units = _with_unit_mb(paths, (step + 0.5) * metadata.total_byte_size / metadata.num_rows / 1e6)
    assert len(units) == num_units
    doc_ids = read_table(paths.files("documents", DOCUMENTS), DOCUMENTS)["doc_id"].combine_chunks()
    for stage, table in (("link", SENTENCES), ("link", LINKS), ("importance", IMPORTANCE)):
        if paths.manifest(stage):
            rows = read_table(paths.files(stage, table), table)
            places = pc.index_in(rows["doc_id"], value_set=doc_ids).to_numpy()
            parts = [
                rows.filter((places >= unit.task.start) & (places < unit.task.end))
                for unit in units
            ]
            _replace(paths, stage, table, parts)


def _with_unit_mb(paths: RunPaths, unit_mb: float) -> list[Unit[RowRange]]:
    path = Path(paths.manifest_path("link"))
    manifest = json.loads(path.read_text())
    manifest["config"]["unit_mb"] = unit_mb
    path.write_text(sealed(manifest))
    return linked_units(paths)


def _replace(paths: RunPaths, stage: str, table: Table, parts: Sequence[pa.Table]) -> None:
    """Write a table's parts again, and their names to the manifest."""
    manifest_path = Path(paths.manifest_path(stage))
    manifest = json.loads(manifest_path.read_text())
    listed = manifest["tables"][table.name]
    for old in listed["files"]:
        (manifest_path.parent / old["path"]).unlink()
    folder = Path(listed["files"][0]["path"]).parent
    listed["files"] = []
    for number, rows in enumerate(parts):
        name = f"{folder}/part-{number:05d}-of-{len(parts):05d}.parquet"
        pq.write_table(rows.cast(table.schema), manifest_path.parent / name, compression="zstd")
        num_bytes = (manifest_path.parent / name).stat().st_size
        listed["files"].append(
            {"path": name, "rows": len(rows), "num_bytes": num_bytes, "sha256": ""}
        )
    manifest_path.write_text(sealed(manifest))
