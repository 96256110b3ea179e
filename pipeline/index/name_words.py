"""Find names by their words: items with a word in a name, and word pairs that open a name.

Beside the alias index. Per part a marisa trie of words and, by trie id, the WORD_ITEMS most popular
items that have the word in a name of several words: so "Lincoln" leads to Mary Todd Lincoln. And
one table of bits: a bit per pair of words with which some name begins, so that running text is
searched for names in lower case at 50 ns a word.
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
from pipeline.index.postings import PostingRows
from pipeline.index.words import is_listed, pair_hashes, word_hash
from schemas.array_types import I64, U32, Array, Bools, Ints

# Items listed per word, the most popular ones.
WORD_ITEMS = 128
# Items of an ambiguous name that are listed under its words, the most popular ones.
ITEMS_PER_KEY = 4
# With 8 bits per pair, one in eight pairs that open no name seems to open one.
BITS_PER_PAIR = 8
WORDS, PAIRS = "words", "pairs"
WORD_ROWS = pa.schema([("word", pa.string()), ("qid", pa.uint32()), ("popularity", pa.uint32())])
PAIR_ROWS = pa.schema([("hash", pa.uint64())])


def words_path(folder: str, part: int) -> str:
    """Return the path of a part's words."""
    return files.join(folder, f"words-{part:03d}.marisa")


def items_path(folder: str, part: int) -> str:
    """Return the path of a part's items."""
    return files.join(folder, f"words-{part:03d}.safetensors")


def openings_path(folder: str) -> str:
    """Return the path of the bits."""
    return files.join(folder, "openings.safetensors")


def spill_words(
    data: str, shard: int, keys: list[str], rows: PostingRows, popularity: Ints, num_parts: int
) -> None:
    """Spill what a shard has for the parts of the words: its words with items, its opening pairs.

    Args:
        data: folder of the stage's data.
        shard: its number.
        keys: by trie id.
        rows: sorted by key, the most popular item of a key first.
        popularity: of each row.
        num_parts: how many parts the words have.
    """
    # `codes` holds the words of all keys end to end, key after key: `sizes` many per key.
    lists = pc.split_pattern(pa.array(keys, pa.string()), " ")
    sizes = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    words = lists.flatten().dictionary_encode()
    texts, codes = words.dictionary.to_pylist(), words.indices.to_numpy().astype(np.int64)

    # The first two words of every key of several words.
    hashes = np.fromiter(map(word_hash, texts), np.uint32, len(texts))
    starts = offsets_of(sizes)
    long_keys = np.flatnonzero(sizes > 1)
    opening_words = hashes[codes[starts[long_keys]]]
    next_words = hashes[codes[starts[long_keys] + 1]]
    pairs = np.unique(pair_hashes(opening_words, next_words))
    pair_rows = pa.table([pairs], schema=PAIR_ROWS)
    write_spill(data, PAIRS, shard, pair_rows, np.zeros(len(pairs), np.int64), 1)

    listed = np.fromiter(map(is_listed, texts), bool, len(texts))
    best_codes, best_qids, best_popularity = _best_items(
        *_word_rows(rows, popularity, (sizes, codes), listed)
    )
    columns = [words.dictionary.take(pa.array(best_codes)), best_qids, best_popularity]
    word_rows = pa.table(columns, schema=WORD_ROWS)
    part_of_word = np.fromiter((bucket_of(text, num_parts) for text in texts), np.int64, len(texts))
    write_spill(data, WORDS, shard, word_rows, part_of_word[best_codes], num_parts)


def _word_rows(
    rows: PostingRows, popularity: Ints, words: tuple[I64, I64], listed: Bools
) -> tuple[I64, U32, U32]:
    """Return word codes, items and popularity, one row per item and listed word of its names.

    Only keys of several words count, and no key that only the text of a link states.
    """
    sizes, codes = words
    keys = rows.keys.astype(np.int64)
    chosen_rows = np.flatnonzero(
        (sizes[keys] > 1)
        & (rows.flags != SOURCE_BITS["anchor"])
        & first_per_owner(keys, ITEMS_PER_KEY)
    )

    # From rows to words: each row once per word of its key.
    lengths = sizes[keys[chosen_rows]]
    row_codes = codes[spread(offsets_of(sizes)[keys[chosen_rows]], lengths)]
    owners = np.repeat(chosen_rows, lengths)
    good = listed[row_codes]
    return row_codes[good], rows.qids[owners[good]], popularity[owners[good]].astype(np.uint32)


