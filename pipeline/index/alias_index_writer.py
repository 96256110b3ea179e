"""Write the alias index, a shard at a time: the files that `alias_index` reads.

A shard has a marisa trie (5 to 8 bytes per key) and its postings. Nine keys in ten have one item,
so there are no offsets. Instead, by trie id: an item (`qid`, 4 bytes) and its source bits (`flags`,
1 byte). A key with several items has SEVERAL + their number in `flags`, and in `qid` the position
of the first in `run_qid` and `run_flags`. From LONG_RUN on the number itself is at this position,
before the first item. Only anchor counts above 0 are stored, 8 bytes each: by trie id, or by number
of keys + position in the runs.
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
from pipeline.index.postings import PostingRows, best_per_key, posting_rows, unite
from schemas.array_types import I64, U32, U64, Array, Ints

DESCRIPTION = "index.json"
FORMAT = 3
# Above all source bits.
SEVERAL = 128
LONG_RUN = 127
# Smaller than with the usual 3 by 8 %, and as fast.
NUM_TRIES = 5
MAX_COUNT = (1 << 32) - 1
BLOCK_ROWS = pa.schema([("hash", pa.uint32()), ("key", pa.uint32())])
POSTING_ROWS = pa.schema(
    [("key", pa.string()), ("qid", pa.uint32()), ("flags", pa.uint8()), ("count", pa.uint64())]
)
# Returns the popularity of items.
Popularity = Callable[[U32], U32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Say into how many files an index is cut, and how many candidates a key may have."""

    num_shards: int
    # Of the fuzzy blocks, and of the words.
    num_parts: int
    # Per key.
    max_candidates: int


def trie_path(folder: str, shard: int) -> str:
    """Return the path of a shard's keys."""
    return files.join(folder, f"alias-{shard:03d}.marisa")


def postings_path(folder: str, shard: int) -> str:
    """Return the path of a shard's postings."""
    return files.join(folder, f"alias-{shard:03d}.safetensors")


def spill_aliases(data: str, unit: int, rows: pa.Table, num_shards: int) -> None:
    """Write a unit's rows of `aliases` to their shards' spill files, one row per key and item.

    Memory: 500 bytes per row.
    """
    keys, postings = posting_rows(rows)
    texts = keys.to_pylist()
    shard_of_key = np.fromiter(
        (bucket_of(text, num_shards) for text in texts), np.int64, len(texts)
    )

    columns = [keys.take(pa.array(postings.keys)), postings.qids, postings.flags, postings.counts]
    table = pa.table(columns, schema=POSTING_ROWS)
    write_spill(data, "aliases", unit, table, shard_of_key[postings.keys], num_shards)


def build_shard(
    data: str, folder: str, shard: int, popularity_of: Popularity, limits: Limits
) -> int:
    """Write a shard from the rows that the units spilled for it; return its number of keys.

    Spills the shard's words and fuzzy blocks for the next phase.
    """
    spilled = concat_spill(data, "aliases", shard, POSTING_ROWS)
    keys, rows, popularity = write_shard(folder, shard, spilled, popularity_of, limits)
    spill_words(data, shard, keys, rows, popularity, limits.num_parts)

    hashes, ids = blocks_of(keys)
    blocks = pa.table([hashes, ids], schema=BLOCK_ROWS)
    write_spill(data, "fuzzy", shard, blocks, parts_of(hashes, limits.num_parts), limits.num_parts)
    return len(keys)


def build_blocks(data: str, folder: str, part: int, limits: Limits) -> None:
    """Write a part of the fuzzy blocks from the rows that all shards spilled for it.

    Memory: 60 bytes per entry.
    """
    # Trie ids count within a shard; adding the shard's first number makes them count in the index.
    hashes, keys = [np.empty(0, np.uint32)], [np.empty(0, np.uint32)]
    first_numbers = np.cumsum([0, *shard_sizes(folder, limits.num_shards)])
    for first_number, rows in zip(
        first_numbers[:-1].tolist(), read_spill(data, "fuzzy", part), strict=True
    ):
        hashes.append(rows.column("hash").to_numpy())
        keys.append(rows.column("key").to_numpy() + np.uint32(first_number))

    write_blocks(
        part_path(folder, part), np.concatenate(hashes), np.concatenate(keys), limits.num_parts
    )


def shard_sizes(folder: str, num_shards: int) -> list[int]:
    """Return the number of keys of each shard."""
    return [section_lengths(postings_path(folder, shard))["flags"] for shard in range(num_shards)]


