"""Names of entities: the one normalisation that builder and reader of the alias index share, and the index's postings.

Goes in: surfaces as written. Comes out: keys. Normalisation: NFKC, case folded, everything but letters, digits and
marks becomes one space. So "U.S." and "u . s ." meet, and "AT&T" meets "At & T". The second key has its
diacritics folded away. A change here bumps NORMALISATION_VERSION: an index of another version is refused.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NORMALISATION_VERSION = 1
SOURCE_BITS = {"label": 1, "alias": 2, "title": 4, "redirect": 8, "anchor": 16}
MAX_KEY_CHARACTERS = 250
_NOT_WORD = re.compile(r"[\W_]+")
_DISAMBIGUATOR = re.compile(r"\s*\([^()]*\)$")
_POSSESSIVE = re.compile(r"['’]s?$")
_ARTICLE = re.compile(r"^(the|a|an) ")

PARTIAL = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("qid", pa.uint32(), nullable=False),
        pa.field("flags", pa.uint8(), nullable=False),
        pa.field("count", pa.uint64(), nullable=False),
    ]
)


def normalise(surface: str) -> str:
    """The key of a surface; empty where nothing nameable is left.

    >>> normalise("  The O’Neill—Smith Co. ")
    'the o neill smith co'
    """
    folded = unicodedata.normalize("NFKC", surface).casefold()
    return _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", folded)).strip()[:MAX_KEY_CHARACTERS].strip()


def fold(key: str) -> str:
    """The second key: without diacritics.

    >>> fold("málaga")
    'malaga'
    """
    if key.isascii():
        return key
    decomposed = unicodedata.normalize("NFD", key)
    return unicodedata.normalize("NFC", "".join(char for char in decomposed if not unicodedata.combining(char)))


def index_keys(surface: str, source: str) -> list[str]:
    """Keys under which the index lists a surface; a title also without its disambiguator."""
    surfaces = [surface]
    if source in ("title", "redirect"):
        bare = _DISAMBIGUATOR.sub("", surface)
        if bare != surface:
            surfaces.append(bare)
    keys = [normalise(text) for text in surfaces]
    return list(dict.fromkeys(key for key in [*keys, *map(fold, keys)] if key))


def query_keys(surface: str) -> list[str]:
    """Keys to look a mention up by, the most exact first: as it is, folded, without possessive, article, plural."""
    key = normalise(surface)
    keys = [key, fold(key)]
    bare = normalise(_POSSESSIVE.sub("", surface.rstrip()))
    if bare != key:
        keys += [bare, fold(bare)]
    keys += [_ARTICLE.sub("", known) for known in list(keys)]
    if len(key) > 4 and key.endswith("s") and not key.endswith("ss"):
        keys += [key[:-1], fold(key[:-1])]
    return list(dict.fromkeys(known for known in keys if known))


def bucket_of(key: str, num_buckets: int) -> int:
    """The shard of a key: the same on every machine and in every run."""
    return zlib.crc32(key.encode()) % num_buckets


def hash64(text: str) -> int:
    """A fixed 64-bit hash, the same on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def partial_rows(rows: pa.Table) -> pa.Table:
    """Alias rows (surface, qid, source, count) as rows per key: flags is one source bit, count counts anchors only."""
    columns: dict[str, list[object]] = {"key": [], "qid": [], "flags": [], "count": []}
    values = zip(*(rows.column(name).to_pylist() for name in ("surface", "qid", "source", "count")), strict=True)
    for surface, qid, source, count in values:
        for key in index_keys(surface, source):
            columns["key"].append(key)
            columns["qid"].append(qid)
            columns["flags"].append(SOURCE_BITS[source])
            columns["count"].append(count if source == "anchor" else 0)
    return merge_partials([pa.table(columns, schema=PARTIAL)])


def merge_partials(parts: Sequence[pa.Table]) -> pa.Table:
    """One row per (key, qid): flags united, counts added. Associative and commutative, exact."""
    rows = pa.concat_tables(parts)
    # Bitwise OR is not an aggregation of Arrow: one maximum per bit is.
    flags = rows.column("flags")
    bits = {f"bit{bit}": pc.bit_wise_and(flags, pa.scalar(bit, pa.uint8())) for bit in SOURCE_BITS.values()}
    wide = pa.table({"key": rows.column("key"), "qid": rows.column("qid"), "count": rows.column("count"), **bits})
    grouped = wide.group_by(["key", "qid"]).aggregate([("count", "sum"), *((name, "max") for name in bits)])
    united = pa.scalar(0, pa.uint8())
    for name in bits:
        united = pc.bit_wise_or(united, grouped.column(f"{name}_max"))
    return pa.table(
        {"key": grouped.column("key"), "qid": grouped.column("qid"), "flags": united, "count": grouped["count_sum"]}
    ).cast(PARTIAL)


def sorted_postings(rows: pa.Table, popularity: np.ndarray, max_candidates: int) -> pa.Table:
    """Rows sorted by key, then most pointed-to first (anchors, popularity, lower id), at most so many per key."""
    table = rows.append_column("popularity", pa.array(popularity, pa.uint32()))
    order = [("key", "ascending"), ("count", "descending"), ("popularity", "descending"), ("qid", "ascending")]
    table = table.sort_by(order)
    if table.num_rows == 0:
        return table
    keys = table.column("key").combine_chunks().dictionary_encode()
    codes = keys.indices.to_numpy() if isinstance(keys, pa.DictionaryArray) else keys.chunk(0).indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    ranks = np.arange(len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))
    return table.filter(pa.array(ranks < max_candidates))


def fuzzy_blocks(key: str) -> list[str]:
    """Blocks that list a key: its halves and its sorted words. One edit leaves one half whole (pigeonhole)."""
    half = len(key) // 2
    blocks = [f"<{key[:half]}", f">{key[-half:]}"] if half >= 2 else []
    words = key.split()
    if len(words) > 1:
        blocks.append("=" + " ".join(sorted(words)))
    return blocks


def fuzzy_queries(key: str) -> list[str]:
    """Blocks in which a misspelt key is looked for: halves of keys one shorter, as long, or one longer."""
    halves = {(len(key) + change) // 2 for change in (-1, 0, 1)}
    blocks = [text for half in sorted(halves) if half >= 2 for text in (f"<{key[:half]}", f">{key[-half:]}")]
    words = key.split()
    if len(words) > 1:
        blocks.append("=" + " ".join(sorted(words)))
    return blocks
