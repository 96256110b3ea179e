"""Check a shards folder, which is what the pipeline hands over, before anything is trained on it.

The folder with `manifest.json` goes in. A list of files, the tokenizer's folder and a fingerprint
come out. Every file is read once and compared with its checksum. `read_lists` then reads rows.
This module needs pyarrow and numpy alone, so that another trainer can read shards by it, or by a
module like it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.array_types import I32, Array
from schemas.bucket_copies import local_stage
from schemas.buckets import Location
from schemas.checksums import Checksum, first_damage
from schemas.errors import ConfigError, TrelmError
from schemas.manifest import MANIFEST_NAME, Manifest, PartFile
from schemas.shards import EXAMPLES, KNOWLEDGE, POLICIES
from schemas.table import SchemaError, Table


@dataclass(frozen=True, kw_only=True, slots=True)
class RowGroup:
    """Name one row group of `examples`; `first_row` counts over all files: keys start there."""

    path: Path
    index: int
    num_rows: int
    first_row: int
    # Of the file when it was checked: its length and its time of change.
    stamp: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Lists:
    """Hold a list column: row i is values[offsets[i] : offsets[i + 1]].

    Both are views of Arrow's memory: no copy, read-only. Values keep the type of the column.
    """

    values: Array
    offsets: I32


@dataclass(frozen=True, kw_only=True, slots=True)
class Shards:
    """Hold what is known of a checked shards folder."""

    # As it was given; the files lie on this machine.
    path: Location
    row_groups: tuple[RowGroup, ...]
    knowledge_files: tuple[Path, ...]
    tokenizer_path: Path
    tokenizer_sha256: str
    model: str
    fingerprint: str
    # Injection policies whose bits were computed.
    policies: tuple[str, ...]
    # Tokens of the longest sentence by the statistics of the files; 0 where they have none.
    longest: int = 0

    @property
    def num_sentences(self) -> int:
        """Return the rows of `examples` of both splits, as the footers count them."""
        return sum(group.num_rows for group in self.row_groups)

    def check_policy(self, policy: str, *, setting: str) -> None:
        """Refuse a policy without bits in these shards: it would choose no mention.

        Raises:
            ConfigError: names the policy, and those that there are.
        """
        if policy not in self.policies:
            raise ConfigError(
                f"{self.path}: made without bits for {setting} {policy!r}, "
                f"with {', '.join(self.policies)}; choose one of these, or make the shards again "
                f"with `trelm-pipeline shards --policy {policy}`"
            )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path, stage: str, command: str) -> Manifest:
    """Read the manifest of a finished stage.

    Raises:
        ConfigError: no folder, no manifest, or the manifest of another stage.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ConfigError(
            f"{folder}: no {MANIFEST_NAME} there; give the folder of a finished `{command}`"
        )

    try:
        manifest = Manifest.from_json(path.read_text(encoding="utf-8"), str(path))
    except ValueError as error:
        raise ConfigError(str(error)) from error

    if manifest.stage != stage:
        raise ConfigError(
            f"{folder}: holds stage {manifest.stage!r}, but {stage!r} is needed; "
            f"run `{command}` or check the path"
        )
    return manifest


def table_files(folder: Path, manifest: Manifest, table: Table) -> list[Path]:
    """Check the files of one table and return their paths.

    Takes .7 s per gigabyte and core: a changed byte would be read as another token.

    Raises:
        TrelmError: a file is missing, not as it was written, or of another table.
    """
    if table.name not in manifest.tables:
        raise TrelmError(
            f"{folder}: its manifest lists no table {table.name!r}; run the stage again"
        )

    entries = manifest.tables[table.name].files
    check_files(folder, entries)
    paths = [folder / entry.path for entry in entries]
    for path in paths:
        try:
            table.check(pq.read_schema(path), str(path))
        except SchemaError as error:
            raise TrelmError(str(error)) from error
        # A damaged footer is an OSError to Arrow.
        except (pa.ArrowInvalid, OSError) as error:
            raise TrelmError(
                f"{path}: not a readable Parquet file ({error}); run the stage again"
            ) from error

    return paths


def check_files(folder: Path, entries: Iterable[PartFile]) -> None:
    """Compare files with their entries in a manifest.

    Raises:
        TrelmError: names the first one that is missing, or not as it was written.
    """
    damage = first_damage(
        (folder / entry.path, Checksum(entry.num_bytes, entry.sha256)) for entry in entries
    )
    if damage:
        raise TrelmError(
            f"{damage}; copy the folder again, or find and mend it where it was made with "
            "`trelm-pipeline run --verify`"
        )


