"""The entity store's later phases: a part per range of QIDs, its context terms, then the arrays of all parts joined.

Neighbours' labels are read, as hashed words, from the memory-mapped parts of the phase before, one part at a time. A part of
300,000 entities takes 0.5 GB beside what the program itself takes. Nothing depends on the number of units or parts.
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
from pipeline.index.entity_spill import CLASS_ROWS, DEGREE_ROWS, ENTITY_ROWS, NEAR_ROWS
from pipeline.index.entity_store import array_path
from pipeline.index.entity_types import class_types
from pipeline.index.name_keys import disambiguator
from pipeline.index.neighbours import Pairs, nearest
from pipeline.index.words import TERM_BITS, text_terms
from schemas.array_types import Array

CHUNK_ROWS = 50_000
CLASSES = "classes"
KINDS: dict[str, type[np.generic]] = {
    "qid": np.uint32, "popularity": np.uint32, "statements": np.uint32, "is_primary": np.uint8, "type": np.uint8,
    "is_meta": np.uint8, "labels": np.uint8, "descriptions": np.uint8, "terms": np.uint32, "near": np.uint32,
}  # fmt: skip


def write_classes(data: str) -> None:
    """Coarse types of all classes. Memory: 60 bytes per subclass_of statement."""
    edges = concat_spill(data, "classes", 0, CLASS_ROWS)
    classes, bits = class_types(*(edges.column(name).to_numpy() for name in ("child", "parent")))
    save_sections(
        files.join(spill_folder(data), CLASSES, "classes.safetensors"),
        {"qid": classes, "bits": bits},
    )


def write_part(data: str, bucket: int) -> None:
    """One range of entities: all that does not need other ranges."""
    entities = concat_spill(data, "entities", bucket, ENTITY_ROWS)
    order = np.argsort(entities.column("qid").to_numpy(), kind="stable")
    qids = entities.column("qid").to_numpy()[order]
    first = np.concatenate([[True], qids[1:] != qids[:-1]]) if len(qids) else np.empty(0, bool)
    entities, qids = (
        entities.take(pa.array(order[first])),
        qids[first],
    )  # a repeated id counts once: the first row
    labels, descriptions = (entities.column(name).to_pylist() for name in ("label", "description"))
    titles = [title or "" for title in entities.column("enwiki_title").to_pylist()]
    marks = list(map(disambiguator, titles))
    arrays = {
        "qid": qids,
        "popularity": entities.column("num_sitelinks").to_numpy() + _degrees(data, bucket, qids),
        "statements": entities.column("num_statements").to_numpy(),
        "is_primary": np.array(
            [bool(title) and not mark for title, mark in zip(titles, marks, strict=True)], np.uint8
        ),
        "is_meta": entities.column("is_meta").to_numpy().astype(np.uint8),
    }
    arrays["label_offsets"], arrays["labels"] = _encoded(labels)
    arrays["description_offsets"], arrays["descriptions"] = _encoded(descriptions)
    arrays["near_offsets"], arrays["near"] = _neighbours(data, bucket, qids)
    arrays["own_offsets"], arrays["own"] = _sorted_runs(map(text_terms, labels))
    arrays["said_offsets"], arrays["said"] = _sorted_runs(
        text_terms(f"{mark} {said}") for mark, said in zip(marks, descriptions, strict=True)
    )
    arrays["class_offsets"], arrays["class"] = runs_of(entities.column("instance_of").to_pylist())
    save_sections(part_path(data, "entities", bucket), arrays)


def _encoded(texts: Sequence[str]) -> tuple[Array, Array]:
    """Offsets and bytes of texts in UTF-8."""
    encoded = [text.encode() for text in texts]
    return offsets_of(np.fromiter(map(len, encoded), np.int64, len(encoded))), np.frombuffer(
        b"".join(encoded), np.uint8
    )


def _sorted_runs(values: Iterable[set[int]]) -> tuple[Array, Array]:
    return runs_of(map(sorted, values))


def _degrees(data: str, bucket: int, qids: Array) -> Array:
    """Triples that point to each."""
    rows = concat_spill(data, "degree", bucket, DEGREE_ROWS)
    targets, counts = (rows.column(name).to_numpy() for name in ("qid", "count"))
    known, places = SortedMap(keys=qids, values=np.arange(len(qids))).find(targets)
    return np.bincount(places[known], counts[known], minlength=len(qids)).astype(np.uint32)


def _neighbours(data: str, bucket: int, qids: Array) -> tuple[Array, Array]:
    rows = concat_spill(data, "near", bucket, NEAR_ROWS)
    near = nearest(
        Pairs(*(rows.column(name).to_numpy() for name in ("one", "other", "is_incoming")))
    )
    known, places = SortedMap(keys=qids, values=np.arange(len(qids))).find(near.one)
    sizes = np.bincount(places[known], minlength=len(qids))
    return offsets_of(sizes), near.other[known]


def write_terms(data: str, bucket: int, bounds: Sequence[int]) -> None:
    """Types and context terms of one range: words of the description and of the neighbours' labels."""
    parts = EntityParts(data, bounds)
    part = parts[bucket]
    num_rows = len(part["qid"])
    chunks = [
        _context(parts, part, low, min(low + CHUNK_ROWS, num_rows))
        for low in range(0, max(num_rows, 1), CHUNK_ROWS)
    ]
    terms = np.concatenate([values for _, values in chunks])
    distinct, counts = np.unique(terms, return_counts=True)
    arrays = {
        "type": _types(data, part),
        "term_offsets": offsets_of(np.concatenate([sizes for sizes, _ in chunks])),
        "terms": terms,
        "frequent": distinct,
        "frequency": counts.astype(np.uint32),
    }
    save_sections(part_path(data, "terms", bucket), arrays)