def write_shard(
    folder: str, shard: int, spilled: pa.Table, popularity_of: Popularity, limits: Limits
) -> tuple[list[str], PostingRows, Ints]:
    """Write one shard. Memory: about 300 bytes per row.

    Args:
        folder: of the index.
        shard: its number.
        spilled: rows (key, qid, flags, count) in any order, keys repeated at will.
        popularity_of: returns the popularity of items.
        limits: of the index.

    Returns:
        The keys by trie id, the rows of the shard, and the popularity of each row.
    """
    names = spilled.column("key").combine_chunks().dictionary_encode()
    texts = names.dictionary.to_pylist()
    trie = marisa_trie.Trie(texts, num_tries=NUM_TRIES)
    # The trie numbers its keys itself: from the dictionary's codes to trie ids.
    ids = np.fromiter(map(trie.key_id, texts), np.uint32, len(texts))

    columns = (spilled.column(name).to_numpy() for name in ("qid", "flags", "count"))
    rows = unite(PostingRows(ids[names.indices.to_numpy()], *columns))
    rows, popularity = best_per_key(rows, popularity_of(rows.qids), limits.max_candidates)

    save_sections(postings_path(folder, shard), _sections(rows, len(trie)))
    _save_trie(trie_path(folder, shard), trie)
    keys = np.empty(len(texts), object)
    keys[ids] = texts
    return keys.tolist(), rows, popularity


def _sections(rows: PostingRows, num_keys: int) -> dict[str, Array]:
    """Return the arrays of a shard's file from rows sorted by key; every key has a row."""
    # Keys with one item, and those with several: rows starts[key] to starts[key] + sizes[key].
    sizes = np.bincount(rows.keys, minlength=num_keys)
    starts = offsets_of(sizes)[:-1]
    single, several = np.flatnonzero(sizes == 1), np.flatnonzero(sizes > 1)

    # A run takes one more position where its length stands before it.
    lengths = sizes[several]
    is_long = lengths >= LONG_RUN
    run_offsets = offsets_of(lengths + is_long)
    run_starts = run_offsets[:-1]
    # Of all rows of these keys: the position in the runs, and the row.
    positions = spread(run_starts + is_long, lengths)
    run_rows = spread(starts[several], lengths)

    arrays: dict[str, Array] = {
        "qid": np.empty(num_keys, np.uint32),
        "flags": np.empty(num_keys, np.uint8),
        "run_qid": np.zeros(run_offsets[-1], np.uint32),
        "run_flags": np.zeros(run_offsets[-1], np.uint8),
    }
    arrays["qid"][single] = rows.qids[starts[single]]
    arrays["flags"][single] = rows.flags[starts[single]]
    arrays["qid"][several] = run_starts
    arrays["flags"][several] = SEVERAL | np.minimum(lengths, LONG_RUN)
    arrays["run_qid"][run_starts[is_long]] = lengths[is_long]
    arrays["run_qid"][positions] = rows.qids[run_rows]
    arrays["run_flags"][positions] = rows.flags[run_rows]

    # A posting's number: its key's trie id, or the number of keys + its position in the runs.
    numbers = np.empty(len(rows.qids), np.int64)
    numbers[starts[single]], numbers[run_rows] = single, num_keys + positions
    return arrays | _count_sections(numbers, rows.counts)


def _count_sections(numbers: I64, counts: U64) -> dict[str, Array]:
    """Return the counts that are not zero, by number of the posting."""
    counted = np.flatnonzero(counts)
    order = counted[np.argsort(numbers[counted])]
    return {
        "counted": numbers[order].astype(np.uint32),
        "count": np.minimum(counts[order], MAX_COUNT).astype(np.uint32),
    }


def _save_trie(path: str, trie: marisa_trie.Trie) -> None:
    # marisa writes to local paths only.
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / "keys"
        trie.save(str(local))
        files.write_bytes(path, local.read_bytes())


def blocks_of(keys: Sequence[str]) -> tuple[U32, U32]:
    """Return the block hashes of a shard's keys, and the trie id of the key of each hash."""
    offsets, hashes = runs_of(map(block_hashes, keys))
    return hashes, owners_of(offsets).astype(np.uint32)


def write_description(folder: str, limits: Limits) -> int:
    """Write the index's description; return the number of keys.

    It is the last file of all: only with it can the index be read.
    """
    sizes = shard_sizes(folder, limits.num_shards)
    local = local_folder(folder)
    # All links of the corpus: a word needs a share of them to be a mention in lower case.
    links_of_shards = (
        int(map_sections(postings_path(local, shard))["count"].sum(dtype=np.int64))
        for shard in range(limits.num_shards)
    )

    description = {
        "format": FORMAT,
        "normalisation": NORMALISATION_VERSION,
        "sizes": sizes,
        "num_fuzzy_parts": limits.num_parts,
        "num_links": sum(links_of_shards),
    }
    files.write_bytes(files.join(folder, DESCRIPTION), json.dumps(description).encode())
    return sum(sizes)
