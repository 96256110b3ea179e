"""The alias index: memory-mapped files, opened in milliseconds, shared by every process of a machine.

Per shard: a marisa trie of keys and, by trie id, runs of postings (item, anchor count, source bits). Beside the shards:
sorted block hashes that lead from a misspelt key to the keys it may have meant. Built by stage `index`, read by stage `link`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import marisa_trie
import numpy as np
import pyarrow as pa

from pipeline.core.aliases import NORMALISATION_VERSION, bucket_of, fuzzy_blocks, fuzzy_queries, hash64
from pipeline.storage import files
from pipeline.storage.arrays import load_array, save_array
from pipeline.storage.errors import StageError

MAX_BLOCK = 500
DESCRIPTION = "index.json"
COLUMNS = ("offsets", "qid", "count", "flags")


@dataclass(frozen=True, slots=True)
class Postings:
    """Candidates of one key: parallel arrays, most pointed-to first."""

    qids: np.ndarray  # uint32
    counts: np.ndarray  # uint32, anchors with this key
    flags: np.ndarray  # uint8, source bits


EMPTY = Postings(np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty(0, np.uint8))


def write_shard(folder: str, shard: int, rows: pa.Table) -> int:
    """Write one shard from rows sorted by key (key, qid, flags, count); returns the number of keys."""
    keys = rows.column("key").to_pylist()
    trie = marisa_trie.Trie(keys)
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / "keys"
        trie.save(str(local))
        _put(folder, f"alias-{shard:03d}.marisa", local.read_bytes())
    ids = np.fromiter((trie.key_id(key) for key in keys), np.int64, len(keys))
    order = np.argsort(ids, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(ids, minlength=len(trie)))]).astype(np.uint32)
    columns = {"offsets": offsets}
    for name, kind in (("qid", np.uint32), ("count", np.uint32), ("flags", np.uint8)):
        columns[name] = rows.column(name).to_numpy().astype(kind)[order]
    for name, values in columns.items():
        save_array(files.join(folder, f"alias-{shard:03d}.{name}.npy"), values)
    return len(trie)


def _put(folder: str, name: str, content: bytes) -> None:
    files.write_bytes(files.join(folder, name), content)


def write_blocks(folder: str, num_shards: int) -> int:
    """Write the block hashes of all keys, and the description that makes the index readable; returns the keys."""
    hashes, numbers, sizes, number = [], [], [], 0
    for shard in range(num_shards):
        trie = _load_trie(folder, shard)
        sizes.append(len(trie))
        for key_id in range(len(trie)):
            for block in fuzzy_blocks(trie.restore_key(key_id)):
                hashes.append(hash64(block))
                numbers.append(number + key_id)
        number += len(trie)
    order = np.argsort(np.array(hashes, np.uint64), kind="stable")
    save_array(files.join(folder, "fuzzy.hash.npy"), np.array(hashes, np.uint64)[order])
    save_array(files.join(folder, "fuzzy.key.npy"), np.array(numbers, np.uint32)[order])
    description = {"normalisation": NORMALISATION_VERSION, "num_shards": num_shards, "sizes": sizes}
    _put(folder, DESCRIPTION, json.dumps(description).encode())
    return number


def _load_trie(folder: str, shard: int) -> marisa_trie.Trie:
    return marisa_trie.Trie().mmap(files.join(folder, f"alias-{shard:03d}.marisa"))


class AliasIndex:
    """Reads an index in a local folder."""

    def __init__(self, folder: str) -> None:
        """Map the files.

        Raises:
            StageError: no index there, or one of another normalisation.
        """
        path = files.join(folder, DESCRIPTION)
        if not files.exists(path):
            raise StageError(f"{folder}: no alias index; run `trelm-pipeline index` first")
        description = json.loads(files.read_bytes(path))
        if description["normalisation"] != NORMALISATION_VERSION:
            raise StageError(f"{folder}: built with another normalisation; run `trelm-pipeline index` again")
        self._num_shards = int(description["num_shards"])
        self._bases = np.concatenate([[0], np.cumsum(description["sizes"])])
        self._tries = [_load_trie(folder, shard) for shard in range(self._num_shards)]
        self._columns = [
            {name: load_array(files.join(folder, f"alias-{shard:03d}.{name}.npy")) for name in COLUMNS}
            for shard in range(self._num_shards)
        ]
        self._block_hashes = load_array(files.join(folder, "fuzzy.hash.npy"))
        self._block_keys = load_array(files.join(folder, "fuzzy.key.npy"))

    def __len__(self) -> int:
        """Number of keys."""
        return int(self._bases[-1])

    def __contains__(self, key: str) -> bool:
        """Whether a key is listed."""
        return key in self._tries[bucket_of(key, self._num_shards)]

    def postings(self, key: str) -> Postings:
        """Candidates of a key; empty where it is not listed."""
        shard = bucket_of(key, self._num_shards)
        key_id = self._tries[shard].get(key)
        if key_id is None:
            return EMPTY
        columns = self._columns[shard]
        low, high = int(columns["offsets"][key_id]), int(columns["offsets"][key_id + 1])
        return Postings(columns["qid"][low:high], columns["count"][low:high], columns["flags"][low:high])

    def similar_keys(self, key: str) -> list[str]:
        """Keys that share a block with this one: what it may be a misspelling of. At most MAX_BLOCK per block."""
        numbers: set[int] = set()
        for block in fuzzy_queries(key):
            value = np.uint64(hash64(block))
            low = int(np.searchsorted(self._block_hashes, value, "left"))
            high = int(np.searchsorted(self._block_hashes, value, "right"))
            numbers.update(self._block_keys[low : min(high, low + MAX_BLOCK)].tolist())
        return self._restore(sorted(numbers))

    def _restore(self, numbers: Sequence[int]) -> list[str]:
        shards = np.searchsorted(self._bases, numbers, "right") - 1
        return [
            self._tries[shard].restore_key(number - int(self._bases[shard]))
            for number, shard in zip(numbers, shards.tolist(), strict=True)
        ]
