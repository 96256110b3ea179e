"""Build the memory-mapped alias index of names and the entity store: stage `index`.

Map-only, in phases: what a phase leaves for the next one lies in files, so memory follows the unit,
and a killed build continues where it stopped.

1. merged: items that were merged into others.
2. index: rows of `aliases`, `redirects` and `anchors` to keys by shard; rows of `entities` and
   `triples` by range of QIDs.
3. parts: ranges of QIDs: labels, popularity, neighbours; types of classes.
4. shards: tries and postings, cut by popularity; ranges of QIDs: context terms.
5. files: fuzzy blocks, names by word; the arrays of the entity store.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.config import IndexConfig
from pipeline.documents.anchors import anchor_texts
from pipeline.documents.titles_stage import NO_ITEM, TitleMap
from pipeline.engine import files
from pipeline.engine.opened_once import OpenedOnce
from pipeline.engine.stage import Phase, PreparedStage, StagePlan
from pipeline.engine.tables import RunPaths, check_table, read_rows, row_ranges
from pipeline.engine.tasks import Bucket, RowRange, Unit
from pipeline.engine.units import UnitReport, UnitWriter, below, relative_to
from pipeline.index.alias_index_writer import (
    Limits,
    build_blocks,
    build_shard,
    spill_aliases,
    write_description,
)
from pipeline.index.entity_build import join_array, write_classes, write_part, write_terms
from pipeline.index.entity_parts import EntityParts
from pipeline.index.entity_spill import (
    merged_items,
    qid_bounds,
    spill_entities,
    spill_triples,
    write_merged,
)
from pipeline.index.entity_store import ARRAYS
from pipeline.index.name_words import build_openings, build_words
from schemas import ALIASES, ANCHORS, ENTITIES, REDIRECTS, TRIPLES
from schemas.checksums import CHECKSUMS_NAME, Checksum, checksums_text
from schemas.manifest import PartFile
from schemas.settings import to_dict

# Rows of `aliases` per shard.
SHARD_ROWS = 1_500_000
# Entities per range of QIDs.
PART_ENTITIES = 300_000
# A shard's fuzzy blocks take less memory to build than its postings.
SHARDS_PER_FUZZY_PART = 4
ALIAS_FOLDER, ENTITY_FOLDER = "aliases", "entities"
logger = logging.getLogger("trelm")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Say into how many files the work is cut."""

    # Of the alias index.
    limits: Limits
    # First items of all ranges but the first.
    qid_bounds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SpillWorker:
    """Spread the rows of one unit over files per shard, or per range of QIDs."""

    paths: RunPaths
    layout: Layout
    _titles: OpenedOnce[TitleMap] = field(default_factory=OpenedOnce, compare=False, repr=False)

    def process(self, unit: Unit[RowRange], out: UnitWriter) -> None:
        """Spread one range of rows of one table."""
        match unit.task.table:
            case ENTITIES.name:
                spill_entities(out.folder, unit, self.layout.qid_bounds)
            case TRIPLES.name:
                spill_triples(out.folder, unit, self.layout.qid_bounds)
            case _:
                self._spill_names(unit, out)
        out.advance(unit.size)

    def _spill_names(self, unit: Unit[RowRange], out: UnitWriter) -> None:
        """Spread the names that a unit of `aliases`, `redirects` or `anchors` holds."""
        rows = pa.concat_tables([ALIASES.empty(), *self._names_of(unit.task)])
        if unit.task.table == ANCHORS.name:
            # A link of the corpus may name an item that has been merged into another one.
            qids = rows.column("qid").to_numpy()
            is_merged, survivors = merged_items(out.folder).find(qids)
            followed = pa.array(np.where(is_merged, survivors, qids), pa.uint32())
            column = rows.schema.get_field_index("qid")
            rows = rows.set_column(column, rows.schema.field("qid"), followed)

        # Nothing is dropped here: as many rows leave as come in.
        for counter in ("rows_in", "rows_out", f"from_{unit.task.table}"):
            out.count(counter, rows.num_rows)
        spill_aliases(out.folder, unit.index, rows, self.layout.limits.num_shards)

    def _names_of(self, task: RowRange) -> Iterator[pa.Table]:
        """Return the names in a range of rows, as rows of `aliases`."""
        if task.table == ANCHORS.name:
            return _anchor_rows(task)
        if task.table == REDIRECTS.name:
            return self._redirect_rows(task)
        return read_rows(task.path, ALIASES, task.start, task.end)

    def _redirect_rows(self, task: RowRange) -> Iterator[pa.Table]:
        """Return titles that redirect to an article as names of its item."""
        titles = self._titles.get(lambda: TitleMap(self.paths.artefact("titles", "titles")))
        for rows in read_rows(task.path, REDIRECTS, task.start, task.end):
            sources = rows.column("source").to_pylist()
            names: list[tuple[object, ...]] = [
                (source, qid, "redirect", 1)
                for source, qid in zip(sources, titles.find(sources), strict=True)
                if qid != NO_ITEM
            ]
            yield ALIASES.from_rows(names)


