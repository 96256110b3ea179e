"""Read entities by compiled code where numba is installed (the extra `fast`).

Goes in: the JSON of an entity. Comes out: `Scanned`, with a shorter JSON of the same names, and the
item's triples, kept in flat arrays; None where only the decoder can tell. Costs 1.5 ms per MB. Memory:
8 MB of buffers that fill with the longest entity, and 16 bytes per triple of a batch.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.kb import scan_workspace as layout
from pipeline.kb.names import NAME_PROPERTIES
from pipeline.kb.scan_entity import scan_entity
from pipeline.kb.sites import NOT_WIKIPEDIA
from schemas import TRIPLES

# Longer entities are left to the decoder: there are few.
MAX_RECORD_BYTES = 4 << 20
# Behind the JSON, so that reading in vectors meets an end.
PADDING = bytes(64)
# No statement that gives a triple is shorter, so a batch has room for all triples of an entity.
SMALLEST_STATEMENT_BYTES = 32
FIRST_ROOM_WORDS = 1 << 16
RANKS = ("normal", "preferred")
TARGET_BITS = (1 << layout.RANK_SHIFT) - 1
COUNTERS = (
    "statements_deprecated",
    "statements_somevalue",
    "statements_novalue",
    "statements_without_datatype",
)


class Scanned(NamedTuple):
    """Hold what the scan of an entity finds beside its triples."""

    # JSON with the names alone.
    short: bytes
    num_statements: int
    instance_of: list[int]
    num_wikipedias: int
    num_sitelinks: int
    # Numbers of odd statements, in the order of COUNTERS.
    oddities: tuple[int, ...]

    def count_oddities(self, counts: Counter[str]) -> None:
        """Add the numbers of odd statements to the counters that have any."""
        for name, number in zip(COUNTERS, self.oddities, strict=True):
            if number:
                counts[name] += number


class TripleColumns:
    """Collect rows of `triples` in flat arrays: those of scans and single ones, in their order."""

    table = TRIPLES

    def __init__(self) -> None:
        self.words = np.zeros(FIRST_ROOM_WORDS, np.int64)
        # Asking an array for its address costs more than all of a short scan.
        self._address = self.words.ctypes.data
        self.num_words = 0
        # The subjects, each with its number of words.
        self._subjects: list[int] = []
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return self.num_words // 2

    def reserve(self, num_words: int) -> int:
        """Make room; return the address where the next triple goes."""
        while self.num_words + num_words > len(self.words):
            self.words = np.concatenate([self.words, np.zeros_like(self.words)])
            self._address = self.words.ctypes.data
        return self._address + 8 * self.num_words

    def keep(self, qid: int, num_words: int) -> None:
        """Take the words that were written where the next triple goes as triples of an item."""
        self._subjects.append(qid)
        self._lengths.append(num_words)
        self.num_words += num_words

    def append(self, row: tuple[Any, ...]) -> None:
        """Add one row."""
        qid, pid, target, rank = row
        self.reserve(2)
        self.words[self.num_words] = RANKS.index(rank) << layout.RANK_SHIFT | target
        self.words[self.num_words + 1] = pid
        self.keep(qid, 2)

    def take(self) -> pa.Table:
        """Return the rows so far; there are none afterwards."""
        pairs = self.words[: self.num_words].reshape(-1, 2)
        ranks = pa.DictionaryArray.from_arrays(
            (pairs[:, 0] >> layout.RANK_SHIFT).astype(np.int8), list(RANKS)
        )
        lengths = np.array(self._lengths, np.int64) // 2
        columns = {
            "subject": pa.array(np.repeat(np.array(self._subjects, np.uint32), lengths)),
            "predicate": pa.array(pairs[:, 1].astype(np.uint32)),
            "object": pa.array((pairs[:, 0] & TARGET_BITS).astype(np.uint32)),
            "rank": ranks,
        }
        rows = self.table.from_columns(columns)

        self.num_words = 0
        self._subjects.clear()
        self._lengths.clear()
        return rows


class EntityScanner:
    """Scan entities; keep the triples of those that are wanted."""

    def __init__(self, languages: tuple[str, ...], wiki: str) -> None:
        """Make the workspace.

        Args:
            languages: those whose terms are kept.
            wiki: the wiki whose sitelink is kept.

        Raises:
            ValueError: a language or a wiki with a name too long to be compared.
        """
        self.triples = TripleColumns()
        self._work = np.zeros(layout.WORKSPACE_WORDS, np.int64)
        # Held, because the workspace has only their addresses.
        self._lists = [layout.word_list(words) for words in _word_lists(languages, wiki)]
        first = layout.TOP_WORDS // 8
        self._work[first : first + len(self._lists)] = [words.ctypes.data for words in self._lists]
        self._input = np.zeros(MAX_RECORD_BYTES + len(PADDING), np.uint8)
        self._output = np.zeros(MAX_RECORD_BYTES + len(PADDING), np.uint8)
        self._input_view, self._output_view = self._input.data, self._output.data
        self._work_at, self._input_at, self._output_at = (
            array.ctypes.data for array in (self._work, self._input, self._output)
        )
        self._results = self._work.data[: layout.NUM_RESULTS]
        self._num_new_words = 0

    def scan(self, record: bytes) -> Scanned | None:
        """Scan an entity; return None if only the decoder can tell what it says."""
        num_bytes = len(record)
        if num_bytes > MAX_RECORD_BYTES or not _is_utf8(record):
            return None
        self._input_view[:num_bytes] = record
        self._input_view[num_bytes : num_bytes + len(PADDING)] = PADDING
        triples_at = self.triples.reserve(2 * (num_bytes // SMALLEST_STATEMENT_BYTES + 1))
        end = scan_entity(self._work_at, self._input_at, self._output_at, triples_at)
        if end != self._input_at + num_bytes:
            return None

        (
            _,
            num_statements,
            *oddities,
            num_sitelinks,
            num_wikipedias,
            output_end,
            triples_end,
            classes_start,
            classes_end,
        ) = self._results.tolist()
        self._num_new_words = (triples_end - triples_at) // 8
        instance_of = []
        if classes_end > classes_start:
            low = self.triples.num_words + (classes_start - triples_at) // 8
            high = low + (classes_end - classes_start) // 8
            instance_of = (self.triples.words[low:high:2] & TARGET_BITS).tolist()
        return Scanned(
            short=bytes(self._output_view[: output_end - self._output_at]),
            num_statements=num_statements,
            instance_of=instance_of,
            num_wikipedias=num_wikipedias,
            num_sitelinks=num_sitelinks,
            oddities=tuple(oddities),
        )

    def keep_triples(self, qid: int) -> None:
        """Keep the triples of the entity that was scanned last."""
        if self._num_new_words:
            self.triples.keep(qid, self._num_new_words)
            self._num_new_words = 0


def _is_utf8(record: bytes) -> bool:
    """Say whether bytes are valid UTF-8."""
    if record.isascii():
        return True
    try:
        record.decode()
    except UnicodeDecodeError:
        return False
    return True


def _word_lists(languages: tuple[str, ...], wiki: str) -> tuple[tuple[str, ...], ...]:
    """Return the lists of words, in the order of the workspace.

    The order of words within a list is what the kernel knows them by.
    """
    return (
        ("claims", "sitelinks", "labels", "descriptions", "aliases")
        + ("id", "type", "datatype", "lastrevid"),
        languages,
        (wiki,),
        tuple(sorted(NOT_WIKIPEDIA)),
        tuple(NAME_PROPERTIES),
        ("mainsnak", "rank"),
        ("normal", "preferred", "deprecated"),
        ("datavalue", "datatype", "snaktype"),
        ("value", "somevalue", "novalue"),
        ("value", "type"),
        ("wikibase-entityid", "", "string", "time", "quantity", "globecoordinate")
        + ("monolingualtext",),
        ("entity-type", "numeric-id", "id", "text", "language"),
        ("item", "property"),
    )