def open_shards(location: Location) -> Shards:
    """Check a shards folder and list its files; those of a bucket are copied to this machine once.

    Raises:
        ConfigError: this is not the folder of a finished `shards` stage.
        TrelmError: a file is missing, changed or of another version.
    """
    folder = local_stage(location)
    manifest = read_manifest(folder, "shards", "trelm-pipeline shards")
    example_files = table_files(folder, manifest, EXAMPLES)
    knowledge_files = table_files(folder, manifest, KNOWLEDGE)

    for key in ("tokenizer", "tokenizer_sha256", "model"):
        if key not in manifest.extra:
            raise TrelmError(f"{folder}: its manifest names no {key!r}; make the shards again")

    check_files(folder, manifest.artefacts)
    # Token ids mean nothing without the tokenizer they come from, so its file must be the same.
    # The folder has the tokenizer's own files, untouched.
    tokenizer_path = folder / manifest.extra["tokenizer"]
    tokenizer_file = tokenizer_path / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise TrelmError(f"{tokenizer_file}: missing; make the shards again")
    sha256 = sha256_of(tokenizer_file)
    if sha256 != manifest.extra["tokenizer_sha256"]:
        raise TrelmError(
            f"{tokenizer_file}: is not the tokenizer these shards were made with; make them again"
        )

    return Shards(
        path=location,
        row_groups=_row_groups(example_files),
        knowledge_files=tuple(knowledge_files),
        tokenizer_path=tokenizer_path,
        tokenizer_sha256=sha256,
        model=manifest.extra["model"],
        fingerprint=_fingerprint(manifest, sha256),
        policies=tuple(manifest.config.get("policies", POLICIES)),
        longest=max((_longest_sentence(path) for path in example_files), default=0),
    )


def _row_groups(paths: list[Path]) -> tuple[RowGroup, ...]:
    """List the row groups of all files, and number their rows."""
    groups = []
    first_row = 0

    for path in paths:
        stamp = _stamp_of(path)
        metadata = pq.read_metadata(path)
        for index in range(metadata.num_row_groups):
            num_rows = metadata.row_group(index).num_rows
            groups.append(
                RowGroup(
                    path=path, index=index, num_rows=num_rows, first_row=first_row, stamp=stamp
                )
            )
            # Keys count on over all files, so they name a row in any order of reading.
            first_row += num_rows

    return tuple(groups)


def refuse_changed(group: RowGroup) -> None:
    """Refuse a row group whose file is another one than the one that was checked.

    Raises:
        OSError: it is, or it is not there.
    """
    if group.stamp not in ((0, 0), _stamp_of(group.path)):
        raise OSError("it was changed after the program had begun")


def _stamp_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _longest_sentence(path: Path) -> int:
    """Return the largest `n_tokens` of a file by its statistics; 0 where it has none."""
    metadata = pq.read_metadata(path)
    longest = 0

    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        for number in range(group.num_columns):
            # Columns of nested lists have several leaves, so a column is found by its path, not its
            # number.
            column = group.column(number)
            if column.path_in_schema != "n_tokens":
                continue
            statistics = column.statistics
            if statistics is not None and statistics.has_min_max:
                longest = max(longest, int(statistics.max))

    return longest


def _fingerprint(manifest: Manifest, tokenizer_sha256: str) -> str:
    """Hash what identifies the data: every file of both tables, and the tokenizer."""
    files = [
        (name, entry.path, entry.rows, entry.sha256)
        for name in (EXAMPLES.name, KNOWLEDGE.name)
        for entry in manifest.tables[name].files
    ]
    return hashlib.sha256(json.dumps([files, tokenizer_sha256]).encode()).hexdigest()


def read_lists(groups: Iterable[RowGroup], columns: Sequence[str]) -> Iterator[dict[str, Lists]]:
    """Yield some list columns of row groups, one group at a time, in the order of the groups.

    Consecutive groups of one file open it once.

    Raises:
        TrelmError: a file is damaged.
    """
    # `groupby` joins neighbours only: the order of the groups is kept, even if files alternate.
    for path, groups_of_file in itertools.groupby(groups, key=lambda group: group.path):
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                for group in groups_of_file:
                    refuse_changed(group)
                    rows = file.read_row_group(
                        group.index, columns=list(columns), use_threads=False
                    )
                    yield {name: lists_of(rows[name]) for name in columns}
        except (pa.ArrowException, OSError) as error:
            raise TrelmError(
                f"{path}: cannot be read ({error}); copy the shards again, or make them again"
            ) from error


def lists_of(column: pa.ChunkedArray) -> Lists:
    """Return a list column without nulls as arrays; a copy only if it has several chunks."""
    # Joining chunks copies the values; one row group in one table has a single chunk.
    rows = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    # Not `to_numpy`: that imports pandas where it is installed.
    offsets: Array = np.from_dlpack(rows.offsets)
    return Lists(np.from_dlpack(rows.values), offsets)