def _anchor_rows(task: RowRange) -> Iterator[pa.Table]:
    """Return the texts of the corpus's own links as names of their items."""
    for rows, surfaces in anchor_texts(task.path, task.start, task.end):
        columns = {
            "surface": surfaces,
            "qid": rows.column("qid"),
            "source": ["anchor"] * len(surfaces),
            "count": [1] * len(surfaces),
        }
        yield ALIASES.from_columns(columns)


@dataclass(frozen=True, kw_only=True)
class BuildWorker:
    """Build files from what earlier phases left.

    A task's kind says which files, its number which bucket.
    """

    # Files of `redirects`.
    merged: tuple[str, ...]
    layout: Layout

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:
        """Build one file, or one of each kind that belongs to a bucket."""
        data, number = out.folder, unit.task.number
        aliases = files.join(data, ALIAS_FOLDER)
        match unit.task.kind:
            case "merged":
                write_merged(data, self.merged)
            case "parts":
                write_part(data, number)
            case "classes":
                write_classes(data, files.join(data, ENTITY_FOLDER))
            case "terms":
                write_terms(data, number, self.layout.qid_bounds)
            case "shards":
                popularity = EntityParts(data, self.layout.qid_bounds).popularity
                build_shard(data, aliases, number, popularity, self.layout.limits)
            case "fuzzy":
                build_blocks(data, aliases, number, self.layout.limits)
            case "words":
                build_words(data, aliases, number)
            case "openings":
                build_openings(data, aliases)
            case "arrays":
                entities, name = files.join(data, ENTITY_FOLDER), tuple(ARRAYS)[number]
                join_array(data, entities, name, self.layout.qid_bounds)
            case kind:
                raise ValueError(f"index: no task is called {kind!r}")
        out.advance(unit.size)


@dataclass(frozen=True, kw_only=True)
class FinishIndex:
    """Make the alias index readable, as the last step of the stage."""

    limits: Limits

    def __call__(self, prepared: PreparedStage, reports: Sequence[UnitReport]) -> dict[str, str]:
        """Write its description and the checksums, and return the folders of index and store."""
        if prepared.plan.added:
            logger.info(
                "index: keeps the entities that were added to the run (index --add); they are read "
                "beside the new index"
            )
        # Last, since readers refuse an index without a description.
        with files.recording() as last:
            write_description(files.join(prepared.data, ALIAS_FOLDER), self.limits)
        written = [entry for report in reports for entry in report.others]
        written += below(prepared.data, last)
        for name in (ALIAS_FOLDER, ENTITY_FOLDER):
            _write_checksums(prepared.data, name, written)
        folder = prepared.plan.data_folder
        return {name: f"{folder}/{name}" for name in (ALIAS_FOLDER, ENTITY_FOLDER)}


def _write_checksums(data: str, folder: str, written: Sequence[PartFile]) -> None:
    """Write the checksums of the files of one folder into it: readers may have a copy of it alone."""
    checksums = {
        relative_to(folder, entry.path): Checksum(entry.num_bytes, entry.sha256)
        for entry in written
        if entry.path.startswith(f"{folder}/")
    }
    content = checksums_text(checksums).encode()
    files.write_bytes(files.join(data, folder, CHECKSUMS_NAME), content)


