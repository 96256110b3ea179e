"""Reject documents whose id another document has, as the last step of `documents`.

The first one in the order of the files stays; the others become rejects that name both places. A
unit does so within itself; this phase, one unit after all others, does so across units, so the rows
do not depend on how the files were cut. Units that lose documents are written again, and replaced.
A corpus repeats hardly any id, so this nearly always costs only a look at them: 8 bytes of memory
per document.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays.hashing import hash_texts
from pipeline.engine import files
from pipeline.engine.spill import read_spill, write_runs
from pipeline.engine.tables import read_rows
from pipeline.engine.tasks import Bucket, Unit
from pipeline.engine.units import UnitReport, UnitWriter, finished_units
from schemas import BY_NAME, REJECTS
from schemas.array_types import I64

# What a unit leaves: the id of each document that it kept, and where the document starts.
KIND = "ids"
IDS = pa.schema({"doc_id": pa.string(), "place": pa.string()})
# Characters of a rejected document by which it can be recognised.
SHOWN_CHARACTERS = 500


def repeat_reason(place: str, first_place: str) -> str:
    """Return the reason of a reject whose id an earlier document has."""
    return (
        f"doc_id repeats: at {place}, first at {first_place}; documents.id_field names the field "
        "of the id"
    )


def leave_ids(out: UnitWriter, unit: int, ids: Sequence[str], places: Sequence[str]) -> None:
    """Leave the ids of a unit, and the places of its documents, to the phase after it."""
    rows = pa.table([pa.array(ids, pa.string()), pa.array(places, pa.string())], schema=IDS)
    write_runs(out.folder, KIND, unit, rows, np.asarray([0, len(ids)]))


@dataclass(frozen=True, kw_only=True)
class RepeatsWorker:
    """Reject the repeats of all units, in one unit after them."""

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:  # noqa: ARG002 - the one unit
        """Find the repeats; write the units that have some again."""
        sizes, first_of_document = _firsts(out.folder)
        repeats = np.flatnonzero(first_of_document != np.arange(len(first_of_document)))
        if not len(repeats):
            return

        # In the order of the units, which is the order of the files: the first one stays.
        id_of, place_of = _rows_at(out.folder, np.union1d(repeats, first_of_document[repeats]))
        unit_of_repeat = np.searchsorted(np.cumsum(sizes), repeats, side="right")
        reasons_of: dict[int, dict[str, str]] = defaultdict(dict)
        for index, repeat in zip(unit_of_repeat.tolist(), repeats.tolist(), strict=True):
            first_place = place_of[int(first_of_document[repeat])]
            reasons_of[index][id_of[repeat]] = repeat_reason(place_of[repeat], first_place)

        reports = finished_units(out.folder)
        for index, reasons in reasons_of.items():
            _write_again(out, reports[index], reasons)


def _firsts(folder: str) -> tuple[I64, I64]:
    """Return the number of documents of each unit, and for each document the first with its id."""
    keys = [hash_texts(rows.column("doc_id").to_pylist()) for rows in read_spill(folder, KIND, 0)]
    # A corpus may have no unit at all: Parquet files without rows.
    all_keys = np.concatenate([np.empty(0, np.uint64), *keys])
    _, first, inverse = np.unique(all_keys, return_index=True, return_inverse=True)
    return np.array([len(of_unit) for of_unit in keys], np.int64), first[inverse]


def _rows_at(folder: str, documents: I64) -> tuple[dict[int, str], dict[int, str]]:
    """Return ids and places of some documents, by their numbers, which ascend."""
    id_of: dict[int, str] = {}
    place_of: dict[int, str] = {}
    first = 0
    for rows in read_spill(folder, KIND, 0):
        low, high = np.searchsorted(documents, [first, first + rows.num_rows])
        numbers = documents[low:high]
        chosen = rows.take(pa.array(numbers - first))
        id_of |= zip(numbers.tolist(), chosen.column("doc_id").to_pylist(), strict=True)
        place_of |= zip(numbers.tolist(), chosen.column("place").to_pylist(), strict=True)
        first += rows.num_rows
    return id_of, place_of


def _write_again(out: UnitWriter, report: UnitReport, reason_of: dict[str, str]) -> None:
    """Write the rows of a unit without its repeats, which become rejects."""
    repeated = pa.array(list(reason_of), pa.string())
    for name, part_file in report.parts.items():
        path = files.join(out.folder, *part_file.path.split("/"))
        for rows in read_rows(path, BY_NAME[name]):
            if name == REJECTS.name:
                out.write(REJECTS, rows)
                continue
            is_repeat = pc.is_in(rows.column("doc_id"), value_set=repeated)
            if name == "documents":
                for doc_id, text in _texts(rows.filter(is_repeat)):
                    out.reject(doc_id, reason_of[doc_id], text[:SHOWN_CHARACTERS])
            out.write(BY_NAME[name], rows.filter(pc.invert(is_repeat)))

    # Each repeat leaves the counter that it had, so that rows in still equal rows accounted for.
    counters = Counter(report.counters)
    counters["rows_out"] -= len(reason_of)
    # The unary plus drops counters that fell to 0, as if they had never been counted.
    for counter, count in (+counters).items():
        out.count(counter, count)
    out.replace(report.index)


def _texts(rows: pa.Table) -> Iterator[tuple[str, str]]:
    return zip(rows.column("doc_id").to_pylist(), rows.column("text").to_pylist(), strict=True)
