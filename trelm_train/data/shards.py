"""A shards folder: what the pipeline hands over, checked before anything is trained on it.

Goes in: the folder with `manifest.json`. Comes out: file list, tokenizer folder, fingerprint; opens only footers. And rows, by
`read_lists`. Needs pyarrow and numpy alone: whoever trains with something else reads shards by this module, or one like it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.manifest import MANIFEST_NAME, Manifest
from schemas.shards import EXAMPLES, KNOWLEDGE, POLICIES
from schemas.table import SchemaError, Table
from trelm_train.errors import ConfigError, TrelmError


@dataclass(frozen=True, kw_only=True, slots=True)
class RowGroup:
    """One row group of `examples`; `first_row` counts over all files and makes the sentence keys."""

    path: Path
    index: int
    num_rows: int
    first_row: int


@dataclass(frozen=True, slots=True)
class Lists:
    """A list column: row i is values[offsets[i] : offsets[i + 1]]. Views of Arrow's memory: no copy, read-only."""

    values: npt.NDArray[Any]  # of the column's own type
    offsets: npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shards:
    """A checked shards folder."""

    path: Path
    row_groups: tuple[RowGroup, ...]
    knowledge_files: tuple[Path, ...]
    tokenizer_path: Path
    tokenizer_sha256: str
    model: str
    fingerprint: str
    policies: tuple[str, ...]  # injection policies whose bits were computed
    longest: int = 0  # sentence, in tokens, as the files' statistics say; 0: they do not

    def check_policy(self, policy: str) -> None:
        """Refuse an injection policy that these shards have no bits for: it would choose no mention.

        Raises:
            ConfigError: names it, and those that there are.
        """
        if policy not in self.policies:
            raise ConfigError(
                f"{self.path}: made without bits for injection.policy {policy!r}, with {', '.join(self.policies)}; choose "
                f"one of these, or make the shards again with `trelm-pipeline shards --policy {policy}`"
            )


def sha256_of(path: Path) -> str:
    """Hash of a file, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path, stage: str, command: str) -> Manifest:
    """The manifest of a finished stage.

    Raises:
        ConfigError: no folder, no manifest, or another stage's.
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
            f"{folder}: holds stage {manifest.stage!r}, wanted {stage!r}; run `{command}` or check the path"
        )
    return manifest


def table_files(folder: Path, manifest: Manifest, table: Table) -> list[Path]:
    """The checked files of one table.

    Raises:
        TrelmError: a file is missing, of another size, or another table.
    """
    if table.name not in manifest.tables:
        raise TrelmError(
            f"{folder}: its manifest lists no table {table.name!r}; run the stage again"
        )
    paths = []
    for part in manifest.tables[table.name].files:
        path = folder / part.path
        if not path.is_file():
            raise TrelmError(f"{path}: listed in the manifest but missing; run the stage again")
        if path.stat().st_size != part.num_bytes:
            raise TrelmError(
                f"{path}: {path.stat().st_size} bytes, the manifest says {part.num_bytes}; copy it again"
            )
        try:
            table.check(pq.read_schema(path), str(path))
        except SchemaError as error:
            raise TrelmError(str(error)) from error
        except pa.ArrowInvalid as error:
            raise TrelmError(
                f"{path}: not a readable Parquet file ({error}); run the stage again"
            ) from error
        paths.append(path)
    return paths


def open_shards(folder: Path) -> Shards:
    """Check a shards folder and list what is in it.

    Raises:
        ConfigError: this is not the folder of a finished `shards` stage.
        TrelmError: a file is missing, changed or of another version.
    """
    manifest = read_manifest(folder, "shards", "trelm-pipeline shards")
    example_files = table_files(folder, manifest, EXAMPLES)
    knowledge_files = table_files(folder, manifest, KNOWLEDGE)
    for key in ("tokenizer", "tokenizer_sha256", "model"):
        if key not in manifest.extra:
            raise TrelmError(f"{folder}: its manifest names no {key!r}; make the shards again")
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
        path=folder,
        row_groups=_row_groups(example_files),
        knowledge_files=tuple(knowledge_files),
        tokenizer_path=tokenizer_path,
        tokenizer_sha256=sha256,
        model=manifest.extra["model"],
        fingerprint=_fingerprint(manifest, sha256),
        policies=tuple(manifest.config.get("policies", POLICIES)),
        longest=max((_longest(path) for path in example_files), default=0),
    )


def _row_groups(paths: list[Path]) -> tuple[RowGroup, ...]:
    groups = []
    first_row = 0
    for path in paths:
        metadata = pq.read_metadata(path)
        for index in range(metadata.num_row_groups):
            num_rows = metadata.row_group(index).num_rows
            groups.append(RowGroup(path=path, index=index, num_rows=num_rows, first_row=first_row))
            first_row += num_rows
    return tuple(groups)


def _longest(path: Path) -> int:
    metadata = pq.read_metadata(path)
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    parts = (group.column(number) for group in groups for number in range(group.num_columns))
    known = (
        part.statistics
        for part in parts
        if part.path_in_schema == "n_tokens" and part.statistics is not None
    )
    return max((int(statistics.max) for statistics in known if statistics.has_min_max), default=0)


def _fingerprint(manifest: Manifest, tokenizer_sha256: str) -> str:
    files = [
        (name, part.path, part.rows, part.sha256)
        for name in (EXAMPLES.name, KNOWLEDGE.name)
        for part in manifest.tables[name].files
    ]
    return hashlib.sha256(json.dumps([files, tokenizer_sha256]).encode()).hexdigest()


def read_lists(groups: Iterable[RowGroup], columns: Sequence[str]) -> Iterator[dict[str, Lists]]:
    """Some list columns of row groups, one group at a time, in the given order; a file's groups in a row open it once.

    Raises:
        TrelmError: a file is damaged.
    """
    for path, chosen in itertools.groupby(groups, key=lambda group: group.path):
        try:
            with pq.ParquetFile(path) as file:
                for group in chosen:
                    rows = file.read_row_group(
                        group.index, columns=list(columns), use_threads=False
                    )
                    yield {name: lists_of(rows[name]) for name in columns}
        except (pa.ArrowException, OSError) as error:
            raise TrelmError(
                f"{path}: cannot be read ({error}); copy the shards again, or make them again"
            ) from error


def lists_of(column: pa.ChunkedArray) -> Lists:
    """A list column without nulls; a copy only if it has several chunks."""
    rows = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    # not `to_numpy`: that imports pandas wherever it is installed
    offsets: npt.NDArray[Any] = np.from_dlpack(rows.offsets)
    return Lists(np.from_dlpack(rows.values), offsets)
