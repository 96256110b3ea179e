"""Open the index of a run together with the entities that a user added to it.

Goes in: the folders of alias index and entity store, and the files of the added entities (`added`).
Comes out: an index and a store that answer as if the entities had been in the dump. Their look-ups
are built here by the functions that build the index, in memory, whenever they are opened: no file
can be out of date. Costs 20 ms, and 0.1 ms per entity; nothing where none was added.

Unlike a new index: an item of Wikidata does not get added entities as neighbours, words keep their
weights (`idf`), and a class that was added gives its entities no coarse type.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.arrays.joined import JoinedArray
from pipeline.arrays.mapped_files import local_folder
from pipeline.arrays.sections import map_sections, save_sections
from pipeline.engine import files
from pipeline.engine.spill import spill_folder, write_spill
from pipeline.engine.tables import ADDED, RunPaths, check_table, read_table
from pipeline.engine.tasks import RowRange, Unit
from pipeline.index.alias_index import AliasIndex, Postings
from pipeline.index.alias_index_writer import (
    Limits,
    build_blocks,
    build_shard,
    spill_aliases,
    write_description,
)
from pipeline.index.entity_build import (
    CLASSES,
    CLASSES_FILE,
    write_part,
    write_terms,
)
from pipeline.index.entity_parts import EntityParts, part_path
from pipeline.index.entity_spill import (
    ENTITY_ROWS,
    spill_entities,
    spill_triples,
    write_merged,
)
from pipeline.index.entity_store import ARRAYS, RUNS, EntityStore
from pipeline.index.name_words import build_openings, build_words
from pipeline.index.postings import PostingRows, unite
from schemas import ALIASES, ENTITIES, TRIPLES
from schemas.array_types import I64, U32, Array, Bools, Ints
from schemas.ids import FIRST_OWN
from schemas.table import Table

# Ranges of QIDs: the items of Wikidata, then the added entities.
BOUNDS = (FIRST_OWN,)
STORED, OWN = 0, 1
LIMITS = Limits(num_shards=1, num_parts=1, max_candidates=64)


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFolders:
    """Say where an index lies, and the files of the entities that were added to the run."""

    aliases: str
    entities: str
    # Files of the tables of kb; empty where none was added.
    added: tuple[tuple[Table, str], ...] = ()

    @classmethod
    def of(cls, paths: RunPaths) -> IndexFolders:
        """Return those of a run.

        Raises:
            StageError: the run has no finished index.
        """
        tables = (ENTITIES, ALIASES, TRIPLES) if paths.added_fingerprint else ()
        return cls(
            aliases=paths.artefact("index", "aliases"),
            entities=paths.artefact("index", "entities"),
            added=tuple((table, path) for table in tables for path in paths.files(ADDED, table)),
        )


def open_index(folders: IndexFolders) -> tuple[AliasIndex, EntityStore]:
    """Open an index and its store, added entities included.

    Raises:
        StageError: one of them is not there, or has another version.
    """
    # On a cluster the folders are remote: they are copied once per machine.
    aliases, entities = local_folder(folders.aliases), local_folder(folders.entities)
    if not folders.added:
        return AliasIndex(aliases), EntityStore(entities)

    # The maps of the files outlive their names, so nothing is left behind.
    with tempfile.TemporaryDirectory(prefix="trelm-added-") as data:
        own_arrays = _build_entities(data, folders, EntityStore(entities))
        own_names = _build_names(data, folders)
    return ExtendedIndex(aliases, own_names), ExtendedStore(entities, own_arrays)


def open_store(folders: IndexFolders) -> EntityStore:
    """Open an entity store, added entities included; see `open_index`."""
    return open_index(folders)[1]


class ExtendedStore(EntityStore):
    """Read an entity store, and added entities after its last row."""

    def __init__(self, folder: str, own: dict[str, Array]) -> None:
        """Map the files.

        Args:
            folder: of the store.
            own: the arrays of the added entities, sorted by number.
        """
        super().__init__(folder)
        self._own_numbers: U32 = own["qid"]
        self._num_stored = super().__len__()
        # `rows` searches the stored items by themselves: their array stays as it is.
        for name in set(ARRAYS) - {"qid", "idf"}:
            first, second = self._mapped[name], own[name]
            if name.removesuffix("_offsets") in RUNS and name.endswith("_offsets"):
                # Runs follow each other: the first added one begins where the last stored one ends.
                second = second[1:] + first[-1]
            self._arrays[name] = JoinedArray(first, second.astype(first.dtype))

    def __len__(self) -> int:
        """Return the number of entities."""
        return self._num_stored + len(self._own_numbers)

    def rows(self, qids: Ints) -> I64:
        """Return the rows of items, -1 where the store has none. Shape (n,) in and out."""
        rows = super().rows(qids)
        own = np.flatnonzero(qids >= FIRST_OWN)
        if len(own):
            places = np.searchsorted(self._own_numbers, qids[own])
            places[places == len(self._own_numbers)] = 0
            is_there = self._own_numbers[places] == qids[own]
            rows[own] = np.where(is_there, self._num_stored + places, -1)
        return rows


class ExtendedIndex(AliasIndex):
    """Read an alias index, and the names of added entities before those of the same key.

    There are few of them and a user wants them seen: the cut to the best candidates never takes
    one. The decision is by evidence as ever.
    """

    def __init__(self, folder: str, own: AliasIndex) -> None:
        super().__init__(folder)
        self._own = own
        self._stored_items: Callable[[str], U32] = self.items_with_word
        self._stored_opens: Callable[[U32, U32], Bools] = self.opens_name
        self.items_with_word = self._items_with_word
        self.opens_name = self._opens_name

    def __len__(self) -> int:
        """Return the number of keys; one that both have counts twice."""
        return super().__len__() + len(self._own)

    def __contains__(self, key: str) -> bool:
        """Say whether a key is listed."""
        return key in self._own or super().__contains__(key)

    def postings(self, key: str) -> Postings:
        """Return the candidates of a key; none where it is not listed."""
        stored, own = super().postings(key), self._own.postings(key)
        if not len(own.qids):
            return stored
        if not len(stored.qids):
            return own

        # The corpus's own links may have listed an added entity in the index: its rows unite.
        is_shared = np.isin(stored.qids, own.qids)
        qids = np.concatenate([own.qids, stored.qids[is_shared]])
        counts = np.concatenate([own.counts, stored.counts[is_shared]])
        flags = np.concatenate([own.flags, stored.flags[is_shared]])
        united = unite(
            PostingRows(np.zeros(len(qids), np.int64), qids, flags, counts.astype(np.uint64))
        )
        return Postings(
            np.concatenate([united.qids, stored.qids[~is_shared]]),
            np.concatenate([united.counts.astype(np.uint32), stored.counts[~is_shared]]),
            np.concatenate([united.flags, stored.flags[~is_shared]]),
        )

    def similar_keys(self, key: str) -> list[str]:
        """Return the keys of which this one may be a misspelling, each once."""
        return list(dict.fromkeys([*self._own.similar_keys(key), *super().similar_keys(key)]))

    def _items_with_word(self, word: str) -> U32:
        return np.concatenate([self._own.items_with_word(word), self._stored_items(word)])

    def _opens_name(self, hashes: U32, next_hashes: U32) -> Bools:
        opens: Bools = self._own.opens_name(hashes, next_hashes) | self._stored_opens(
            hashes, next_hashes
        )
        return opens


def _build_entities(data: str, folders: IndexFolders, store: EntityStore) -> dict[str, Array]:
    """Return the arrays of the added entities' store, without `idf`."""
    # No item of Wikidata was merged into an added one.
    write_merged(data, ())
    paths = {table.name: path for table, path in folders.added}
    spill_entities(data, _whole(paths[ENTITIES.name], ENTITIES), BOUNDS)
    spill_triples(data, _whole(paths[TRIPLES.name], TRIPLES), BOUNDS)
    _spill_neighbours(data, paths[TRIPLES.name], store)
    classes = map_sections(files.join(local_folder(folders.entities), CLASSES_FILE))
    save_sections(files.join(spill_folder(data), CLASSES, CLASSES_FILE), classes)

    for bucket in (STORED, OWN):
        write_part(data, bucket)
    write_terms(data, OWN, BOUNDS)
    sections = map_sections(part_path(data, "entities", OWN)) | map_sections(
        part_path(data, "terms", OWN)
    )
    return {name: sections[name] for name in ARRAYS if name != "idf"}


