"""Writing the alias index, a shard at a time: what `alias_index` reads.

Per shard a marisa trie (5 to 8 bytes per key) and its postings. Nine keys in ten have one item, so there are no offsets:
by trie id an item (`qid`, 4 bytes) and its source bits (`flags`, 1 byte). A key with several has SEVERAL + their number in
`flags`, and in `qid` the place of the first in `run_qid` and `run_flags`; from LONG_RUN on the number itself stands at this
place, before the first. Anchor counts only where there are any, 8 bytes: by trie id, or number of keys + place in the runs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import marisa_trie
import numpy as np
import pyarrow as pa

from pipeline.arrays.mapped_files import local_folder
from pipeline.arrays.runs import offsets_of, owners_of, runs_of, spread
from pipeline.arrays.sections import map_sections, save_sections, section_lengths
from pipeline.engine import files
from pipeline.engine.spill import concat_spill, read_spill, write_spill
from pipeline.index.fuzzy_blocks import part_path, parts_of, write_blocks
from pipeline.index.fuzzy_keys import block_hashes
from pipeline.index.name_keys import NORMALISATION_VERSION, bucket_of
from pipeline.index.name_words import spill_words
from pipeline.index.postings import Rows, best_of_each, partial_rows, united
from schemas.array_types import Array

DESCRIPTION = "index.json"
FORMAT = 3
SEVERAL = 128  # above the source bits
LONG_RUN = 127
NUM_TRIES = 5  # smaller than the usual 3 by 8 %, as fast
MAX_COUNT = (1 << 32) - 1
BLOCK_ROWS = pa.schema([("hash", pa.uint32()), ("key", pa.uint32())])
PARTIAL = pa.schema(
    [("key", pa.string()), ("qid", pa.uint32()), ("flags", pa.uint8()), ("count", pa.uint64())]
)
Popularity = Callable[[Array], Array]  # of items


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What decides the files of an index."""

    num_shards: int
    num_parts: int  # of the fuzzy blocks, and of the words
    max_candidates: int  # per key


def trie_path(folder: str, shard: int) -> str:
    """File of a shard's keys."""
    return files.join(folder, f"alias-{shard:03d}.marisa")


def postings_path(folder: str, shard: int) -> str:
    """File of a shard's postings."""
    return files.join(folder, f"alias-{shard:03d}.safetensors")


def spill_aliases(data: str, unit: int, rows: pa.Table, num_shards: int) -> None:
    """Rows of `aliases` to their shards, one per key and item. Memory: 500 bytes per row."""
    keys, found = partial_rows(rows)
    texts = keys.to_pylist()
    shards = np.fromiter((bucket_of(text, num_shards) for text in texts), np.int64, len(texts))
    columns = [keys.take(pa.array(found.keys)), found.qids, found.flags, found.counts]
    write_spill(
        data, "aliases", unit, pa.table(columns, schema=PARTIAL), shards[found.keys], num_shards
    )


def build_shard(
    data: str, folder: str, shard: int, popularity_of: Popularity, limits: Limits
) -> int:
    """Write a shard from what the units left for it, and leave its blocks for the fuzzy parts; returns its keys."""
    keys, rows, popularity = write_shard(
        folder, shard, concat_spill(data, "aliases", shard, PARTIAL), popularity_of, limits
    )
    spill_words(data, shard, keys, rows, popularity, limits.num_parts)
    hashes, ids = blocks_of(keys)
    blocks = pa.table([hashes, ids], schema=BLOCK_ROWS)
    write_spill(data, "fuzzy", shard, blocks, parts_of(hashes, limits.num_parts), limits.num_parts)
    return len(keys)


def build_blocks(data: str, folder: str, part: int, limits: Limits) -> None:
    """Write a fuzzy part from what all shards left for it. Memory: 60 bytes per entry."""
    hashes, keys = [np.empty(0, np.uint32)], [np.empty(0, np.uint32)]
    firsts = np.cumsum([0, *shard_sizes(folder, limits.num_shards)])
    for first, rows in zip(firsts[:-1].tolist(), read_spill(data, "fuzzy", part), strict=True):
        hashes.append(rows.column("hash").to_numpy())
        keys.append(rows.column("key").to_numpy() + np.uint32(first))
    write_blocks(
        part_path(folder, part), np.concatenate(hashes), np.concatenate(keys), limits.num_parts
    )