def _context(
    parts: EntityParts, part: dict[str, Array], low: int, high: int
) -> tuple[Array, Array]:
    """Sizes and sorted values of the terms of rows low to high. An entity's own name tells nothing: it is in every text."""
    owners, near = _runs(part, "near", "near", low, high)
    distinct, places = np.unique(near, return_inverse=True)
    sizes, words = parts.own_terms(distinct)
    starts = np.cumsum(sizes) - sizes
    near_words = words[spread(starts[places], sizes[places])]
    joint = _joint(np.repeat(owners, sizes[places]), near_words)
    joint = np.union1d(joint, _joint(*_runs(part, "said", "said", low, high)))
    joint = np.setdiff1d(joint, _joint(*_runs(part, "own", "own", low, high)), assume_unique=True)
    counts = np.bincount((joint >> np.uint64(32)).astype(np.int64), minlength=high - low)
    return counts, (joint & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def _runs(
    part: dict[str, Array], name: str, values: str, low: int, high: int
) -> tuple[Array, Array]:
    """Owners, counted from low, and values."""
    offsets = part[f"{name}_offsets"][low : high + 1]
    return owners_of(offsets), part[values][offsets[0] : offsets[-1]]


def _joint(owners: Array, values: Array) -> Array:
    return (owners.astype(np.uint64) << np.uint64(32)) | values.astype(np.uint64)


def _types(data: str, part: dict[str, Array]) -> Array:
    folder = local_folder(files.join(spill_folder(data), CLASSES))
    classes = map_sections(files.join(folder, "classes.safetensors"))
    known, bits = SortedMap(keys=classes["qid"], values=classes["bits"]).find(part["class"])
    types = np.zeros(len(part["qid"]), np.uint8)
    np.bitwise_or.at(types, owners_of(part["class_offsets"])[known], bits[known])
    return types


def join_array(data: str, folder: str, name: str, bounds: Sequence[int]) -> None:
    """Write one array of the store from all parts."""
    kind = "terms" if name in ("type", "term_offsets", "terms", "idf") else "entities"
    parts = EntityParts(data, bounds, kind)
    path = array_path(folder, name)
    if name == "idf":
        save_joined(path, np.float32, 1 << TERM_BITS, [_idf(parts)])
    elif name.endswith("_offsets"):
        length = 1 + sum(len(part[name]) - 1 for part in parts)
        save_joined(path, np.int64, length, _shifted(part[name] for part in parts))
    else:
        save_joined(
            path,
            KINDS[name],
            sum(len(part[name]) for part in parts),
            (part[name] for part in parts),
        )


def _shifted(parts: Iterable[Array]) -> Iterator[Array]:
    """Offsets of parts as offsets of the whole."""
    base = 0
    yield np.zeros(1, np.int64)
    for offsets in parts:
        yield offsets[1:] + base
        base += int(offsets[-1])


def _idf(parts: Iterable[dict[str, Array]]) -> Array:
    counts, num_entities = np.zeros(1 << TERM_BITS, np.int64), 0
    for part in parts:
        counts[part["frequent"]] += part["frequency"]
        num_entities += len(part["type"])
    idf: Array = np.log((num_entities + 1) / (counts + 1)).astype(np.float32)
    return idf
