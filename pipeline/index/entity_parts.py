"""Parts of the entity store while it is built, memory-mapped, found by range of QIDs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.arrays.mapped_files import local_folder
from pipeline.arrays.runs import spread
from pipeline.arrays.sections import map_sections
from pipeline.arrays.sorted_map import SortedMap
from pipeline.engine import files
from pipeline.engine.spill import spill_folder
from schemas.array_types import Array


def part_path(data: str, kind: str, bucket: int) -> str:
    """File of a part; kind is `entities` or `terms`."""
    return files.join(spill_folder(data), kind, part_name(bucket))


def part_name(bucket: int) -> str:
    """Its name without the folder."""
    return f"part-{bucket:05d}.safetensors"


class EntityParts:
    """All parts of a kind. Each is mapped anew when it is asked for, and let go: a process holds one at a time."""

    def __init__(self, data: str, bounds: Sequence[int], kind: str = "entities") -> None:
        self._folder = local_folder(files.join(spill_folder(data), kind))
        self._bounds = np.array(bounds, np.uint32)

    def __getitem__(self, bucket: int) -> dict[str, Array]:
        """Arrays of a part."""
        return map_sections(files.join(self._folder, part_name(bucket)))

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Arrays of all parts, in order."""
        for bucket in range(len(self._bounds) + 1):
            yield self[bucket]

    def _find(self, qids: Array) -> Iterator[tuple[slice, dict[str, Array], Array, Array]]:
        """Of sorted items: the slice in a part's range, the part, which of the slice it has, and their rows in it."""
        cuts = [0, *np.searchsorted(qids, self._bounds).tolist(), len(qids)]
        for bucket, (low, high) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
            if low < high:
                part = self[bucket]
                rows = np.arange(len(part["qid"]))
                known, places = SortedMap(keys=part["qid"], values=rows).find(qids[low:high])
                yield slice(low, high), part, known, places[known]

    def popularity(self, qids: Array) -> Array:
        """Popularity of items in any order; 0 of those that are not there."""
        distinct, places = np.unique(qids, return_inverse=True)
        found = np.zeros(len(distinct), np.uint32)
        for where, part, known, rows in self._find(distinct):
            found[where][known] = part["popularity"][rows]
        return found[places]

    def own_terms(self, qids: Array) -> tuple[Array, Array]:
        """Hashed words of the labels of sorted distinct items: how many of each, and all of them in order."""
        sizes = np.zeros(len(qids), np.int64)
        words = [np.empty(0, np.uint32)]
        for where, part, known, rows in self._find(qids):
            starts = part["own_offsets"][rows]
            lengths = part["own_offsets"][rows + 1] - starts
            sizes[where][known] = lengths
            words.append(part["own"][spread(starts, lengths)])
        return sizes, np.concatenate(words)
