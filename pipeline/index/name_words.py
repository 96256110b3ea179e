"""Names by their words: which items have a word in one of their names, and which two words open a longer name.

Beside the alias index. Per part a marisa trie of words and, by trie id, the WORD_ITEMS most popular items that have the
word in a name of several words: so "Lincoln" leads to Mary Todd Lincoln. And one table of bits: a bit per pair of words
that some name begins with, so that running text is searched for names in lower case at 50 ns a word.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import marisa_trie
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays.runs import first_per_owner, offsets_of, spread
from pipeline.arrays.sections import map_sections, save_sections
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.spill import concat_spill, write_spill
from pipeline.index.name_keys import SOURCE_BITS, bucket_of
from pipeline.index.postings import Rows
from pipeline.index.words import is_listed, pair_hashes, word_hash
from schemas.array_types import Array

WORD_ITEMS = 128  # items listed per word, most popular first
ITEMS_PER_KEY = 4  # of an ambiguous name: its most popular ones
BITS_PER_PAIR = 8  # one pair in eight that opens no name seems to
WORDS, PAIRS = "words", "pairs"
WORD_ROWS = pa.schema([("word", pa.string()), ("qid", pa.uint32()), ("popularity", pa.uint32())])
PAIR_ROWS = pa.schema([("hash", pa.uint64())])


def words_path(folder: str, part: int) -> str:
    """File of a part's words."""
    return files.join(folder, f"words-{part:03d}.marisa")


def items_path(folder: str, part: int) -> str:
    """File of a part's items."""
    return files.join(folder, f"words-{part:03d}.safetensors")


def openings_path(folder: str) -> str:
    """File of the bits."""
    return files.join(folder, "openings.safetensors")


def spill_words(
    data: str, shard: int, keys: list[str], rows: Rows, popularity: Array, num_parts: int
) -> None:
    """What a shard's keys (by trie id) and its rows (sorted by key, most popular first) leave for the words' parts."""
    lists = pc.split_pattern(pa.array(keys, pa.string()), " ")
    sizes = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    words = lists.flatten().dictionary_encode()
    texts, codes = words.dictionary.to_pylist(), words.indices.to_numpy().astype(np.int64)
    hashes = np.fromiter(map(word_hash, texts), np.uint32, len(texts))
    ends = offsets_of(sizes)
    long = np.flatnonzero(sizes > 1)
    pairs = np.unique(pair_hashes(hashes[codes[ends[long]]], hashes[codes[ends[long] + 1]]))
    write_spill(
        data, PAIRS, shard, pa.table([pairs], schema=PAIR_ROWS), np.zeros(len(pairs), np.int64), 1
    )
    listed = np.fromiter(map(is_listed, texts), bool, len(texts))
    found = _best_items(*_word_rows(rows, popularity, (sizes, codes), listed))
    columns = [words.dictionary.take(pa.array(found[0])), found[1], found[2]]
    parts = np.fromiter((bucket_of(text, num_parts) for text in texts), np.int64, len(texts))
    write_spill(data, WORDS, shard, pa.table(columns, schema=WORD_ROWS), parts[found[0]], num_parts)


def _word_rows(
    rows: Rows, popularity: Array, words: tuple[Array, Array], listed: Array
) -> tuple[Array, Array, Array]:
    """Word codes, items and popularity of all rows whose key has several words and is more than the text of a link."""
    sizes, codes = words
    keys = rows.keys.astype(np.int64)
    kept = np.flatnonzero(
        (sizes[keys] > 1)
        & (rows.flags != SOURCE_BITS["anchor"])
        & first_per_owner(keys, ITEMS_PER_KEY)
    )
    lengths = sizes[keys[kept]]
    places = codes[spread(offsets_of(sizes)[keys[kept]], lengths)]
    owners = np.repeat(kept, lengths)
    good = listed[places]
    return places[good], rows.qids[owners[good]], popularity[owners[good]].astype(np.uint32)


def _best_items(words: Array, qids: Array, popularity: Array) -> tuple[Array, Array, Array]:
    """Each (word, item) once, most popular first, at most WORD_ITEMS per word."""
    order = np.lexsort((qids, -popularity.astype(np.int64), words))
    words, qids, popularity = words[order], qids[order], popularity[order]
    if len(words):
        # An item has one popularity, so its repeats stand side by side.
        distinct = np.concatenate([[True], (words[1:] != words[:-1]) | (qids[1:] != qids[:-1])])
        words, qids, popularity = words[distinct], qids[distinct], popularity[distinct]
    kept = first_per_owner(words, WORD_ITEMS)
    return words[kept], qids[kept], popularity[kept]


def build_words(data: str, folder: str, part: int) -> None:
    """Write one part of the words from what all shards left for it. Memory: 150 bytes per row."""
    rows = concat_spill(data, WORDS, part, WORD_ROWS)
    words = rows.column("word").combine_chunks().dictionary_encode()
    texts = words.dictionary.to_pylist()
    trie = marisa_trie.Trie(texts)
    ids = np.fromiter(map(trie.key_id, texts), np.int64, len(texts))
    codes = ids[words.indices.to_numpy()] if len(texts) else np.empty(0, np.int64)
    found, qids, _ = _best_items(
        codes, rows.column("qid").to_numpy(), rows.column("popularity").to_numpy()
    )
    ends = offsets_of(np.bincount(found, minlength=len(texts)))
    save_sections(
        items_path(folder, part), {"ends": ends.astype(np.uint64), "qids": qids.astype(np.uint32)}
    )
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / "words"
        trie.save(str(local))
        files.write_bytes(words_path(folder, part), local.read_bytes())


def build_openings(data: str, folder: str) -> None:
    """Write the bits. Memory: 16 bytes per pair."""
    hashes = np.unique(concat_spill(data, PAIRS, 0, PAIR_ROWS).column("hash").to_numpy())
    num_bits = max(int(len(hashes) * BITS_PER_PAIR - 1).bit_length(), 10)
    bits = np.zeros(1 << num_bits, bool)
    bits[hashes >> np.uint64(64 - num_bits)] = True
    save_sections(openings_path(folder), {"bits": np.packbits(bits)})


class NameWords:
    """Reads the parts in a local folder."""

    def __init__(self, folder: str, num_parts: int) -> None:
        self._parts = []
        for part in range(num_parts):
            path = words_path(folder, part)
            try:
                trie = marisa_trie.Trie().mmap(path)
            except (OSError, RuntimeError) as error:
                raise StageError(
                    f"{path}: cannot be read ({error}); run `trelm-pipeline index --redo`"
                ) from error
            arrays = map_sections(items_path(folder, part))
            get: Callable[[str], int | None] = trie.get
            self._parts.append((get, arrays["ends"].data, arrays["qids"]))
        self._bits = map_sections(openings_path(folder))["bits"]
        self._shift = np.uint64(64 - (len(self._bits) * 8 - 1).bit_length())

    def items(self, word: str) -> Array:
        """Items that have a word in a name of several words: uint32, most popular first, at most WORD_ITEMS."""
        get, ends, qids = self._parts[bucket_of(word, len(self._parts))]
        number = get(word)
        return qids[:0] if number is None else qids[ends[number] : ends[number + 1]]

    def opens(self, first: Array, second: Array) -> Array:
        """Whether two words (their hashes, uint32, shape (n,)) may open a name; never wrong where it says no."""
        places = pair_hashes(first, second) >> self._shift
        return (
            self._bits[places >> np.uint64(3)] << (places & np.uint64(7)).astype(np.uint8)
        ) & np.uint8(128) > 0
