"""Stage `index`: aliases and anchor counts to the memory-mapped alias index, entities to the entity store.

Map-only, in phases: what one leaves for the next lies in files, so memory follows the unit and a killed build goes on.

1. merged: items that were merged into others.
2. index: rows of `aliases`, `redirects`, `anchors` to keys by shard; of `entities` and `triples` by range of QIDs.
3. parts: ranges of QIDs: labels, popularity, neighbours; types of classes.
4. shards: tries and postings, cut by popularity; ranges of QIDs: context terms.
5. files: fuzzy blocks, names by word; the arrays of the entity store.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.config import IndexConfig
from pipeline.documents.anchors import anchor_texts
from pipeline.documents.titles_stage import open_title_map
from pipeline.engine import files
from pipeline.engine.stage import Phase, PreparedStage, StagePlan
from pipeline.engine.tables import RunPaths, check_table, read_rows, row_units
from pipeline.engine.units import Unit, UnitReport, UnitWriter, numbered_phases, sized_unit
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
from schemas.settings import to_dict

SHARD_ROWS = 1_500_000  # rows of `aliases` per shard
PART_ENTITIES = 300_000  # entities per range of QIDs
SHARDS_PER_FUZZY_PART = 4
ALIAS_FOLDER, ENTITY_FOLDER = "aliases", "entities"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Into how many files the work is cut."""

    limits: Limits  # of the alias index
    qid_bounds: tuple[int, ...]  # first items of all ranges but the first


@dataclass(frozen=True, kw_only=True)
class SpillWorker:
    """Rows of one unit to files per shard, or per range of QIDs."""

    paths: RunPaths
    layout: Layout

    def setup(self) -> None:
        """Nothing to open."""

    def process(self, unit: Unit, out: UnitWriter) -> None:
        """One range of rows of one table."""
        name = posixpath.basename(posixpath.dirname(unit.path))
        if name == ENTITIES.name:
            spill_entities(out.folder, unit, self.layout.qid_bounds)
        elif name == TRIPLES.name:
            spill_triples(out.folder, unit, self.layout.qid_bounds)
        else:
            self._aliases(name, unit, out)
        out.advance(unit.size)

    def _aliases(self, name: str, unit: Unit, out: UnitWriter) -> None:
        read = {ANCHORS.name: _anchor_rows, REDIRECTS.name: self._redirect_rows}.get(
            name, _alias_rows
        )
        rows = pa.concat_tables([ALIASES.empty(), *read(unit)])
        if name == ANCHORS.name:  # a link may name an item that has become another
            is_merged, survivors = merged_items(out.folder).find(rows.column("qid").to_numpy())
            qids = pa.array(
                np.where(is_merged, survivors, rows.column("qid").to_numpy()), pa.uint32()
            )
            rows = rows.set_column(
                rows.schema.get_field_index("qid"), rows.schema.field("qid"), qids
            )
        for counter in ("rows_in", "rows_out", f"from_{name}"):
            out.count(counter, rows.num_rows)
        spill_aliases(out.folder, unit.index, rows, self.layout.limits.num_shards)

    def _redirect_rows(self, unit: Unit) -> Iterator[pa.Table]:
        """Titles that redirect to an article are names of its item."""
        titles = open_title_map(self.paths.artefact("titles", "titles"))
        for rows in read_rows(unit.path, REDIRECTS, unit.start, unit.end):
            sources = rows.column("source").to_pylist()
            found = [
                (source, qid)
                for source, qid in zip(sources, titles.find(sources), strict=True)
                if qid
            ]
            yield ALIASES.from_rows([(source, qid, "redirect", 1) for source, qid in found])


def _alias_rows(unit: Unit) -> Iterator[pa.Table]:
    yield from read_rows(unit.path, ALIASES, unit.start, unit.end)


def _anchor_rows(unit: Unit) -> Iterator[pa.Table]:
    """Anchors as aliases."""
    for rows, surfaces in anchor_texts(unit.path, unit.start, unit.end):
        columns = {
            "surface": surfaces,
            "qid": rows.column("qid"),
            "source": ["anchor"] * len(surfaces),
            "count": [1] * len(surfaces),
        }
        yield ALIASES.from_columns(columns)


@dataclass(frozen=True, kw_only=True)
class BuildWorker:
    """Builds files from what earlier phases left; a unit's path is the kind of file and its number or name."""

    merged: tuple[str, ...]  # files of `redirects`
    layout: Layout

    def setup(self) -> None:
        """Nothing to open."""

    def process(self, unit: Unit, out: UnitWriter) -> None:
        """One file, or one of each kind that goes with it."""
        kind, _, name = unit.path.partition("/")
        builders: dict[str, Callable[[str, str], None]] = {
            "merged": lambda data, _: write_merged(data, self.merged),
            "parts": lambda data, bucket: write_part(data, int(bucket)),
            "classes": lambda data, _: write_classes(data),
            "terms": lambda data, bucket: write_terms(data, int(bucket), self.layout.qid_bounds),
            "shards": self._shard,
            "fuzzy": self._blocks,
            "words": lambda data, part: build_words(
                data, files.join(data, ALIAS_FOLDER), int(part)
            ),
            "openings": lambda data, _: build_openings(data, files.join(data, ALIAS_FOLDER)),
            "arrays": self._array,
        }
        builders[kind](out.folder, name)
        out.advance(unit.size)

    def _shard(self, data: str, shard: str) -> None:
        parts = EntityParts(data, self.layout.qid_bounds)
        build_shard(
            data, files.join(data, ALIAS_FOLDER), int(shard), parts.popularity, self.layout.limits
        )

    def _blocks(self, data: str, part: str) -> None:
        build_blocks(data, files.join(data, ALIAS_FOLDER), int(part), self.layout.limits)

    def _array(self, data: str, name: str) -> None:
        join_array(data, files.join(data, ENTITY_FOLDER), name, self.layout.qid_bounds)