def shard_sizes(folder: str, num_shards: int) -> list[int]:
    """Keys of each shard."""
    return [section_lengths(postings_path(folder, shard))["flags"] for shard in range(num_shards)]


def write_shard(
    folder: str, shard: int, partial: pa.Table, popularity_of: Popularity, limits: Limits
) -> tuple[list[str], Rows, Array]:
    """Write one shard from partial rows (key, qid, flags, count) in any order, keys repeated at will.

    Memory: about 300 bytes per row. Returns the keys, by trie id, the rows, and the popularity of each.
    """
    names = partial.column("key").combine_chunks().dictionary_encode()
    texts = names.dictionary.to_pylist()
    trie = marisa_trie.Trie(texts, num_tries=NUM_TRIES)
    ids = np.fromiter(map(trie.key_id, texts), np.uint32, len(texts))
    columns = (partial.column(name).to_numpy() for name in ("qid", "flags", "count"))
    rows = united(Rows(ids[names.indices.to_numpy()], *columns))
    popularity = popularity_of(rows.qids)
    rows, popularity = best_of_each(rows, popularity, limits.max_candidates)
    save_sections(postings_path(folder, shard), _sections(rows, len(trie)))
    _save_trie(trie_path(folder, shard), trie)
    keys = np.empty(len(texts), object)
    keys[ids] = texts
    return keys.tolist(), rows, popularity


def _sections(rows: Rows, num_keys: int) -> dict[str, Array]:
    """Arrays of a shard from rows sorted by key; every key has one."""
    sizes = np.bincount(rows.keys, minlength=num_keys)
    starts = offsets_of(sizes)[:-1]
    single, several = np.flatnonzero(sizes == 1), np.flatnonzero(sizes > 1)
    lengths = sizes[several]
    is_long = lengths >= LONG_RUN
    run_starts = offsets_of(lengths + is_long)
    places, sources = spread(run_starts[:-1] + is_long, lengths), spread(starts[several], lengths)
    arrays: dict[str, Array] = {
        "qid": np.empty(num_keys, np.uint32),
        "flags": np.empty(num_keys, np.uint8),
        "run_qid": np.zeros(run_starts[-1], np.uint32),
        "run_flags": np.zeros(run_starts[-1], np.uint8),
    }
    arrays["qid"][single], arrays["flags"][single] = (
        rows.qids[starts[single]],
        rows.flags[starts[single]],
    )
    arrays["qid"][several], arrays["flags"][several] = (
        run_starts[:-1],
        SEVERAL | np.minimum(lengths, LONG_RUN),
    )
    arrays["run_qid"][run_starts[:-1][is_long]] = lengths[is_long]
    arrays["run_qid"][places], arrays["run_flags"][places] = rows.qids[sources], rows.flags[sources]
    numbers = np.empty(len(rows.qids), np.int64)
    numbers[starts[single]], numbers[sources] = single, num_keys + places
    return arrays | _counts(numbers, rows.counts)


def _counts(numbers: Array, counts: Array) -> dict[str, Array]:
    """The counts that are not zero, by number of the posting."""
    counted = np.flatnonzero(counts)
    order = counted[np.argsort(numbers[counted])]
    return {
        "counted": numbers[order].astype(np.uint32),
        "count": np.minimum(counts[order], MAX_COUNT).astype(np.uint32),
    }


def _save_trie(path: str, trie: marisa_trie.Trie) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / "keys"
        trie.save(str(local))
        files.write_bytes(path, local.read_bytes())


def blocks_of(keys: Sequence[str]) -> tuple[Array, Array]:
    """Block hashes of a shard's keys, and the trie ids of the keys they list."""
    offsets, hashes = runs_of(map(block_hashes, keys))
    return hashes, owners_of(offsets).astype(np.uint32)


def write_description(folder: str, limits: Limits) -> int:
    """Make the index readable: the last file of all. Returns the number of keys."""
    sizes = shard_sizes(folder, limits.num_shards)
    local = local_folder(folder)
    counts = (
        int(map_sections(postings_path(local, shard))["count"].sum(dtype=np.int64))
        for shard in range(limits.num_shards)
    )
    description = {
        "format": FORMAT,
        "normalisation": NORMALISATION_VERSION,
        "sizes": sizes,
        "num_fuzzy_parts": limits.num_parts,
        "num_links": sum(counts),
    }
    files.write_bytes(files.join(folder, DESCRIPTION), json.dumps(description).encode())
    return sum(sizes)
