"""Rows of the alias index: from alias rows to one row per key and item, cut to the best items of each key.

Columns: keys are whole numbers (a code per distinct key), flags are source bits, counts are anchors. All orders are
total, so the result does not depend on how the rows were split. Costs about 2 µs per alias row.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.arrays.runs import first_per_owner, spread
from pipeline.index.name_keys import SOURCE_BITS, TITLE_SOURCES, index_keys
from schemas.array_types import Array


@dataclass(frozen=True, slots=True)
class Rows:
    """Parallel arrays of shape (n,)."""

    keys: Array  # integers
    qids: Array  # uint32
    flags: Array  # uint8, source bits united
    counts: Array  # uint64, anchors with this key that lead to the item


def united(rows: Rows) -> Rows:
    """One row per (key, item), in that order: flags united, counts added. Associative, commutative, exact."""
    if not len(rows.keys):
        return rows
    joint = (rows.keys.astype(np.uint64) << np.uint64(32)) | rows.qids.astype(np.uint64)
    order = np.argsort(joint, kind="stable")
    joint = joint[order]
    starts = np.flatnonzero(np.concatenate([[True], joint[1:] != joint[:-1]]))
    return Rows(
        keys=rows.keys[order][starts],
        qids=rows.qids[order][starts],
        flags=np.bitwise_or.reduceat(rows.flags[order], starts),
        counts=np.add.reduceat(rows.counts[order], starts),
    )


def best_of_each(rows: Rows, popularity: Array, max_candidates: int) -> tuple[Rows, Array]:
    """Rows by key, then most pointed-to first (anchors, popularity, lower id), at most so many per key; their popularity."""
    order = np.lexsort(
        (rows.qids, -popularity.astype(np.int64), -rows.counts.astype(np.int64), rows.keys)
    )
    kept = order[first_per_owner(rows.keys[order], max_candidates)]
    return Rows(rows.keys[kept], rows.qids[kept], rows.flags[kept], rows.counts[kept]), popularity[
        kept
    ]


def partial_rows(rows: pa.Table) -> tuple[pa.Array, Rows]:
    """Alias rows (surface, qid, source, count) as distinct keys, and united rows whose keys are places among these.

    One Python call per distinct surface (`index_keys`), the rest is vectorised.
    """
    names = rows.column("surface").combine_chunks().dictionary_encode()
    is_title, flags, counts = _sources(rows)
    kinds, kind_of_row = np.unique(
        names.indices.to_numpy().astype(np.int64) * 2 + is_title, return_inverse=True
    )
    texts = names.dictionary.to_pylist()
    listed: list[str] = []
    ends = array("q", [0])
    for (
        kind
    ) in kinds.tolist():  # no list of lists: the garbage collector would walk it again and again
        listed += index_keys(texts[kind >> 1], TITLE_SOURCES[0] if kind & 1 else "label")
        ends.append(len(listed))
    offsets = np.array(ends, np.int64)
    keys = pa.array(listed, pa.string()).dictionary_encode()
    sizes_of_row = np.diff(offsets)[kind_of_row]
    places = spread(offsets[kind_of_row], sizes_of_row)
    owners = np.repeat(np.arange(rows.num_rows), sizes_of_row)
    qids = rows.column("qid").to_numpy()
    codes = keys.indices.to_numpy()[places]
    return keys.dictionary, united(Rows(codes, qids[owners], flags[owners], counts[owners]))


def _sources(rows: pa.Table) -> tuple[Array, Array, Array]:
    """Per row: 1 for a title, the bit of its source, and its count if it is an anchor."""
    sources = rows.column("source").combine_chunks().dictionary_encode()
    names, codes = sources.dictionary.to_pylist(), sources.indices.to_numpy()
    is_title = np.array([name in TITLE_SOURCES for name in names], np.int64)[codes]
    flags = np.array([SOURCE_BITS[name] for name in names], np.uint8)[codes]
    is_anchor = np.array([name == "anchor" for name in names], np.uint64)[codes]
    return is_title, flags, rows.column("count").to_numpy().astype(np.uint64) * is_anchor
