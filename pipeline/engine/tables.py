"""Read the tables of a run: the list of files comes from the manifest, and every file is checked
before it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine import files
from pipeline.engine.damage import first_damage
from pipeline.engine.errors import StageError
from pipeline.engine.tasks import RowRange
from pipeline.flow import STAGE_NAMES, command_of
from schemas.manifest import MANIFEST_NAME, Manifest
from schemas.table import SchemaError, Table

# Folder of the entities that a user added to a run (`pipeline.index.added`). It has a manifest like
# a stage's, and is none: `index --add` writes it, and the stages never do.
ADDED = "added"
# What to do about a damaged file of a run.
MEND = "`trelm-pipeline run --verify` finds all that is damaged, and makes it again"
# Folder of one version of a stage's files.
DATA_PREFIX = "data-"


def with_added(fingerprint: str, added: str) -> str:
    """Return the fingerprint of a stage whose readers also see added entities.

    Args:
        fingerprint: of the stage's own data.
        added: fingerprint of the added entities; empty where there are none.
    """
    if not added:
        return fingerprint
    return hashlib.sha256(f"{fingerprint} {added}".encode()).hexdigest()[: len(fingerprint)]


# Settings of a run's last command, in its folder.
CONFIG_NAME = "config.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPaths:
    """Say where the stages of a run lie."""

    root: str

    def __post_init__(self) -> None:
        """Refuse what can be no folder, before anything is read or written there."""
        files.refuse_no_folder(self.root)

    def stage(self, name: str) -> str:
        """Return the folder of a stage."""
        return files.join(self.root, name)

    def manifest_path(self, stage: str) -> str:
        """Return where a stage's manifest lies."""
        return files.join(self.stage(stage), MANIFEST_NAME)

    def manifest(self, stage: str) -> Manifest | None:
        """Read the manifest of a stage; None where the stage has not finished."""
        path = self.manifest_path(stage)
        content = files.read_if_there(path)
        if content is None:
            return None
        try:
            return Manifest.from_json(content.decode(), path)
        except ValueError as error:
            raise StageError(str(error)) from error

    def finished(self, stage: str) -> Manifest:
        """Read the manifest of a stage that must have run.

        Raises:
            StageError: names the command that makes it.
        """
        manifest = self.manifest(stage)

        if manifest is None:
            raise StageError(
                f"{self.root}: stage {stage!r} has not finished here; "
                f"run `trelm-pipeline {command_of(stage)} --run {self.root}` first"
            )
        return manifest

    def require(self, stage: str) -> Manifest:
        """Read the manifest of a stage that must have run on what the other stages hold now.

        Raises:
            StageError: it has not run, a file of its output is missing or of another length, or a
                stage that it read has run again since.
        """
        return self._required(stage, {})

    def _required(self, stage: str, seen: dict[str, Manifest]) -> Manifest:
        """Look at a stage and at those that it read, each once; see `require`."""
        if stage in seen:
            return seen[stage]
        manifest = seen[stage] = self.finished(stage)
        damage = first_damage(self.stage(stage), manifest.files, hashed=False)
        if damage:
            raise StageError(
                f"{damage}; run `trelm-pipeline {command_of(stage)} --run {self.root}`, which makes it again"
            )

        if manifest.inputs.get(ADDED, "") != self.added_fingerprint and stage == "index":
            raise StageError(
                f"{self.root}: the entities that were added are not those that the index knows; "
                f"run `trelm-pipeline index --run {self.root}`, which takes seconds"
            )
        added = self.manifest(ADDED) if stage == "index" else None
        damage = first_damage(self.stage(ADDED), added.files, hashed=False) if added else ""
        if damage:
            raise StageError(
                f"{damage}; give the added entities again: "
                f"`trelm-pipeline index --run {self.root} --add FILE`"
            )

        # Beside stages, the inputs name files and models, which have no manifest to compare with.
        for name, fingerprint in manifest.inputs.items():
            if name in STAGE_NAMES and self._required(name, seen).fingerprint != fingerprint:
                raise StageError(
                    f"{self.root}: stage {stage!r} was made from another output of {name!r} than "
                    "is here now; "
                    f"run `trelm-pipeline {command_of(stage)} --run {self.root}`, or "
                    "`trelm-pipeline run` for all that is out of date"
                )
        return manifest

    @property
    def added_fingerprint(self) -> str:
        """Return the fingerprint of the entities that a user added; empty where there are none."""
        added = self.manifest(ADDED)
        return added.fingerprint if added else ""

    def kb_files(self, table: Table) -> list[str]:
        """Return the paths of a table of the knowledge base, those of added entities included."""
        added = self.files(ADDED, table) if self.added_fingerprint else []
        return [*self.files("kb", table), *added]

    def files(self, stage: str, table: Table) -> list[str]:
        """Return the paths of a table's files; none where the stage wrote no rows."""
        listed = self.finished(stage).tables.get(table.name)
        if listed is None:
            return []
        return [files.join(self.stage(stage), *entry.path.split("/")) for entry in listed.files]

    def artefact(self, stage: str, name: str) -> str:
        """Return the path of a stage's artefact that is not a table.

        Raises:
            StageError: the stage has not finished, or made no such artefact.
        """
        manifest = self.finished(stage)
        if name not in manifest.extra:
            raise StageError(f"{self.stage(stage)}: has no {name!r}; run the stage again")
        return files.join(self.stage(stage), *manifest.extra[name].split("/"))


