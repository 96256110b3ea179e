"""Read the entity store: what the linker must know of an entity, memory-mapped, at random.

Arrays sorted by QID: popularity, statements, coarse type, is_primary, is_meta. Runs (CSR): label,
description, context terms, neighbours. Built by stage `index` (`entity_build`) from the tables of
`kb`. Terms are words of the description, of the title's disambiguator and of the neighbours'
labels, as 22-bit hashes; `idf` holds one weight per hash.
"""

from __future__ import annotations

import numpy as np

from pipeline.arrays.joined import Readable
from pipeline.arrays.mapped_files import load_array, refuse_damage
from pipeline.arrays.runs import spread
from pipeline.engine import files
from pipeline.engine.errors import StageError
from schemas.array_types import F32, I64, U8, U32, Array, Bools, Ints

# One value per entity.
COLUMNS = ("qid", "popularity", "statements", "is_primary", "type", "is_meta")
# Each has its offsets, NAME_offsets, and its values.
RUNS = ("label", "description", "term", "near")
VALUES = {"label": "labels", "description": "descriptions", "term": "terms", "near": "near"}
ARRAYS = (*COLUMNS, *(f"{name}_offsets" for name in RUNS), *VALUES.values(), "idf")


def array_path(folder: str, name: str) -> str:
    """Return the path of an array."""
    return files.join(folder, f"entity.{name}.npy")


class EntityStore:
    """Read an entity store in a local folder. A row is an entity's number in it."""

    def __init__(self, folder: str) -> None:
        """Map the files.

        Raises:
            StageError: there is no store, it is damaged, or an older version built it without some
                of the arrays.
        """
        refuse_damage(folder)
        # np.asarray makes a plain view of the map: indexing it costs less.
        self._mapped: dict[str, Array] = {
            name: np.asarray(_load(array_path(folder, name))) for name in ARRAYS
        }
        # What is read by row: the same arrays here, longer ones where entities were added.
        self._arrays: dict[str, Readable] = dict(self._mapped)
        # Weight of each term hash, shape (2 ^ TERM_BITS,).
        self.idf: F32 = self._mapped["idf"]

    def __len__(self) -> int:
        """Return the number of entities."""
        return len(self._mapped["qid"])

    def rows(self, qids: Ints) -> I64:
        """Return the rows of items, -1 where the store has none. Shape (n,) in and out."""
        stored = self._mapped["qid"]
        rows = np.searchsorted(stored, qids)
        # An item above all others has no row: any row will do for the comparison.
        rows[rows == len(stored)] = 0
        is_stored = stored[rows] == qids if len(stored) else np.zeros(len(qids), bool)
        return np.where(is_stored, rows, -1)

    def popularity(self, rows: I64) -> U32:
        """Return the popularity: Wikipedia sitelinks + triples that point to the entity."""
        return self._arrays["popularity"][rows]

    def statements(self, rows: I64) -> U32:
        """Return how many statements each entity has."""
        return self._arrays["statements"][rows]

    def is_primary(self, rows: I64) -> Bools:
        """Say whether Wikipedia's title of an entity needs no disambiguator in parentheses.

        Then the entity is what its name means there.
        """
        return self._arrays["is_primary"][rows].astype(bool)

    def types(self, rows: I64) -> U8:
        """Return the coarse type bits."""
        return self._arrays["type"][rows]

    def is_meta(self, rows: I64) -> Bools:
        """Say whether an entity is a page about pages."""
        return self._arrays["is_meta"][rows].astype(bool)

    def label(self, row: int) -> str:
        """Return the label of one entity."""
        return self._text("label", row)

    def description(self, row: int) -> str:
        """Return the description of one entity; empty if it has none."""
        return self._text("description", row)

    def terms(self, row: int) -> U32:
        """Return the context terms of one entity, sorted hashes."""
        low, high = self._arrays["term_offsets"][row : row + 2]
        return self._arrays["terms"][low:high]

    def neighbours(self, row: int) -> U32:
        """Return the items one triple away from an entity, at most MAX_NEIGHBOURS."""
        low, high = self._arrays["near_offsets"][row : row + 2]
        return self._arrays["near"][low:high]

    def term_runs(self, rows: I64) -> tuple[I64, U32]:
        """Return how many context terms each entity has, and all of them, entity after entity."""
        return self._runs("term", rows)

    def neighbour_runs(self, rows: I64) -> tuple[I64, U32]:
        """Return how many neighbours each entity has, and all of them (QIDs), entity by entity."""
        return self._runs("near", rows)

    def _runs(self, name: str, rows: I64) -> tuple[I64, U32]:
        offsets = self._arrays[f"{name}_offsets"]
        starts = offsets[rows]
        sizes = offsets[rows + 1] - starts
        return sizes, self._arrays[VALUES[name]][spread(starts, sizes)]

    def _text(self, name: str, row: int) -> str:
        # A run ends where the next one begins.
        low, high = self._arrays[f"{name}_offsets"][row : row + 2]
        return bytes(self._arrays[VALUES[name]][low:high]).decode()


def _load(path: str) -> Array:
    try:
        return load_array(path)
    except FileNotFoundError as error:
        raise StageError(
            f"{path}: is missing, because an older version of the program built this index; "
            "run `trelm-pipeline index --redo`"
        ) from error
