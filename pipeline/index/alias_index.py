"""Read the alias index: memory-mapped files that all processes of a machine share.

They are compared with their checksums first, .7 s per gigabyte and core, then opened in
milliseconds: a damaged trie would end the process without a word.

Per shard: a marisa trie of keys and, by trie id, runs of postings (item, anchor count, source
bits). Beside the shards: blocks that lead from a misspelt key to the keys it may have meant. Built
by stage `index`, read by stage `link`. A look-up costs 4 µs, or 1 µs where the key is not listed.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

import marisa_trie
import numpy as np

from pipeline.arrays.mapped_files import refuse_damage
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
from schemas.array_types import U8, U32


class Postings(NamedTuple):
    """Hold the candidates of one key: parallel read-only arrays, the most pointed-to item first."""

    qids: U32
    # How many anchors with this key lead to the item.
    counts: U32
    # Source bits.
    flags: U8


def _zeros(length: int) -> U32:
    values = np.zeros(length, np.uint32)
    values.flags.writeable = False
    return values


# Most keys have no anchors: they share these zeros instead of allocating their own.
_NO_COUNTS = _zeros(1 << 8)
NO_POSTINGS = Postings(np.empty(0, np.uint32), _NO_COUNTS[:0], np.empty(0, np.uint8))


class _Shard:
    """Read one shard's files; `alias_index_writer` describes them.

    Single values are read through memoryviews, which is faster than indexing arrays.
    """

    __slots__ = (
        "_count", "_counted", "_flags", "_marks", "_qids", "_run_flags", "_run_lengths",
        "_run_qids", "_run_starts", "key_id", "trie",
    )  # fmt: skip

    def __init__(self, folder: str, shard: int) -> None:
        path = trie_path(folder, shard)
        try:
            self.trie = marisa_trie.Trie().mmap(path)
        except (OSError, RuntimeError) as error:
            raise StageError(
                f"{path}: cannot be read ({error}); run `trelm-pipeline index --redo`"
            ) from error
        self.key_id = self.trie.get

        arrays = map_sections(postings_path(folder, shard))
        self._qids, self._flags = arrays["qid"], arrays["flags"]
        self._run_qids, self._run_flags = arrays["run_qid"], arrays["run_flags"]

        # Of a key with several items `qid` holds the position of its run, and `flags` its mark. The
        # position before a long run holds the length of this run.
        self._run_starts = self._qids.data
        self._marks = self._flags.data
        self._run_lengths = self._run_qids.data
        self._counted, self._count = arrays["counted"].data, arrays["count"]

    def postings(self, key_id: int) -> Postings:
        """Return the candidates of a key, by its trie id."""
        mark, end = self._marks[key_id], key_id + 1
        if mark < SEVERAL:
            return Postings(
                self._qids[key_id:end], self._counts(key_id, 1), self._flags[key_id:end]
            )

        low, length = self._run_starts[key_id], mark - SEVERAL
        if length == LONG_RUN:
            # The mark has no room for the length: it stands before the run.
            low, length = low + 1, self._run_lengths[low]
        high = low + length
        counts = self._counts(len(self._marks) + low, length)
        return Postings(self._run_qids[low:high], counts, self._run_flags[low:high])

    def _counts(self, number: int, length: int) -> U32:
        """Return the counts of `length` postings, of which the first one has this number.

        Only the first few postings of a key have counts, since those with the most come first.
        """
        low = bisect_left(self._counted, number)
        high = low
        # Few postings have counts, so a walk is faster than a second search.
        while high < len(self._counted) and self._counted[high] < number + length:
            high += 1
        if low == high and length <= len(_NO_COUNTS):
            return _NO_COUNTS[:length]

        counts = np.zeros(length, np.uint32)
        counts[: high - low] = self._count[low:high]
        counts.flags.writeable = False
        return counts


class AliasIndex:
    """Read an alias index in a local folder."""

    def __init__(self, folder: str) -> None:
        """Map the files.

        Raises:
            StageError: there is no index, it has another format or normalisation, or a file is not
                whole.
        """
        path = files.join(folder, DESCRIPTION)
        if not files.exists(path):
            raise StageError(f"{folder}: no alias index; run `trelm-pipeline index` first")
        refuse_damage(folder)
        description = json.loads(files.read_bytes(path))
        versions = description.get("format"), description["normalisation"]
        if versions != (FORMAT, NORMALISATION_VERSION):
            raise StageError(
                f"{folder}: built with another normalisation or format; "
                "run `trelm-pipeline index --redo`"
            )

        # Keys are numbered through all shards; a shard ends at the first number of the next one.
        sizes = description["sizes"]
        self._ends = np.cumsum(sizes).tolist()
        self._shards = [_Shard(folder, shard) for shard in range(len(sizes))]

        self._blocks = FuzzyBlocks(folder, description["num_fuzzy_parts"])
        self.num_links: int = description["num_links"]
        # Bound methods as attributes: one call less for each look-up.
        self._words = NameWords(folder, description["num_fuzzy_parts"])
        self.items_with_word = self._words.items
        self.opens_name = self._words.opens

    def __len__(self) -> int:
        """Return the number of keys."""
        return int(self._ends[-1])

    def __contains__(self, key: str) -> bool:
        """Say whether a key is listed."""
        return key in self._shards[bucket_of(key, len(self._shards))].trie

    def postings(self, key: str) -> Postings:
        """Return the candidates of a key; none where it is not listed."""
        shard = self._shards[bucket_of(key, len(self._shards))]
        key_id = shard.key_id(key)
        return NO_POSTINGS if key_id is None else shard.postings(key_id)

    def similar_keys(self, key: str) -> list[str]:
        """Return the keys of which this one may be a misspelling: they share a block or all words.

        Takes 50 µs. At most MAX_BLOCK keys per block; about one key in ten shares nothing, so
        compare them.
        """
        numbers = {
            number for block_hash in query_hashes(key) for number in self._blocks.find(block_hash)
        }
        similar = self._keys_of(sorted(numbers))
        return [*similar, *(order for order in reorderings(key) if order in self)]

    def _keys_of(self, numbers: Iterable[int]) -> list[str]:
        """Return the keys with these numbers."""
        keys = []
        for number in numbers:
            shard = bisect_right(self._ends, number)
            first_of_shard = self._ends[shard - 1] if shard else 0
            keys.append(self._shards[shard].trie.restore_key(number - first_of_shard))
        return keys
