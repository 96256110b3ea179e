"""The entity store: what the linker must know of an entity, memory-mapped and read at random.

Arrays sorted by QID: popularity, coarse type, is_meta, label; runs (CSR) of context terms and of neighbours. Built by
stage `index` from the tables of `kb`. Terms are words of the description and of the neighbours' labels, as 22-bit hashes;
`idf` holds one weight per hash.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.aliases import normalise
from pipeline.core.entity_types import coarse_classes
from pipeline.core.redirects_chains import SortedMap, sorted_map
from pipeline.storage import files
from pipeline.storage.arrays import load_array, save_array
from pipeline.storage.tables import RunPaths, read_rows, read_table
from schemas import ENTITIES, REDIRECTS, TRIPLES

TERM_BITS = 22
MAX_NEIGHBOURS = 32
SUBCLASS_OF = 279
_WORD = re.compile(r"\w+")
STOP_WORDS = frozenset(
    "a an and are as at be by for from has he her his in is it its of on or she that the their they this to was were "
    "which who with".split()
)
ARRAYS = (
    "qid",
    "popularity",
    "type",
    "is_meta",
    "label_offsets",
    "term_offsets",
    "terms",
    "near_offsets",
    "near",
    "idf",
)


def term_hash(word: str) -> int:
    """The hash of a normalised word."""
    return zlib.crc32(word.encode()) & ((1 << TERM_BITS) - 1)


def text_terms(text: str) -> set[int]:
    """Hashed content words of a text."""
    words = {word for word in _WORD.findall(normalise(text)) if len(word) > 2 and word not in STOP_WORDS}
    return {term_hash(word) for word in words}


def build_entity_store(paths: RunPaths, folder: str) -> None:
    """Build the store from the tables of `kb`. Holds labels, descriptions and capped neighbour lists in memory."""
    entities = _distinct_entities(paths)
    qids = entities.column("qid").to_numpy()
    labels = entities.column("label").to_pylist()
    popularity = entities.column("num_sitelinks").to_numpy().astype(np.uint32)
    neighbours, in_degree, parents = _graph(paths, qids)
    popularity = popularity + in_degree
    types = _types(entities, parents)
    label_of = dict(zip(qids.tolist(), labels, strict=True))
    terms = [
        np.array(sorted(_entity_terms(label, description, near, label_of)), np.uint32)
        for label, description, near in zip(
            labels, entities.column("description").to_pylist(), (neighbours[qid] for qid in qids.tolist()), strict=True
        )
    ]
    blob = "".join(labels)
    save = {
        "qid": qids.astype(np.uint32),
        "popularity": popularity.astype(np.uint32),
        "type": types,
        "is_meta": entities.column("is_meta").to_numpy(zero_copy_only=False).astype(np.uint8),
        "label_offsets": _offsets(len(label.encode()) for label in labels),
        "term_offsets": _offsets(map(len, terms)),
        "terms": np.concatenate(terms) if terms else np.empty(0, np.uint32),
        "near_offsets": _offsets(len(neighbours[qid]) for qid in qids.tolist()),
        "near": np.fromiter((other for qid in qids.tolist() for other in neighbours[qid]), np.uint32),
        "idf": _idf(terms),
        "labels": np.frombuffer(blob.encode(), np.uint8),
    }
    for name, values in save.items():
        save_array(files.join(folder, f"entity.{name}.npy"), values)


def _distinct_entities(paths: RunPaths) -> pa.Table:
    columns = ["qid", "label", "description", "num_sitelinks", "instance_of", "is_meta"]
    entities = read_table(paths.files("kb", ENTITIES), ENTITIES, columns).sort_by("qid")
    qids = entities.column("qid").to_numpy()
    return entities.filter(pa.array(np.diff(qids, prepend=np.int64(-1)) != 0))  # a repeated id counts once


def _graph(paths: RunPaths, qids: np.ndarray) -> tuple[dict[int, list[int]], np.ndarray, dict[int, list[int]]]:
    neighbours: dict[int, list[int]] = defaultdict(list)
    parents: dict[int, list[int]] = defaultdict(list)
    in_degree = np.zeros(len(qids), np.uint32)
    merged = _merged_items(paths)
    for path in paths.files("kb", TRIPLES):
        for rows in read_rows(path, TRIPLES):
            stored = rows.column("object").to_numpy()
            is_merged, survivors = merged.find(stored)
            objects = np.where(is_merged, survivors, stored)
            places = np.searchsorted(qids, objects)
            known = places < len(qids)
            known[known] = qids[places[known]] == objects[known]
            np.add.at(in_degree, places[known], 1)
            columns = (rows.column("subject").to_pylist(), rows.column("predicate").to_pylist(), objects.tolist())
            triples = zip(*columns, strict=True)
            for subject, predicate, target in triples:
                if predicate == SUBCLASS_OF:
                    parents[subject].append(target)
                for one, other in ((subject, target), (target, subject)):
                    if len(neighbours[one]) < MAX_NEIGHBOURS:
                        neighbours[one].append(other)
    return neighbours, in_degree, parents


def _merged_items(paths: RunPaths) -> SortedMap:
    """Items that were merged into others, and what they became."""
    redirects = read_table(paths.files("kb", REDIRECTS), REDIRECTS)
    pairs = zip(redirects.column("source").to_pylist(), redirects.column("target").to_pylist(), strict=True)
    items = [(int(source[1:]), int(target[1:])) for source, target in pairs if _is_item(source) and _is_item(target)]
    sources, targets = (np.array(column, np.uint32) for column in (zip(*items, strict=True) if items else ((), ())))
    return sorted_map(sources, targets)


def _is_item(text: str) -> bool:
    return text[:1] == "Q" and text[1:].isdigit()


def _types(entities: pa.Table, parents: dict[int, list[int]]) -> np.ndarray:
    instance_of = entities.column("instance_of").to_pylist()
    classes = coarse_classes({class_qid for values in instance_of for class_qid in values}, parents)
    types = np.zeros(len(instance_of), np.uint8)
    for row, values in enumerate(instance_of):
        for class_qid in values:
            types[row] |= classes[class_qid]
    return types


def _entity_terms(label: str, description: str, neighbours: list[int], label_of: dict[int, str]) -> set[int]:
    near = " ".join(label_of.get(qid, "") for qid in neighbours)
    # An entity's own name is in every text that mentions it: it tells nothing.
    return text_terms(f"{description} {near}") - text_terms(label)


def _offsets(sizes: Iterable[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.fromiter(sizes, np.int64))]).astype(np.int64)


def _idf(terms: list[np.ndarray]) -> np.ndarray:
    counts = np.zeros(1 << TERM_BITS, np.int64)
    for values in terms:
        counts[values] += 1
    return np.log((len(terms) + 1) / (counts + 1)).astype(np.float32)


class EntityStore:
    """Reads a store in a local folder."""

    def __init__(self, folder: str) -> None:
        self._arrays: dict[str, np.ndarray[Any, Any]] = {
            name: load_array(files.join(folder, f"entity.{name}.npy")) for name in (*ARRAYS, "labels")
        }
        self.idf = self._arrays["idf"]

    def __len__(self) -> int:
        """Number of entities."""
        return len(self._arrays["qid"])

    def rows(self, qids: np.ndarray) -> np.ndarray:
        """Rows of items, -1 where the store has none. Shape (n,) in and out."""
        known = self._arrays["qid"]
        places = np.searchsorted(known, qids)
        places[places == len(known)] = 0
        found = known[places] == qids if len(known) else np.zeros(len(qids), bool)
        return np.where(found, places, -1)

    def popularity(self, rows: np.ndarray) -> np.ndarray:
        """Wikipedia sitelinks + triples that point to the entity."""
        return self._arrays["popularity"][rows]

    def types(self, rows: np.ndarray) -> np.ndarray:
        """Coarse type bits."""
        return self._arrays["type"][rows]

    def is_meta(self, rows: np.ndarray) -> np.ndarray:
        """Whether it is a page about pages."""
        return self._arrays["is_meta"][rows].astype(bool)

    def label(self, row: int) -> str:
        """Label of one entity."""
        low, high = self._arrays["label_offsets"][row : row + 2]
        return bytes(self._arrays["labels"][low:high]).decode()

    def terms(self, row: int) -> np.ndarray:
        """Context terms of one entity, sorted hashes."""
        low, high = self._arrays["term_offsets"][row : row + 2]
        return self._arrays["terms"][low:high]

    def neighbours(self, row: int) -> np.ndarray:
        """Items one triple away, at most MAX_NEIGHBOURS."""
        low, high = self._arrays["near_offsets"][row : row + 2]
        return self._arrays["near"][low:high]
