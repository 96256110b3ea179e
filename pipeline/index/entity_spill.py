"""The entity store's first phases: items that were merged, then entities and triples by range of QIDs.

Buckets are ranges of QIDs, so arrays sorted by QID are the buckets' arrays one after another. A unit reports of a popular
item at most MAX_NEIGHBOURS neighbours, and a number: no bucket grows with the triples that point into it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays.mapped_files import local_folder
from pipeline.arrays.sections import map_sections, save_sections
from pipeline.arrays.sorted_map import SortedMap, follow, sorted_map
from pipeline.engine import files
from pipeline.engine.spill import spill_folder, write_spill
from pipeline.engine.tables import open_table, read_batches, read_rows
from pipeline.engine.tasks import RowRange, Unit
from pipeline.index.neighbours import Pairs, both_ways, nearest
from schemas import ENTITIES, REDIRECTS, TRIPLES
from schemas.array_types import Array

SUBCLASS_OF = 279
MAX_QID = (1 << 32) - 1
SAMPLED_FILES = 32
ENTITY_COLUMNS = (
    "qid", "label", "description", "enwiki_title", "num_sitelinks", "num_statements", "instance_of", "is_meta",
)  # fmt: skip
ENTITY_ROWS = pa.schema([ENTITIES.schema.field(name) for name in ENTITY_COLUMNS])
DEGREE_ROWS = pa.schema([("qid", pa.uint32()), ("count", pa.uint32())])
NEAR_ROWS = pa.schema([("one", pa.uint32()), ("other", pa.uint32()), ("is_incoming", pa.uint8())])
CLASS_ROWS = pa.schema([("child", pa.uint32()), ("parent", pa.uint32())])
MERGED = "merged"


def qid_bounds(paths: Sequence[str], num_buckets: int) -> tuple[int, ...]:
    """The first QIDs of all buckets but the first, so that buckets are about equal: from some files' beginnings."""
    step = -(-len(paths) // SAMPLED_FILES) if paths else 1
    samples = [np.empty(0, np.uint32)]
    for path in paths[::step] if num_buckets > 1 else ():
        with open_table(path, ENTITIES) as file:
            if file.num_row_groups:
                samples.append(file.read_row_group(0, columns=["qid"]).column("qid").to_numpy())
    known = np.sort(np.concatenate(samples))
    if not len(known):
        return (1,) * (num_buckets - 1)
    places = np.arange(1, num_buckets) * len(known) // num_buckets
    return tuple(known[places].tolist())


def buckets_of(qids: Array, bounds: Sequence[int]) -> Array:
    """The bucket of each item."""
    return np.searchsorted(np.array(bounds, np.uint32), qids, "right")


def write_merged(data: str, paths: Sequence[str]) -> None:
    """Items that were merged into others, and what they became, through chains. Memory: 16 bytes per redirect."""
    found = [
        _item_pairs(batch)
        for path in paths
        for batch in read_batches(path, REDIRECTS, ["source", "target"])
    ]
    sources, targets = (
        np.concatenate([np.empty(0, np.uint32), *(pair[side] for pair in found)]).astype(np.uint32)
        for side in (0, 1)
    )
    merged = sorted_map(sources, targets)
    arrays = {"source": merged.keys, "target": follow(merged, merged.values)}
    save_sections(files.join(spill_folder(data), MERGED, "merged.safetensors"), arrays)


def _item_pairs(batch: pa.RecordBatch) -> tuple[Array, Array]:
    numbers = []
    for name in ("source", "target"):
        text = batch.column(name)
        is_item = pc.match_substring_regex(text, "^Q[0-9]{1,10}$")
        numbers.append(
            pc.cast(
                pc.utf8_slice_codeunits(pc.if_else(is_item, text, "Q0"), 1), pa.int64()
            ).to_numpy()
        )
    kept = (numbers[0] > 0) & (numbers[1] > 0) & (numbers[0] <= MAX_QID) & (numbers[1] <= MAX_QID)
    return numbers[0][kept], numbers[1][kept]


def merged_items(data: str) -> SortedMap:
    """What `write_merged` wrote."""
    arrays = map_sections(
        files.join(local_folder(files.join(spill_folder(data), MERGED)), "merged.safetensors")
    )
    return SortedMap(keys=arrays["source"], values=arrays["target"])


def spill_entities(data: str, unit: Unit[RowRange], bounds: Sequence[int]) -> None:
    """One unit's rows of `entities`, by QID."""
    parts = [ENTITY_ROWS.empty_table()]
    parts += [
        rows.select(ENTITY_COLUMNS)
        for rows in read_rows(unit.task.path, ENTITIES, unit.task.start, unit.task.end)
    ]
    rows = pa.concat_tables([part.cast(ENTITY_ROWS) for part in parts])
    buckets = buckets_of(rows.column("qid").to_numpy(), bounds)
    write_spill(data, "entities", unit.index, rows, buckets, len(bounds) + 1)


def spill_triples(data: str, unit: Unit[RowRange], bounds: Sequence[int]) -> None:
    """One unit's rows of `triples`: how often each item is pointed to, neighbours, and the graph of classes."""
    merged, num_buckets = merged_items(data), len(bounds) + 1
    read = list(read_rows(unit.task.path, TRIPLES, unit.task.start, unit.task.end))
    subjects, predicates, stored = (
        np.concatenate([np.empty(0, np.uint32), *(rows.column(name).to_numpy() for rows in read)])
        for name in ("subject", "predicate", "object")
    )
    is_merged, survivors = merged.find(stored)
    objects = np.where(is_merged, survivors, stored)
    targets, counts = np.unique(objects, return_counts=True)
    degrees = pa.table([targets, counts.astype(np.uint32)], schema=DEGREE_ROWS)
    write_spill(data, "degree", unit.index, degrees, buckets_of(targets, bounds), num_buckets)
    near: Pairs = nearest(both_ways(subjects, objects))
    rows = pa.table([near.one, near.other, near.is_incoming], schema=NEAR_ROWS)
    write_spill(data, "near", unit.index, rows, buckets_of(near.one, bounds), num_buckets)
    is_class = predicates == SUBCLASS_OF
    classes = pa.table([subjects[is_class], objects[is_class]], schema=CLASS_ROWS)
    write_spill(data, "classes", unit.index, classes, np.zeros(classes.num_rows, np.int64), 1)
