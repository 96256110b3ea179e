"""The alias index: memory-mapped files, opened in milliseconds, shared by every process of a machine.

Per shard: a marisa trie of keys and, by trie id, runs of postings (item, anchor count, source bits). Beside the shards:
blocks that lead from a misspelt key to the keys it may have meant. Built by stage `index`, read by stage `link`. A probe
costs 4 µs, 1 µs where the key is not listed.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

import marisa_trie
import numpy as np

from pipeline.arrays.sections import map_sections
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.index.alias_index_writer import (
    DESCRIPTION,
    FORMAT,
    LONG_RUN,
    SEVERAL,
    postings_path,
    trie_path,
)
from pipeline.index.fuzzy_blocks import FuzzyBlocks
from pipeline.index.fuzzy_keys import query_hashes, reorderings
from pipeline.index.name_keys import NORMALISATION_VERSION, bucket_of
from pipeline.index.name_words import NameWords
from schemas.array_types import Array


class Postings(NamedTuple):
    """Candidates of one key: parallel read-only arrays, most pointed-to first."""

    qids: Array  # uint32
    counts: Array  # uint32, anchors with this key
    flags: Array  # uint8, source bits


def _zeros(length: int) -> Array:
    values = np.zeros(length, np.uint32)
    values.flags.writeable = False
    return values


_NO_COUNTS = _zeros(1 << 8)
EMPTY = Postings(np.empty(0, np.uint32), _NO_COUNTS[:0], np.empty(0, np.uint8))


class _Shard:
    """One shard's files, as `alias_index_writer` says. Single values are read through memoryviews: faster than arrays."""

    __slots__ = (
        "_count", "_counted", "_flags", "_marks", "_places", "_qids", "_run_flags", "_run_lengths", "_run_qids", "key_id",
        "trie",
    )  # fmt: skip

    def __init__(self, folder: str, shard: int) -> None:
        path = trie_path(folder, shard)
        try:
            self.trie = marisa_trie.Trie().mmap(path)
        except (OSError, RuntimeError) as error:
            raise StageError(
                f"{path}: cannot be read ({error}); run `trelm-pipeline index --redo`"
            ) from error
        arrays = map_sections(postings_path(folder, shard))
        self.key_id = self.trie.get
        self._qids, self._flags = arrays["qid"], arrays["flags"]
        self._run_qids, self._run_flags = arrays["run_qid"], arrays["run_flags"]
        self._places, self._marks, self._run_lengths = (
            self._qids.data,
            self._flags.data,
            self._run_qids.data,
        )
        self._counted, self._count = arrays["counted"].data, arrays["count"]

    def postings(self, key_id: int) -> Postings:
        mark, end = self._marks[key_id], key_id + 1
        if mark < SEVERAL:
            return Postings(
                self._qids[key_id:end], self._counts(key_id, 1), self._flags[key_id:end]
            )
        low, length = self._places[key_id], mark - SEVERAL
        if length == LONG_RUN:
            low, length = low + 1, self._run_lengths[low]
        high = low + length
        counts = self._counts(len(self._marks) + low, length)
        return Postings(self._run_qids[low:high], counts, self._run_flags[low:high])

    def _counts(self, number: int, length: int) -> Array:
        """Counts of so many postings. Of a key's postings the first few have counts: those with the most come first."""
        first = bisect_left(self._counted, number)
        last = first
        while last < len(self._counted) and self._counted[last] < number + length:
            last += 1
        if first == last and length <= len(_NO_COUNTS):
            return _NO_COUNTS[:length]
        counts = np.zeros(length, np.uint32)
        counts[: last - first] = self._count[first:last]
        counts.flags.writeable = False
        return counts


class AliasIndex:
    """Reads an index in a local folder."""

    def __init__(self, folder: str) -> None:
        """Map the files.

        Raises:
            StageError: no index there, one of another format or normalisation, or a file is not whole.
        """
        path = files.join(folder, DESCRIPTION)
        if not files.exists(path):
            raise StageError(f"{folder}: no alias index; run `trelm-pipeline index` first")
        description = json.loads(files.read_bytes(path))
        if (description.get("format"), description["normalisation"]) != (
            FORMAT,
            NORMALISATION_VERSION,
        ):
            raise StageError(
                f"{folder}: built with another normalisation or format; run `trelm-pipeline index --redo`"
            )
        sizes = description["sizes"]
        self._ends = np.cumsum(sizes).tolist()  # by shard: the first number that is not its own
        self._shards = [_Shard(folder, shard) for shard in range(len(sizes))]
        self._blocks = FuzzyBlocks(folder, description["num_fuzzy_parts"])
        self.num_links: int = description["num_links"]
        self._words = NameWords(folder, description["num_fuzzy_parts"])
        self.items_with_word = self._words.items
        self.opens_name = self._words.opens

    def __len__(self) -> int:
        """Number of keys."""
        return int(self._ends[-1])

    def __contains__(self, key: str) -> bool:
        """Whether a key is listed."""
        return key in self._shards[bucket_of(key, len(self._shards))].trie

    def postings(self, key: str) -> Postings:
        """Candidates of a key; empty where it is not listed."""
        shard = self._shards[bucket_of(key, len(self._shards))]
        key_id = shard.key_id(key)
        return EMPTY if key_id is None else shard.postings(key_id)

    def similar_keys(self, key: str) -> list[str]:
        """Keys that share a block with this one, or its words: what it may be a misspelling of. 50 µs.

        At most MAX_BLOCK per block; about one key in ten shares nothing.
        """
        numbers = {number for value in query_hashes(key) for number in self._blocks.find(value)}
        found = self._restore(sorted(numbers))
        return [*found, *(other for other in reorderings(key) if other in self)]

    def _restore(self, numbers: Iterable[int]) -> list[str]:
        found = []
        for number in numbers:
            shard = bisect_right(self._ends, number)
            first = self._ends[shard - 1] if shard else 0
            found.append(self._shards[shard].trie.restore_key(number - first))
        return found
