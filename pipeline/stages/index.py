"""Stage `index`: aliases and anchor counts to the memory-mapped alias index, entities to the entity store.

Units are rows of `aliases` and, where the corpus has gold links, of `anchors`. Their keys are grouped per shard.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipeline.config import IndexConfig
from pipeline.core.aliases import bucket_of, merge_partials, partial_rows, sorted_postings
from pipeline.stages.titles import open_title_map
from pipeline.storage import files
from pipeline.storage.alias_index import write_blocks, write_shard
from pipeline.storage.arrays import local_folder
from pipeline.storage.entity_store import EntityStore, build_entity_store
from pipeline.storage.stage import StagePlan
from pipeline.storage.tables import RunPaths, check_table, read_rows, row_units
from pipeline.storage.units import Unit
from schemas import ALIASES, ANCHORS, DOCUMENTS, REDIRECTS
from schemas.manifest import PartFile
from schemas.settings import to_dict

ALIAS_GROUP = "aliases"


@dataclass(frozen=True, kw_only=True)
class IndexWorker:
    """Aliases of one unit to shards; shards to files."""

    paths: RunPaths
    config: IndexConfig

    def prepare(self, folder: str) -> None:
        """Build the entity store: postings are cut by popularity."""
        build_entity_store(self.paths, files.join(folder, "entities"))

    def partials(self, unit: Unit, counters: Counter[str]) -> Iterator[tuple[str, int, pa.Table]]:
        """Keys of the unit's aliases, per shard."""
        name = posixpath.basename(posixpath.dirname(unit.path))
        read = {ANCHORS.name: self._anchor_rows, REDIRECTS.name: self._redirect_rows}.get(name, self._alias_rows)
        for rows in read(unit):
            counters["rows_in"] += rows.num_rows
            counters["rows_out"] += rows.num_rows
            counters[f"from_{name}"] += rows.num_rows
            keyed = partial_rows(rows)
            buckets = np.array([bucket_of(key, self.config.num_shards) for key in keyed.column("key").to_pylist()])
            for bucket in range(self.config.num_shards):
                part = keyed.filter(pa.array(buckets == bucket)) if len(buckets) else keyed
                if part.num_rows:
                    yield ALIAS_GROUP, bucket, part

    def _alias_rows(self, unit: Unit) -> Iterator[pa.Table]:
        yield from read_rows(unit.path, ALIASES, unit.start, unit.end)

    def _anchor_rows(self, unit: Unit) -> Iterator[pa.Table]:
        """Anchors as aliases. An anchor file's unit is the part of the same number of `documents`."""
        texts: dict[str, str] = {}
        for rows in read_rows(unit.path.replace("/anchors/", "/documents/"), DOCUMENTS):
            texts.update(zip(rows.column("doc_id").to_pylist(), rows.column("text").to_pylist(), strict=True))
        for rows in read_rows(unit.path, ANCHORS, unit.start, unit.end):
            ranges = zip(*(rows.column(name).to_pylist() for name in ("doc_id", "start", "end")), strict=True)
            surfaces = [texts[doc_id][start:end] for doc_id, start, end in ranges]
            columns = {
                "surface": surfaces,
                "qid": rows.column("qid"),
                "source": ["anchor"] * len(surfaces),
                "count": [1] * len(surfaces),
            }
            yield ALIASES.from_columns(columns)

    def _redirect_rows(self, unit: Unit) -> Iterator[pa.Table]:
        """Titles that redirect to an article are names of its item."""
        titles = open_title_map(self.paths.artefact("titles", "titles"))
        for rows in read_rows(unit.path, REDIRECTS, unit.start, unit.end):
            sources = rows.column("source").to_pylist()
            found = [(source, qid) for source, qid in zip(sources, titles.find(sources), strict=True) if qid]
            yield ALIASES.from_rows([(source, qid, "redirect", 1) for source, qid in found])

    def merge(self, group: str, parts: Sequence[pa.Table]) -> pa.Table:  # noqa: ARG002
        """One row per key and item."""
        return merge_partials(parts)

    def write(self, folder: str, group: str, bucket: int, rows: pa.Table) -> None:  # noqa: ARG002
        """One shard of the alias index."""
        store = EntityStore(local_folder(files.join(folder, "entities")))
        places = store.rows(rows.column("qid").to_numpy())
        popularity = np.where(places >= 0, store.popularity(np.maximum(places, 0)), 0) if len(store) else places * 0
        target = files.join(folder, "aliases")
        write_shard(target, bucket, sorted_postings(rows, popularity, self.config.max_candidates))

    def finish(self, folder: str) -> tuple[dict[str, list[PartFile]], dict[str, str]]:
        """Fill shards that got no key, write the fuzzy blocks."""
        target = files.join(folder, "aliases")
        empty = sorted_postings(merge_partials([partial_rows(ALIASES.empty())]), np.empty(0, np.uint32), 1)
        for shard in range(self.config.num_shards):
            if not files.exists(files.join(target, f"alias-{shard:03d}.marisa")):
                write_shard(target, shard, empty)
        write_blocks(target, self.config.num_shards)
        return {}, {"aliases": "aliases", "entities": "entities"}


def plan(config: IndexConfig, paths: RunPaths) -> StagePlan:
    """Units of aliases, of redirects and of anchors where the corpus has them."""
    kb = paths.require("kb")
    units = row_units(paths.files("kb", ALIASES), config.unit_rows, ALIASES)
    inputs = {"kb": kb.fingerprint}
    documents = paths.manifest("documents")
    if documents is not None and "titles" in documents.inputs:  # else they are left over from another corpus
        inputs["titles"] = paths.require("titles").fingerprint
        units += row_units(paths.files("titles", REDIRECTS), config.unit_rows, REDIRECTS)
    if config.anchors and documents is not None:
        inputs["documents"] = paths.require("documents").fingerprint
        for path in paths.files("documents", ANCHORS):  # whole files: their texts lie in the part of the same number
            units.append(Unit(index=0, of=0, path=path, start=0, end=check_table(path, ANCHORS)))
    units = [replace(unit, index=number, of=len(units)) for number, unit in enumerate(units)]
    return StagePlan(
        name="index",
        tables=(),
        units=units,
        worker=IndexWorker(paths=paths, config=config),
        inputs=inputs,
        config=to_dict(config),
    )