@contextmanager
def open_table(path: str, table: Table) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file that must be this table, in this version; it is closed at the end.

    Raises:
        StageError: another table, another version, not Parquet.
    """
    with files.open_read(path) as source:
        # Arrow's own errors do not name the file.
        try:
            parquet = pq.ParquetFile(source, page_checksum_verification=True)
            table.check(parquet.schema_arrow, path)
        except (SchemaError, pa.ArrowInvalid) as error:
            raise StageError(str(error) if path in str(error) else f"{path}: {error}") from error

        try:
            yield parquet
        except (pa.ArrowException, OSError) as error:
            # What the caller does beside reading may fail too: that error is not this file's.
            if not _is_arrows(error):
                raise
            raise StageError(f"{path}: damaged ({error}); {MEND}") from error


def _is_arrows(error: BaseException) -> bool:
    """Say whether Arrow could not read a page: it raises a plain OSError for a wrong checksum."""
    return isinstance(error, pa.ArrowException) or getattr(error, "errno", None) is None


def check_table(path: str, table: Table) -> int:
    """Make sure that a file is this table, and return how many rows it has."""
    with open_table(path, table) as parquet:
        return int(parquet.metadata.num_rows)


def read_batches(path: str, table: Table, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield batches of some columns. Memory: one batch of 65,536 rows."""
    with open_table(path, table) as parquet:
        yield from parquet.iter_batches(columns=list(columns))


def read_rows(
    path: str, table: Table, start: int = 0, end: int | None = None
) -> Iterator[pa.Table]:
    """Yield rows `start` to `end` of one file, a row group at a time.

    Rows are copied: a slice, when it is pickled, would take its whole row group along.
    """
    with open_table(path, table) as file:
        group_start = 0
        for group in range(file.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            # The part of the range that lies in this row group, counted from the group's first row.
            low = max(start - group_start, 0)
            high = num_rows if end is None else min(end - group_start, num_rows)
            if low < high:
                rows = file.read_row_group(group, columns=list(table.column_names)).cast(
                    table.schema
                )
                yield (
                    rows if (low, high) == (0, num_rows) else rows.take(pa.array(range(low, high)))
                )

            group_start += num_rows


def read_table(
    paths: Sequence[str], table: Table, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read whole columns of a small table."""
    names = list(columns or table.column_names)
    schema = pa.schema([table.schema.field(name) for name in names], metadata=table.schema.metadata)

    tables = []
    for path in paths:
        with open_table(path, table) as parquet:
            tables.append(parquet.read(columns=names).cast(schema))
    return pa.concat_tables(tables) if tables else schema.empty_table()


def row_ranges(paths: Sequence[str], rows_per_range: int, table: Table) -> list[RowRange]:
    """Split the files of a table into ranges of rows; a range never leaves its file."""
    ranges = []
    for path in paths:
        num_rows = check_table(path, table)
        ranges += _ranges_of(path, num_rows, rows_per_range, table)
    return ranges


def sized_row_ranges(paths: Sequence[str], bytes_per_range: int, table: Table) -> list[RowRange]:
    """Split the files of a table into ranges of rows of about `bytes_per_range`; long documents
    make short ranges.
    """
    ranges = []
    for path in paths:
        with open_table(path, table) as parquet:
            metadata = parquet.metadata

        # Sizes before compression, as they will be in memory.
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        mean_bytes = sum(group.total_byte_size for group in groups) / max(metadata.num_rows, 1)
        rows_per_range = max(int(bytes_per_range / max(mean_bytes, 1)), 1)
        ranges += _ranges_of(path, metadata.num_rows, rows_per_range, table)
    return ranges


def _ranges_of(path: str, num_rows: int, rows_per_range: int, table: Table) -> list[RowRange]:
    return [
        RowRange(
            path=path, start=start, end=min(start + rows_per_range, num_rows), table=table.name
        )
        for start in range(0, num_rows, rows_per_range)
    ]