def plan(config: IndexConfig, paths: RunPaths) -> StagePlan:
    """Plan the rows to read, then the phases that build files.

    Rows to read are those of aliases, redirects, anchors, entities and triples.
    """
    names, inputs = _name_ranges(config, paths)
    num_names = sum(task.size for task in names)
    entities = row_ranges(paths.files("kb", ENTITIES), config.unit_rows, ENTITIES)
    triples = row_ranges(paths.files("kb", TRIPLES), config.unit_rows, TRIPLES)
    layout = _layout(config, paths, num_names, sum(task.size for task in entities))

    # Each phase reads what the ones before it spilled, so their order is fixed.
    spill = SpillWorker(paths=paths, layout=layout)
    build = BuildWorker(merged=tuple(paths.files("kb", REDIRECTS)), layout=layout)
    part_tasks, shard_tasks, file_tasks = _build_tasks(layout, num_names)
    return StagePlan(
        name="index",
        tables=(),
        phases=(
            Phase(name="merged", tasks=[Bucket(kind="merged")], worker=build),
            Phase(name="index", tasks=[*names, *entities, *triples], worker=spill),
            Phase(name="parts", tasks=part_tasks, worker=build),
            Phase(name="shards", tasks=shard_tasks, worker=build),
            Phase(name="files", tasks=file_tasks, worker=build),
        ),
        inputs=inputs,
        config=to_dict(config),
        finish=FinishIndex(limits=layout.limits),
        added=paths.added_fingerprint,
    )


def _name_ranges(config: IndexConfig, paths: RunPaths) -> tuple[list[RowRange], dict[str, str]]:
    """Return ranges of all tables that hold names, and the fingerprints of their stages."""
    kb = paths.require("kb")
    ranges = row_ranges(paths.files("kb", ALIASES), config.unit_rows, ALIASES)
    inputs = {"kb": kb.fingerprint}
    documents = paths.manifest("documents")
    # Titles that `documents` has not read are left over from another corpus.
    if documents is not None and "titles" in documents.inputs:
        inputs["titles"] = paths.require("titles").fingerprint
        ranges += row_ranges(paths.files("titles", REDIRECTS), config.unit_rows, REDIRECTS)
    if config.anchors and documents is not None:
        inputs["documents"] = paths.require("documents").fingerprint
        # Whole files, because the texts of the links lie in the part of `documents` of the same
        # number.
        ranges += [
            RowRange(path=path, start=0, end=check_table(path, ANCHORS), table=ANCHORS.name)
            for path in paths.files("documents", ANCHORS)
        ]
    return ranges, inputs


def _layout(config: IndexConfig, paths: RunPaths, num_names: int, num_entities: int) -> Layout:
    """Return into how many files to cut the index, so that the size of a file is bounded."""
    num_shards = config.num_shards or -(-num_names // SHARD_ROWS) or 1
    num_parts = -(-num_entities // PART_ENTITIES) or 1
    num_fuzzy_parts = -(-num_shards // SHARDS_PER_FUZZY_PART)

    return Layout(
        limits=Limits(
            num_shards=num_shards,
            num_parts=num_fuzzy_parts,
            max_candidates=config.max_candidates,
        ),
        qid_bounds=qid_bounds(paths.files("kb", ENTITIES), num_parts),
    )


def _build_tasks(layout: Layout, num_names: int) -> tuple[list[Bucket], list[Bucket], list[Bucket]]:
    """Return the tasks of the phases `parts`, `shards` and `files`.

    Their sizes are for the progress bar.
    """
    num_ranges = len(layout.qid_bounds) + 1
    names_per_shard = num_names // layout.limits.num_shards

    # Shards and terms read all parts; the files after them read all shards and terms.
    part_tasks = [
        Bucket(kind="classes"),
        *_buckets("parts", num_ranges, PART_ENTITIES),
    ]
    shard_tasks = [
        *_buckets("shards", layout.limits.num_shards, names_per_shard),
        *_buckets("terms", num_ranges, PART_ENTITIES),
    ]
    file_tasks = [
        *_buckets("fuzzy", layout.limits.num_parts, names_per_shard),
        *_buckets("words", layout.limits.num_parts, names_per_shard),
        Bucket(kind="openings", size=names_per_shard),
        *_buckets("arrays", len(ARRAYS), 1),
    ]
    return part_tasks, shard_tasks, file_tasks


def _buckets(kind: str, count: int, size: int) -> list[Bucket]:
    return [Bucket(kind=kind, number=number, size=size) for number in range(count)]
