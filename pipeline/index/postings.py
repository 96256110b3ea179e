"""Turn alias rows into one row per key and item, cut to the best items of each key.

All orders are total, so the result does not depend on how the rows were split. Costs about 2 µs per
alias row.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.arrays.runs import first_per_owner, spread
from pipeline.index.name_keys import SOURCE_BITS, TITLE_SOURCES, index_keys
from schemas.array_types import I64, U8, U32, U64, Ints


@dataclass(frozen=True, slots=True)
class PostingRows:
    """Hold rows of the alias index as parallel arrays of shape (n,)."""

    # A whole number per distinct key.
    keys: Ints
    qids: U32
    # Source bits, united.
    flags: U8
    # Anchors with this key that lead to the item.
    counts: U64


def unite(rows: PostingRows) -> PostingRows:
    """Return one row per (key, item), in this order: flags united, counts added.

    Associative, commutative and exact, so rows may be united in any number of steps.
    """
    if not len(rows.keys):
        return rows

    # Key and item in one number: one sort brings equal rows together.
    joint = (rows.keys.astype(np.uint64) << np.uint64(32)) | rows.qids.astype(np.uint64)
    order = np.argsort(joint, kind="stable")
    joint = joint[order]
    starts = np.flatnonzero(np.concatenate([[True], joint[1:] != joint[:-1]]))

    return PostingRows(
        keys=rows.keys[order][starts],
        qids=rows.qids[order][starts],
        flags=np.bitwise_or.reduceat(rows.flags[order], starts),
        counts=np.add.reduceat(rows.counts[order], starts),
    )


def best_per_key(
    rows: PostingRows, popularity: Ints, max_candidates: int
) -> tuple[PostingRows, Ints]:
    """Return at most `max_candidates` rows of each key, and their popularity.

    Sorted by key, then the most pointed-to first: by anchors, popularity, lower id.
    """
    # Minus an unsigned number would overflow.
    order = np.lexsort(
        (rows.qids, -popularity.astype(np.int64), -rows.counts.astype(np.int64), rows.keys)
    )
    best = order[first_per_owner(rows.keys[order], max_candidates)]
    best_rows = PostingRows(rows.keys[best], rows.qids[best], rows.flags[best], rows.counts[best])
    return best_rows, popularity[best]


def posting_rows(aliases: pa.Table) -> tuple[pa.Array, PostingRows]:
    """Return the distinct keys of alias rows, and united rows.

    One Python call per distinct surface (`index_keys`); the rest is vectorised.

    Args:
        aliases: with columns surface, qid, source and count.

    Returns:
        Keys; and rows whose `keys` are positions among these keys.
    """
    surfaces = aliases.column("surface").combine_chunks().dictionary_encode()
    is_title, flags, counts = _source_columns(aliases)

    # A surface has the same keys in all rows, except that titles have some more. So a kind is a
    # surface and a bit, and the keys are made once per kind.
    kinds, kind_of_row = np.unique(
        surfaces.indices.to_numpy().astype(np.int64) * 2 + is_title, return_inverse=True
    )
    texts = surfaces.dictionary.to_pylist()

    # The keys of all kinds end to end. A list of lists would be walked by the garbage collector
    # again and again.
    listed: list[str] = []
    ends = array("q", [0])
    for kind in kinds.tolist():
        listed += index_keys(texts[kind >> 1], TITLE_SOURCES[0] if kind & 1 else "label")
        ends.append(len(listed))
    offsets = np.array(ends, np.int64)
    keys = pa.array(listed, pa.string()).dictionary_encode()

    # From kinds to rows: `positions` among the listed keys, `owners` among the alias rows.
    sizes_of_row = np.diff(offsets)[kind_of_row]
    positions = spread(offsets[kind_of_row], sizes_of_row)
    owners = np.repeat(np.arange(aliases.num_rows), sizes_of_row)
    qids = aliases.column("qid").to_numpy()
    codes = keys.indices.to_numpy()[positions]
    return keys.dictionary, unite(PostingRows(codes, qids[owners], flags[owners], counts[owners]))


def _source_columns(aliases: pa.Table) -> tuple[I64, U8, U64]:
    """Return, per row: 1 for a title, the bit of its source, and its count if it is an anchor."""
    sources = aliases.column("source").combine_chunks().dictionary_encode()
    names, codes = sources.dictionary.to_pylist(), sources.indices.to_numpy()

    is_title = np.array([name in TITLE_SOURCES for name in names], np.int64)[codes]
    flags = np.array([SOURCE_BITS[name] for name in names], np.uint8)[codes]
    is_anchor = np.array([name == "anchor" for name in names], np.uint64)[codes]
    return is_title, flags, aliases.column("count").to_numpy().astype(np.uint64) * is_anchor
