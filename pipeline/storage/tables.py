"""Reading the tables of a run: the file list comes from the manifest, and every file is checked before it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import files
from pipeline.storage.errors import StageError
from pipeline.storage.units import Unit
from schemas.manifest import MANIFEST_NAME, Manifest
from schemas.table import SchemaError, Table

STAGES = ("kb", "titles", "documents", "index", "link", "stats", "importance", "shards")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPaths:
    """Where the stages of a run lie."""

    root: str

    def stage(self, name: str) -> str:
        """Folder of a stage."""
        return files.join(self.root, name)

    def manifest_path(self, stage: str) -> str:
        """Where a stage's manifest lies."""
        return files.join(self.stage(stage), MANIFEST_NAME)

    def manifest(self, stage: str) -> Manifest | None:
        """The manifest of a stage, or None where the stage has not finished."""
        path = self.manifest_path(stage)
        if not files.exists(path):
            return None
        try:
            return Manifest.from_json(files.read_bytes(path).decode(), path)
        except ValueError as error:
            raise StageError(str(error)) from error

    def require(self, stage: str) -> Manifest:
        """The manifest of a stage that must have run.

        Raises:
            StageError: names the command that makes it.
        """
        found = self.manifest(stage)
        if found is None:
            raise StageError(
                f"{self.root}: stage {stage!r} has not finished here; "
                f"run `trelm-pipeline {stage} --run {self.root}` first"
            )
        return found

    def files(self, stage: str, table: Table) -> list[str]:
        """Paths of a table's files; empty where the stage wrote none."""
        listed = self.require(stage).tables.get(table.name)
        if listed is None:
            return []
        return [files.join(self.stage(stage), *part.path.split("/")) for part in listed.files]

    def artefact(self, stage: str, name: str) -> str:
        """Path of a stage's artefact that is not a table."""
        manifest = self.require(stage)
        if name not in manifest.extra:
            raise StageError(f"{self.stage(stage)}: has no {name!r}; run the stage again")
        return files.join(self.stage(stage), *manifest.extra[name].split("/"))


def open_table(path: str, table: Table) -> pq.ParquetFile:
    """Open a Parquet file and make sure that it is this table, in this version.

    Raises:
        StageError: another table, another version, not Parquet.
    """
    try:
        file = pq.ParquetFile(files.open_read(path))
        table.check(file.schema_arrow, path)
    except (SchemaError, pa.ArrowInvalid) as error:
        raise StageError(f"{path}: {error}" if path not in str(error) else str(error)) from error
    return file


def read_rows(path: str, table: Table, start: int = 0, end: int | None = None) -> Iterator[pa.Table]:
    """Rows start to end of one file, a row group at a time, copied so that no slice drags its parent along."""
    with open_table(path, table) as file:
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            low, high = max(start - first, 0), count if end is None else min(end - first, count)
            if low < high:
                rows = file.read_row_group(group, columns=list(table.column_names)).replace_schema_metadata(
                    table.schema.metadata
                )
                rows = rows.cast(table.schema)
                yield rows if (low, high) == (0, count) else rows.take(pa.array(range(low, high)))
            first += count


def read_table(paths: Sequence[str], table: Table, columns: Sequence[str] | None = None) -> pa.Table:
    """Whole columns of a small table."""
    parts = [open_table(path, table).read(columns=list(columns or table.column_names)) for path in paths]
    schema = table.schema if columns is None else pa.schema([table.schema.field(name) for name in columns])
    return pa.concat_tables([part.cast(schema) for part in parts]) if parts else schema.empty_table()


def row_units(paths: Sequence[str], rows_per_unit: int, table: Table) -> list[Unit]:
    """Split the files of a table into ranges of rows; a range never leaves its file."""
    ranges = []
    for path in paths:
        count = open_table(path, table).metadata.num_rows
        ranges += [(path, low, min(low + rows_per_unit, count)) for low in range(0, count, rows_per_unit)]
    return [
        Unit(index=index, of=len(ranges), path=path, start=low, end=high)
        for index, (path, low, high) in enumerate(ranges)
    ]
