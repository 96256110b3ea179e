"""Spill the rows of the entity store's first phases: merged items, then rows by range of QIDs.

Buckets are ranges of QIDs, so the store's arrays, which are sorted by QID, are the buckets' arrays
one after another. Of a popular item a unit reports at most MAX_NEIGHBOURS neighbours, and a count:
no bucket grows with the number of triples that point into it.
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
from pipeline.index.implied_types import implied_types
from pipeline.index.neighbours import best_neighbours, pairs_both_ways
from schemas import ENTITIES, REDIRECTS, TRIPLES
from schemas.array_types import I64, U32, Ints

SUBCLASS_OF = 279
MAX_QID = (1 << 32) - 1
# Files of `entities` whose beginnings are read to find the bounds of the buckets.
SAMPLED_FILES = 32
ENTITY_COLUMNS = (
    "qid", "label", "description", "enwiki_title", "num_sitelinks", "num_statements",
    "instance_of", "is_meta",
)  # fmt: skip
ENTITY_ROWS = pa.schema([ENTITIES.schema.field(name) for name in ENTITY_COLUMNS])
DEGREE_ROWS = pa.schema([("qid", pa.uint32()), ("count", pa.uint32())])
# `other` is a neighbour of `one`.
NEAR_ROWS = pa.schema([("one", pa.uint32()), ("other", pa.uint32()), ("is_incoming", pa.uint8())])
CLASS_ROWS = pa.schema([("child", pa.uint32()), ("parent", pa.uint32())])
# Type bits that statements imply.
IMPLIED_ROWS = pa.schema([("qid", pa.uint32()), ("bits", pa.uint8())])
# Folder of the file that says which items were merged.
MERGED = "merged"


def qid_bounds(paths: Sequence[str], num_buckets: int) -> tuple[int, ...]:
    """Return the first QID of each bucket but the first one.

    Buckets are about equal, judged from the first rows of some of the files.
    """
    step = -(-len(paths) // SAMPLED_FILES) if paths else 1
    samples = [np.empty(0, np.uint32)]
    # The beginnings of files all over the dump are a fair sample of it.
    for path in paths[::step] if num_buckets > 1 else ():
        with open_table(path, ENTITIES) as file:
            if file.num_row_groups:
                samples.append(file.read_row_group(0, columns=["qid"]).column("qid").to_numpy())

    qids = np.sort(np.concatenate(samples))
    if not len(qids):
        return (1,) * (num_buckets - 1)
    # Quantiles of the sample.
    rows = np.arange(1, num_buckets) * len(qids) // num_buckets
    return tuple(qids[rows].tolist())


def buckets_of(qids: U32, bounds: Sequence[int]) -> I64:
    """Return the bucket of each item."""
    return np.searchsorted(np.array(bounds, np.uint32), qids, "right")


def write_merged(data: str, paths: Sequence[str]) -> None:
    """Write which items were merged into others, and into which, through chains.

    Memory: 16 bytes per redirect.
    """
    pairs = [
        _item_pairs(batch)
        for path in paths
        for batch in read_batches(path, REDIRECTS, ["source", "target"])
    ]
    # The empty arrays give the dtype where there are no redirects.
    empty = np.empty(0, np.uint32)
    sources = np.concatenate([empty, *(source for source, _ in pairs)]).astype(np.uint32)
    targets = np.concatenate([empty, *(target for _, target in pairs)]).astype(np.uint32)

    merged = sorted_map(sources, targets)
    arrays = {"source": merged.keys, "target": follow(merged, merged.values)}
    save_sections(files.join(spill_folder(data), MERGED, "merged.safetensors"), arrays)


def _item_pairs(batch: pa.RecordBatch) -> tuple[Ints, Ints]:
    """Return the sources and targets of redirects between items; other redirects are left out."""
    numbers = []
    for name in ("source", "target"):
        text = batch.column(name)
        is_item = pc.match_substring_regex(text, "^Q[0-9]{1,10}$")
        # No item has the number 0: it marks what is none.
        digits = pc.utf8_slice_codeunits(pc.if_else(is_item, text, "Q0"), 1)
        numbers.append(pc.cast(digits, pa.int64()).to_numpy())

    sources, targets = numbers
    is_pair = (sources > 0) & (targets > 0) & (sources <= MAX_QID) & (targets <= MAX_QID)
    return sources[is_pair], targets[is_pair]


def merged_items(data: str) -> SortedMap:
    """Read what `write_merged` wrote: from merged items to the items that they became."""
    folder = local_folder(files.join(spill_folder(data), MERGED))
    arrays = map_sections(files.join(folder, "merged.safetensors"))
    return SortedMap(keys=arrays["source"], values=arrays["target"])


def spill_entities(data: str, unit: Unit[RowRange], bounds: Sequence[int]) -> None:
    """Spill one unit's rows of `entities` by range of QIDs."""
    tables = [ENTITY_ROWS.empty_table()]
    tables += [
        rows.select(ENTITY_COLUMNS)
        for rows in read_rows(unit.task.path, ENTITIES, unit.task.start, unit.task.end)
    ]
    rows = pa.concat_tables([table.cast(ENTITY_ROWS) for table in tables])

    buckets = buckets_of(rows.column("qid").to_numpy(), bounds)
    write_spill(data, "entities", unit.index, rows, buckets, len(bounds) + 1)


def spill_triples(data: str, unit: Unit[RowRange], bounds: Sequence[int]) -> None:
    """Spill one unit's rows of `triples`.

    By range of QIDs: how often each item is pointed to, and neighbours. In one bucket: the graph of
    classes.
    """
    merged, num_buckets = merged_items(data), len(bounds) + 1
    tables = list(read_rows(unit.task.path, TRIPLES, unit.task.start, unit.task.end))
    subjects, predicates, stored = (
        np.concatenate([np.empty(0, np.uint32), *(rows.column(name).to_numpy() for rows in tables)])
        for name in ("subject", "predicate", "object")
    )
    # A triple may point to an item that was merged into another since.
    is_merged, survivors = merged.find(stored)
    objects = np.where(is_merged, survivors, stored)

    targets, counts = np.unique(objects, return_counts=True)
    degrees = pa.table([targets, counts.astype(np.uint32)], schema=DEGREE_ROWS)
    write_spill(data, "degree", unit.index, degrees, buckets_of(targets, bounds), num_buckets)

    # Cut to the best before they are written: an item like a country has millions in one unit.
    near = best_neighbours(pairs_both_ways(subjects, objects))
    rows = pa.table([near.item, near.neighbour, near.is_incoming], schema=NEAR_ROWS)
    write_spill(data, "near", unit.index, rows, buckets_of(near.item, bounds), num_buckets)

    items, bits = implied_types(subjects, predicates, objects)
    rows = pa.table([items, bits], schema=IMPLIED_ROWS)
    write_spill(data, "implied", unit.index, rows, buckets_of(items, bounds), num_buckets)

    is_class = predicates == SUBCLASS_OF
    classes = pa.table([subjects[is_class], objects[is_class]], schema=CLASS_ROWS)
    write_spill(data, "classes", unit.index, classes, np.zeros(classes.num_rows, np.int64), 1)
