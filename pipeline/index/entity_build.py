"""Build the entity store's later phases: a part per range of QIDs, its terms, joined arrays.

Neighbours' labels are read, as hashed words, from the memory-mapped parts of the phase before, one
part at a time. A part of 300,000 entities takes 0.5 GB beside what the program itself takes.
Nothing depends on the number of units or parts. `entity_parts` describes the sections of a part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipeline.arrays.mapped_files import local_folder, save_joined
from pipeline.arrays.runs import offsets_of, owners_of, runs_of, spread
from pipeline.arrays.sections import map_sections, save_sections
from pipeline.arrays.sorted_map import SortedMap
from pipeline.engine import files
from pipeline.engine.spill import concat_spill, spill_folder
from pipeline.index.entity_parts import EntityParts, part_path
from pipeline.index.entity_spill import (
    CLASS_ROWS,
    DEGREE_ROWS,
    ENTITY_ROWS,
    IMPLIED_ROWS,
    NEAR_ROWS,
)
from pipeline.index.entity_store import array_path
from pipeline.index.entity_types import class_types
from pipeline.index.implied_types import united_types
from pipeline.index.name_keys import disambiguator
from pipeline.index.neighbours import NeighbourPairs, best_neighbours
from pipeline.index.words import TERM_BITS, text_terms
from schemas.array_types import F32, I64, U8, U32, U64, Array

# Rows whose terms are found at once: it bounds the memory.
CHUNK_ROWS = 50_000
CLASSES, CLASSES_FILE = "classes", "classes.safetensors"
DTYPES: dict[str, type[np.generic]] = {
    "qid": np.uint32,
    "popularity": np.uint32,
    "statements": np.uint32,
    "is_primary": np.uint8,
    "type": np.uint8,
    "is_meta": np.uint8,
    "labels": np.uint8,
    "descriptions": np.uint8,
    "terms": np.uint32,
    "near": np.uint32,
}
# Arrays that come from the parts of kind `terms`; all others from those of kind `entities`.
TERM_ARRAYS = ("type", "term_offsets", "terms", "idf")


def write_classes(data: str, entities: str) -> None:
    """Write the coarse types of all classes, for the next phase and for added entities.

    Memory: 60 bytes per subclass_of statement.

    Args:
        data: the stage's data folder.
        entities: folder of the entity store, which keeps them: `extended_index` reads them.
    """
    edges = concat_spill(data, "classes", 0, CLASS_ROWS)
    classes, bits = class_types(*(edges.column(name).to_numpy() for name in ("child", "parent")))
    for folder in (files.join(spill_folder(data), CLASSES), entities):
        save_sections(files.join(folder, CLASSES_FILE), {"qid": classes, "bits": bits})


def write_part(data: str, bucket: int) -> None:
    """Write one range of entities: all that needs no other range."""
    entities = concat_spill(data, "entities", bucket, ENTITY_ROWS)
    order = np.argsort(entities.column("qid").to_numpy(), kind="stable")
    qids = entities.column("qid").to_numpy()[order]

    # A repeated id counts once: the first row.
    is_first = np.concatenate([[True], qids[1:] != qids[:-1]]) if len(qids) else np.empty(0, bool)
    entities, qids = entities.take(pa.array(order[is_first])), qids[is_first]

    labels, descriptions = (entities.column(name).to_pylist() for name in ("label", "description"))
    titles = [title or "" for title in entities.column("enwiki_title").to_pylist()]
    marks = list(map(disambiguator, titles))
    is_primary = [bool(title) and not mark for title, mark in zip(titles, marks, strict=True)]
    arrays = {
        "qid": qids,
        "popularity": entities.column("num_sitelinks").to_numpy() + _degrees(data, bucket, qids),
        "statements": entities.column("num_statements").to_numpy(),
        "is_primary": np.array(is_primary, np.uint8),
        "is_meta": entities.column("is_meta").to_numpy().astype(np.uint8),
    }
    arrays["label_offsets"], arrays["labels"] = _encoded(labels)
    arrays["description_offsets"], arrays["descriptions"] = _encoded(descriptions)
    arrays["implied"] = _implied(data, bucket, qids)
    arrays["near_offsets"], arrays["near"] = _neighbours(data, bucket, qids)
    arrays["own_offsets"], arrays["own"] = _sorted_runs(map(text_terms, labels))
    arrays["said_offsets"], arrays["said"] = _sorted_runs(
        text_terms(f"{mark} {description}")
        for mark, description in zip(marks, descriptions, strict=True)
    )
    arrays["class_offsets"], arrays["class"] = runs_of(entities.column("instance_of").to_pylist())
    save_sections(part_path(data, "entities", bucket), arrays)


def _encoded(texts: Sequence[str]) -> tuple[I64, U8]:
    """Return the offsets and the bytes of texts in UTF-8."""
    encoded = [text.encode() for text in texts]
    offsets = offsets_of(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    return offsets, np.frombuffer(b"".join(encoded), np.uint8)


def _sorted_runs(values: Iterable[set[int]]) -> tuple[I64, U32]:
    return runs_of(map(sorted, values))


def _degrees(data: str, bucket: int, qids: U32) -> U32:
    """Return how many triples point to each item."""
    rows = concat_spill(data, "degree", bucket, DEGREE_ROWS)
    targets, counts = (rows.column(name).to_numpy() for name in ("qid", "count"))
    is_entity, positions = SortedMap(keys=qids, values=np.arange(len(qids))).find(targets)
    # Each unit reported a count of its own: they add up.
    degrees = np.bincount(positions[is_entity], counts[is_entity], minlength=len(qids))
    return degrees.astype(np.uint32)


def _implied(data: str, bucket: int, qids: U32) -> U8:
    """Return the type bits that statements imply, of each item."""
    rows = concat_spill(data, "implied", bucket, IMPLIED_ROWS)
    items, bits = united_types(*(rows.column(name).to_numpy() for name in ("qid", "bits")))
    is_entity, positions = SortedMap(keys=qids, values=np.arange(len(qids))).find(items)
    implied = np.zeros(len(qids), np.uint8)
    implied[positions[is_entity]] = bits[is_entity]
    return implied


def _neighbours(data: str, bucket: int, qids: U32) -> tuple[I64, U32]:
    """Return the offsets and the values of the neighbours of each item."""
    rows = concat_spill(data, "near", bucket, NEAR_ROWS)
    near = best_neighbours(
        NeighbourPairs(*(rows.column(name).to_numpy() for name in ("one", "other", "is_incoming")))
    )
    # The pairs are sorted by item, as are the qids.
    is_entity, positions = SortedMap(keys=qids, values=np.arange(len(qids))).find(near.item)
    sizes = np.bincount(positions[is_entity], minlength=len(qids))
    return offsets_of(sizes), near.neighbour[is_entity]


def write_terms(data: str, bucket: int, bounds: Sequence[int]) -> None:
    """Write types and context terms of one range.

    Terms are words of the description and of the neighbours' labels.
    """
    entity_parts = EntityParts(data, bounds)
    sections = entity_parts[bucket]
    num_rows = len(sections["qid"])
    # At least one chunk, also of a part without rows: there must be something to concatenate.
    chunks = [
        _context_terms(entity_parts, sections, low, min(low + CHUNK_ROWS, num_rows))
        for low in range(0, max(num_rows, 1), CHUNK_ROWS)
    ]

    terms = np.concatenate([values for _, values in chunks])
    # How many entities of this part have a term; `_idf` adds up all parts.
    distinct, counts = np.unique(terms, return_counts=True)
    arrays: dict[str, Array] = {
        "type": _types(data, sections),
        "term_offsets": offsets_of(np.concatenate([sizes for sizes, _ in chunks])),
        "terms": terms,
        "frequent": distinct,
        "frequency": counts.astype(np.uint32),
    }
    save_sections(part_path(data, "terms", bucket), arrays)


def _context_terms(
    parts: EntityParts, part: dict[str, Array], low: int, high: int
) -> tuple[I64, U32]:
    """Return how many terms rows low to high have, and the terms, sorted within a row.

    Words of an entity's name are no terms: they are in every text that mentions it, so they do not
    help to decide.
    """
    # Words of the neighbours' labels: each distinct neighbour is looked up once.
    owners, near = _runs(part, "near", low, high)
    distinct, number_of_near = np.unique(near, return_inverse=True)
    sizes, words = parts.label_terms(distinct)
    starts = np.cumsum(sizes) - sizes
    near_words = words[spread(starts[number_of_near], sizes[number_of_near])]

    # Sets of (row, word), each pair as one sorted number.
    joint = _joint(np.repeat(owners, sizes[number_of_near]), near_words)
    joint = np.union1d(joint, _joint(*_runs(part, "said", low, high)))
    joint = np.setdiff1d(joint, _joint(*_runs(part, "own", low, high)), assume_unique=True)

    counts = np.bincount((joint >> np.uint64(32)).astype(np.int64), minlength=high - low)
    return counts, (joint & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def _runs(part: dict[str, Array], name: str, low: int, high: int) -> tuple[I64, U32]:
    """Return owners, counted from `low`, and values of the runs of rows low to high."""
    offsets = part[f"{name}_offsets"][low : high + 1]
    return owners_of(offsets), part[name][offsets[0] : offsets[-1]]


def _joint(owners: I64, values: U32) -> U64:
    return (owners.astype(np.uint64) << np.uint64(32)) | values.astype(np.uint64)


def _types(data: str, part: dict[str, Array]) -> U8:
    """Return the type bits of a part's entities: those of all their classes, united.

    Where no class says anything, those that the statements imply.
    """
    folder = local_folder(files.join(spill_folder(data), CLASSES))
    classes = map_sections(files.join(folder, CLASSES_FILE))
    has_types, bits = SortedMap(keys=classes["qid"], values=classes["bits"]).find(part["class"])

    types = np.zeros(len(part["qid"]), np.uint8)
    np.bitwise_or.at(types, owners_of(part["class_offsets"])[has_types], bits[has_types])
    return np.where(types > 0, types, part["implied"])


def join_array(data: str, folder: str, name: str, bounds: Sequence[int]) -> None:
    """Write one array of the store from all parts."""
    entity_parts = EntityParts(data, bounds, "terms" if name in TERM_ARRAYS else "entities")
    path = array_path(folder, name)

    # The parts are read twice, once for the length, so that one at a time is in memory.
    if name == "idf":
        save_joined(path, np.float32, 1 << TERM_BITS, [_idf(entity_parts)])
    elif name.endswith("_offsets"):
        length = 1 + sum(len(sections[name]) - 1 for sections in entity_parts)
        save_joined(
            path, np.int64, length, _joined_offsets(sections[name] for sections in entity_parts)
        )
    else:
        length = sum(len(sections[name]) for sections in entity_parts)
        save_joined(path, DTYPES[name], length, (sections[name] for sections in entity_parts))


def _joined_offsets(offsets_of_parts: Iterable[I64]) -> Iterator[I64]:
    """Yield the offsets of parts as offsets of the whole."""
    base = 0
    yield np.zeros(1, np.int64)
    for offsets in offsets_of_parts:
        yield offsets[1:] + base
        base += int(offsets[-1])


def _idf(parts: Iterable[dict[str, Array]]) -> F32:
    """Return the weight of each term: log((entities + 1) / (entities with the term + 1))."""
    counts, num_entities = np.zeros(1 << TERM_BITS, np.int64), 0
    for sections in parts:
        # A part lists each term once, so no addition is lost.
        counts[sections["frequent"]] += sections["frequency"]
        num_entities += len(sections["type"])
    idf: F32 = np.log((num_entities + 1) / (counts + 1)).astype(np.float32)
    return idf