def _whole(path: str, table: Table) -> Unit[RowRange]:
    """Return the unit of a whole file."""
    task = RowRange(path=path, start=0, end=check_table(path, table), table=table.name)
    return Unit(index=0, of=2, task=task)


def _spill_neighbours(data: str, triples: str, store: EntityStore) -> None:
    """Spill the items of Wikidata that the facts name, with their labels.

    The words of these labels are context of the added entities.
    """
    targets = np.unique(read_table([triples], TRIPLES, ["object"]).column("object").to_numpy())
    rows = store.rows(targets)
    targets, rows = targets[rows >= 0], rows[rows >= 0]
    # Nothing else of them is read.
    rest: dict[str, object] = {
        "description": "",
        "num_sitelinks": 0,
        "num_statements": 0,
        "instance_of": [],
        "is_meta": False,
    }
    items: list[dict[str, object]] = [
        {"qid": qid, "label": store.label(row)} | rest
        for qid, row in zip(targets.tolist(), rows.tolist(), strict=True)
    ]
    table = pa.Table.from_pylist(items, schema=ENTITY_ROWS)
    write_spill(data, "entities", 1, table, np.zeros(len(rows), np.int64), len(BOUNDS) + 1)


def _build_names(data: str, folders: IndexFolders) -> AliasIndex:
    """Return the alias index of the added entities; its files may be removed afterwards."""
    aliases = str(Path(data) / "aliases")
    path = next(path for table, path in folders.added if table.name == ALIASES.name)
    spill_aliases(data, 0, read_table([path], ALIASES), LIMITS.num_shards)
    build_shard(data, aliases, 0, EntityParts(data, BOUNDS).popularity, LIMITS)
    build_blocks(data, aliases, 0, LIMITS)
    build_words(data, aliases, 0)
    build_openings(data, aliases)
    write_description(aliases, LIMITS)
    return AliasIndex(aliases)