@dataclass(frozen=True, kw_only=True)
class FinishIndex:
    """Makes the alias index readable."""

    limits: Limits

    def __call__(self, prepared: PreparedStage, reports: Sequence[UnitReport]) -> dict[str, str]:  # noqa: ARG002
        """Write its description; returns both artefacts."""
        write_description(files.join(prepared.data, ALIAS_FOLDER), self.limits)
        folder = prepared.plan.data_folder
        return {name: f"{folder}/{name}" for name in (ALIAS_FOLDER, ENTITY_FOLDER)}


def plan(config: IndexConfig, paths: RunPaths) -> StagePlan:
    """Units of aliases, entities and triples, of redirects and of anchors where the corpus has them; then the phases."""
    units, inputs = _row_units(config, paths)
    num_rows = sum(unit.size for unit in units)
    entity_units = row_units(paths.files("kb", ENTITIES), config.unit_rows, ENTITIES)
    layout = _layout(config, paths, num_rows, sum(unit.size for unit in entity_units))
    units += entity_units + row_units(paths.files("kb", TRIPLES), config.unit_rows, TRIPLES)
    worker = BuildWorker(merged=tuple(paths.files("kb", REDIRECTS)), layout=layout)
    merged, spilled, *later = numbered_phases(
        [[sized_unit("merged")], units, *_later_units(layout, num_rows)]
    )
    return StagePlan(
        name="index",
        tables=(),
        units=spilled,
        worker=SpillWorker(paths=paths, layout=layout),
        inputs=inputs,
        config=to_dict(config),
        before=(Phase(name="merged", units=merged, worker=worker),),
        then=tuple(
            Phase(name=name, units=found, worker=worker)
            for name, found in zip(("parts", "shards", "files"), later, strict=True)
        ),
        finish=FinishIndex(limits=layout.limits),
    )


def _row_units(config: IndexConfig, paths: RunPaths) -> tuple[list[Unit], dict[str, str]]:
    """Units of all tables with names, and what they are made of."""
    kb = paths.require("kb")
    units = row_units(paths.files("kb", ALIASES), config.unit_rows, ALIASES)
    inputs = {"kb": kb.fingerprint}
    documents = paths.manifest("documents")
    if (
        documents is not None and "titles" in documents.inputs
    ):  # else they are left over from another corpus
        inputs["titles"] = paths.require("titles").fingerprint
        units += row_units(paths.files("titles", REDIRECTS), config.unit_rows, REDIRECTS)
    if config.anchors and documents is not None:
        inputs["documents"] = paths.require("documents").fingerprint
        for path in paths.files(
            "documents", ANCHORS
        ):  # whole files: their texts lie in the part of the same number
            units.append(Unit(index=0, of=0, path=path, start=0, end=check_table(path, ANCHORS)))
    return units, inputs


def _layout(config: IndexConfig, paths: RunPaths, num_rows: int, num_entities: int) -> Layout:
    num_shards = config.num_shards or -(-num_rows // SHARD_ROWS) or 1
    num_parts = -(-num_entities // PART_ENTITIES) or 1
    num_fuzzy_parts = -(-num_shards // SHARDS_PER_FUZZY_PART)
    return Layout(
        limits=Limits(
            num_shards=num_shards, num_parts=num_fuzzy_parts, max_candidates=config.max_candidates
        ),
        qid_bounds=qid_bounds(paths.files("kb", ENTITIES), num_parts),
    )


def _later_units(layout: Layout, num_rows: int) -> list[list[Unit]]:
    """Units of the phases after the rows are spilled; their sizes are for the progress bar."""
    parts, shards = range(len(layout.qid_bounds) + 1), range(layout.limits.num_shards)
    per_shard = num_rows // layout.limits.num_shards
    return [
        [
            sized_unit("classes"),
            *(sized_unit(f"parts/{number}", PART_ENTITIES) for number in parts),
        ],
        [
            *(sized_unit(f"shards/{number}", per_shard) for number in shards),
            *(sized_unit(f"terms/{number}", PART_ENTITIES) for number in parts),
        ],
        [
            *(
                sized_unit(f"{kind}/{number}", per_shard)
                for kind in ("fuzzy", "words")
                for number in range(layout.limits.num_parts)
            ),
            sized_unit("openings", per_shard),
            *(sized_unit(f"arrays/{name}") for name in ARRAYS),
        ],
    ]
