"""A small alias index and entity store in memory, for the tests of candidates, features and
linking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.arrays.runs import spread
from pipeline.index.alias_index import NO_POSTINGS, Postings
from pipeline.index.fuzzy_keys import block_hashes, query_hashes, reorderings
from pipeline.index.name_keys import SOURCE_BITS
from pipeline.index.words import TERM_BITS, text_terms

LABEL, ANCHOR, TITLE = SOURCE_BITS["label"], SOURCE_BITS["anchor"], SOURCE_BITS["title"]


class Index:
    """Keys, each with (item, count, flags), most pointed-to first. Counts what it was asked."""

    def __init__(
        self, keys: Mapping[str, Sequence[tuple[int, int, int]]], ranks: Sequence[int] = ()
    ) -> None:
        self.keys = dict(keys)
        self.ranks = {qid: rank for rank, qid in enumerate(ranks)}
        self.scans = 0
        self.probes = 0

    def postings(self, key: str) -> Postings:
        self.probes += 1
        if key not in self.keys:
            return NO_POSTINGS
        qids, counts, flags = zip(*self.keys[key], strict=True)
        return Postings(
            np.array(qids, np.uint32), np.array(counts, np.uint32), np.array(flags, np.uint8)
        )

    def similar_keys(self, key: str) -> list[str]:
        self.scans += 1
        wanted, orders = set(query_hashes(key)), set(reorderings(key))
        return [
            other for other in self.keys if wanted & set(block_hashes(other)) or other in orders
        ]

    def items_with_word(self, word: str) -> np.ndarray:
        found = {
            qid
            for key, rows in self.keys.items()
            if word in key.split()[1:] + key.split()[:-1]
            for qid, *_ in rows
        }
        return np.array(sorted(found, key=lambda qid: (self.ranks.get(qid, 0), qid)), np.uint32)


@dataclass(frozen=True)
class Entity:
    label: str = ""
    text: str = ""  # its words are its terms
    popularity: int = 0
    near: tuple[int, ...] = ()
    type: int = 0
    is_meta: bool = False
    is_primary: bool = False
    statements: int = 0
    terms: tuple[int, ...] = field(default=())
    others: tuple[int, ...] = ()  # other words of its label, hashed, for tests without surfaces

    @property
    def all_terms(self) -> list[int]:
        return sorted(text_terms(self.text) | set(self.terms))


class Store:
    """Entities by item."""

    def __init__(self, entities: Mapping[int, Entity], idf: np.ndarray | None = None) -> None:
        self.qids = sorted(entities)
        self.entities = [entities[qid] for qid in self.qids]
        self.idf = np.full(1 << TERM_BITS, 2.0, np.float32) if idf is None else idf

    def rows(self, qids):
        return np.array(
            [self.qids.index(qid) if qid in self.qids else -1 for qid in qids.tolist()], np.int64
        )

    def _column(self, rows, name: str, kind: type) -> np.ndarray:
        return np.array([getattr(self.entities[row], name) for row in rows.tolist()], kind)

    def popularity(self, rows):
        return self._column(rows, "popularity", np.uint32)

    def statements(self, rows):
        return self._column(rows, "statements", np.uint32)

    def is_primary(self, rows):
        return self._column(rows, "is_primary", bool)

    def types(self, rows):
        return self._column(rows, "type", np.uint8)

    def is_meta(self, rows):
        return self._column(rows, "is_meta", bool)

    def label(self, row: int) -> str:
        return self.entities[row].label

    def term_runs(self, rows):
        return self._runs([self.entities[row].all_terms for row in rows.tolist()])

    def neighbour_runs(self, rows):
        return self._runs([self.entities[row].near for row in rows.tolist()])

    @staticmethod
    def _runs(runs) -> tuple[np.ndarray, np.ndarray]:
        values = np.array([value for run in runs for value in run], np.uint32)
        sizes = np.array([len(run) for run in runs], np.int64)
        return sizes, values[spread(np.cumsum(sizes) - sizes, sizes)]
