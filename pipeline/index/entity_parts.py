"""Read the parts of the entity store while it is built: memory-mapped, found by range of QIDs.

Sections of a part of kind `entities`, sorted by QID: those of the store, and the runs `own` (hashed
words of the label), `said` (hashed words of the description and of the title's disambiguator) and
`class` (values of instance_of). Of kind `terms`: `type`, the runs of `terms`, and how many entities
of the part have each of its distinct terms (`frequent`, `frequency`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.arrays.mapped_files import local_folder
from pipeline.arrays.runs import spread
from pipeline.arrays.sections import map_sections
from pipeline.arrays.sorted_map import SortedMap
from pipeline.engine import files
from pipeline.engine.spill import spill_folder
from schemas.array_types import I64, U32, Array, Bools


def part_path(data: str, kind: str, bucket: int) -> str:
    """Return the path of a part; kind is `entities` or `terms`."""
    return files.join(spill_folder(data), kind, part_name(bucket))


def part_name(bucket: int) -> str:
    """Return the name of a part's file, without the folder."""
    return f"part-{bucket:05d}.safetensors"


class EntityParts:
    """Read all parts of a kind.

    A part is mapped when it is requested and not kept, so a process holds one at a time.
    """

    def __init__(self, data: str, bounds: Sequence[int], kind: str = "entities") -> None:
        self._folder = local_folder(files.join(spill_folder(data), kind))
        self._bounds = np.array(bounds, np.uint32)

    def __getitem__(self, bucket: int) -> dict[str, Array]:
        """Return the arrays of a part."""
        return map_sections(files.join(self._folder, part_name(bucket)))

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Yield the arrays of all parts, in order."""
        for bucket in range(len(self._bounds) + 1):
            yield self[bucket]

    def _find(self, qids: U32) -> Iterator[tuple[slice, dict[str, Array], Bools, I64]]:
        """Look up sorted items part by part.

        Yields:
            The slice of the items that are in the part's range, the part, whether it has each item
            of the slice, and the rows of those that it has.
        """
        # Where the parts' ranges begin and end among the items.
        cuts = [0, *np.searchsorted(qids, self._bounds).tolist(), len(qids)]

        for bucket, (low, high) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
            if low < high:
                sections = self[bucket]
                row_of_qid = SortedMap(keys=sections["qid"], values=np.arange(len(sections["qid"])))
                is_stored, rows = row_of_qid.find(qids[low:high])
                yield slice(low, high), sections, is_stored, rows[is_stored]

    def popularity(self, qids: U32) -> U32:
        """Return the popularity of items in any order; 0 for an item that is not there."""
        distinct, number_of_qid = np.unique(qids, return_inverse=True)
        popularity = np.zeros(len(distinct), np.uint32)
        for span, sections, is_stored, rows in self._find(distinct):
            # A slice is a view, so this writes into the array itself.
            popularity[span][is_stored] = sections["popularity"][rows]
        return popularity[number_of_qid]

    def label_terms(self, qids: U32) -> tuple[I64, U32]:
        """Return the hashed words of the labels of sorted distinct items.

        Returns:
            How many words each item has, and all of them, item by item.
        """
        sizes = np.zeros(len(qids), np.int64)
        words = [np.empty(0, np.uint32)]

        # Sizes go to the items' positions; words simply follow each other, since items and parts
        # are both sorted.
        for span, sections, is_stored, rows in self._find(qids):
            starts = sections["own_offsets"][rows]
            lengths = sections["own_offsets"][rows + 1] - starts
            sizes[span][is_stored] = lengths
            words.append(sections["own"][spread(starts, lengths)])
        return sizes, np.concatenate(words)
