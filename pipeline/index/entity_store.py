"""The entity store: what the linker must know of an entity, memory-mapped and read at random.

Arrays sorted by QID: popularity, statements, coarse type, is_primary, is_meta; runs (CSR): label, description, context
terms, neighbours. Built by stage `index` (`entity_build`) from the tables of `kb`. Terms are words of the description, of
the title's disambiguator and of the neighbours' labels, as 22-bit hashes; `idf` holds one weight per hash.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.arrays.mapped_files import load_array
from pipeline.arrays.runs import spread
from pipeline.engine import files
from pipeline.engine.errors import StageError

COLUMNS = (
    "qid",
    "popularity",
    "statements",
    "is_primary",
    "type",
    "is_meta",
)  # one value per entity
RUNS = ("label", "description", "term", "near")  # of each: NAME_offsets, and the values
VALUES = {"label": "labels", "description": "descriptions", "term": "terms", "near": "near"}
ARRAYS = (*COLUMNS, *(f"{name}_offsets" for name in RUNS), *VALUES.values(), "idf")


def array_path(folder: str, name: str) -> str:
    """File of an array."""
    return files.join(folder, f"entity.{name}.npy")


class EntityStore:
    """Reads a store in a local folder."""

    def __init__(self, folder: str) -> None:
        """Map the files.

        Raises:
            StageError: no store there, or one that an older version built, without some of the arrays.
        """
        self._arrays: dict[str, np.ndarray[Any, Any]] = {
            name: np.asarray(
                _load(array_path(folder, name))
            )  # a plain view of the map: indexing it costs less
            for name in ARRAYS
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

    def statements(self, rows: np.ndarray) -> np.ndarray:
        """Statements of the entity."""
        return self._arrays["statements"][rows]

    def is_primary(self, rows: np.ndarray) -> np.ndarray:
        """Whether Wikipedia's title of it needs no disambiguator in parentheses: it is what the name means there."""
        return self._arrays["is_primary"][rows].astype(bool)

    def types(self, rows: np.ndarray) -> np.ndarray:
        """Coarse type bits."""
        return self._arrays["type"][rows]

    def is_meta(self, rows: np.ndarray) -> np.ndarray:
        """Whether it is a page about pages."""
        return self._arrays["is_meta"][rows].astype(bool)

    def label(self, row: int) -> str:
        """Label of one entity."""
        return self._text("label", row)

    def description(self, row: int) -> str:
        """Description of one entity; empty if it has none."""
        return self._text("description", row)

    def terms(self, row: int) -> np.ndarray:
        """Context terms of one entity, sorted hashes."""
        low, high = self._arrays["term_offsets"][row : row + 2]
        return self._arrays["terms"][low:high]

    def neighbours(self, row: int) -> np.ndarray:
        """Items one triple away, at most MAX_NEIGHBOURS."""
        low, high = self._arrays["near_offsets"][row : row + 2]
        return self._arrays["near"][low:high]

    def term_runs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Context terms of many entities: how many each has, and all of them, entity after entity."""
        return self._runs("term", rows)

    def neighbour_runs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Neighbours (QIDs) of many entities, likewise."""
        return self._runs("near", rows)

    def _runs(self, name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offsets = self._arrays[f"{name}_offsets"]
        starts = offsets[rows]
        sizes = offsets[rows + 1] - starts
        return sizes, self._arrays[VALUES[name]][spread(starts, sizes)]

    def _text(self, name: str, row: int) -> str:
        low, high = self._arrays[f"{name}_offsets"][row : row + 2]
        return bytes(self._arrays[VALUES[name]][low:high]).decode()


def _load(path: str) -> np.ndarray[Any, Any]:
    try:
        return load_array(path)
    except FileNotFoundError as error:
        raise StageError(
            f"{path}: is not there, so an older version built this; run `trelm-pipeline index --redo`"
        ) from error