def _best_items(words: I64, qids: U32, popularity: U32) -> tuple[I64, U32, U32]:
    """Return each (word, item) once, the most popular first, at most WORD_ITEMS per word."""
    order = np.lexsort((qids, -popularity.astype(np.int64), words))
    words, qids, popularity = words[order], qids[order], popularity[order]
    if len(words):
        # An item has one popularity, so its repeats stand side by side.
        distinct = np.concatenate([[True], (words[1:] != words[:-1]) | (qids[1:] != qids[:-1])])
        words, qids, popularity = words[distinct], qids[distinct], popularity[distinct]

    best = first_per_owner(words, WORD_ITEMS)
    return words[best], qids[best], popularity[best]


def build_words(data: str, folder: str, part: int) -> None:
    """Write one part of the words from the rows that all shards spilled for it.

    Memory: 150 bytes per row.
    """
    rows = concat_spill(data, WORDS, part, WORD_ROWS)
    words = rows.column("word").combine_chunks().dictionary_encode()
    texts = words.dictionary.to_pylist()
    trie = marisa_trie.Trie(texts)
    # The trie numbers its words itself: from the dictionary's codes to trie ids.
    ids = np.fromiter(map(trie.key_id, texts), np.int64, len(texts))
    codes = ids[words.indices.to_numpy()] if len(texts) else np.empty(0, np.int64)

    # Each shard sent its best items; the best of all shards are among them.
    best_codes, best_qids, _ = _best_items(
        codes, rows.column("qid").to_numpy(), rows.column("popularity").to_numpy()
    )
    ends = offsets_of(np.bincount(best_codes, minlength=len(texts)))
    save_sections(
        items_path(folder, part),
        {"ends": ends.astype(np.uint64), "qids": best_qids.astype(np.uint32)},
    )

    # marisa writes to local paths only.
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / "words"
        trie.save(str(local))
        files.write_bytes(words_path(folder, part), local.read_bytes())


def build_openings(data: str, folder: str) -> None:
    """Write the bits of the opening pairs. Memory: 16 bytes per pair."""
    hashes = np.unique(concat_spill(data, PAIRS, 0, PAIR_ROWS).column("hash").to_numpy())
    # A power of two, so that the upper bits of a hash are the number of its bit.
    num_bits = max(int(len(hashes) * BITS_PER_PAIR - 1).bit_length(), 10)
    bits = np.zeros(1 << num_bits, bool)
    bits[hashes >> np.uint64(64 - num_bits)] = True
    save_sections(openings_path(folder), {"bits": np.packbits(bits)})


class NameWords:
    """Read the words and the opening pairs in a local folder."""

    def __init__(self, folder: str, num_parts: int) -> None:
        self._parts = []
        for number in range(num_parts):
            path = words_path(folder, number)
            try:
                trie = marisa_trie.Trie().mmap(path)
            except (OSError, RuntimeError) as error:
                raise StageError(
                    f"{path}: cannot be read ({error}); run `trelm-pipeline index --redo`"
                ) from error
            arrays = map_sections(items_path(folder, number))
            get: Callable[[str], int | None] = trie.get
            self._parts.append((get, arrays["ends"].data, arrays["qids"]))

        # From a 64-bit hash to the number of its bit: only the upper bits are left.
        self._bits = map_sections(openings_path(folder))["bits"]
        self._shift = np.uint64(64 - (len(self._bits) * 8 - 1).bit_length())

    def items(self, word: str) -> U32:
        """Return the items that have a word in a name of several words.

        The most popular first, at most WORD_ITEMS.
        """
        get, ends, qids = self._parts[bucket_of(word, len(self._parts))]
        word_id = get(word)
        return qids[:0] if word_id is None else qids[ends[word_id] : ends[word_id + 1]]

    def opens(self, hashes: U32, next_hashes: U32) -> Bools:
        """Say of pairs of words whether they may open a name; a no is never wrong.

        Args:
            hashes: of the first word of each pair, shape (n,).
            next_hashes: of the second word, shape (n,).
        """
        # The bit of a pair is in byte number // 8; np.packbits puts bit 0 highest.
        numbers = pair_hashes(hashes, next_hashes) >> self._shift
        bytes_of_pairs = self._bits[numbers >> np.uint64(3)]
        bit_in_byte = (numbers & np.uint64(7)).astype(np.uint8)
        is_set: Array = (bytes_of_pairs << bit_in_byte) & np.uint8(128) > 0
        return is_set
