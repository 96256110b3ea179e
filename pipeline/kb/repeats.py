"""The last step of `kb`: an entity that a dump repeats is kept once, its first occurrence in the order of the files.

A unit drops repeats within itself; this phase, one unit after all others, drops those across units: so the rows do not depend
on how the files were cut. Units that lose rows are written anew, and replaced. A dump repeats hardly any entity, so
this nearly always costs only a look at the ids: one bit of memory per id in use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.arrays.item_sets import ItemSet, load_items, save_items
from pipeline.engine import files
from pipeline.engine.stage import SPILL
from pipeline.engine.tables import read_batches, read_rows
from pipeline.engine.tasks import Bucket, ByteRange, Unit
from pipeline.engine.units import UnitReport, UnitWriter, finished_units
from schemas import BY_NAME, ENTITIES, PROPERTIES
from schemas.array_types import Array
from schemas.table import Table

OWNERS = {
    "entities": "qid",
    "aliases": "qid",
    "triples": "subject",
    "statements": "subject",
}  # columns of the item
UNCHANGED = "unchanged"  # folder of the items that a unit did not parse, in an update
EXCLUDED = "excluded"  # of the items that it left out
SUPERSEDED = "superseded"  # of these, those that another unit had parsed before
NOTHING: Array = np.empty(0, np.uint32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeats:
    """Ids of one unit that an earlier one has."""

    items: Array
    properties: Array
    unchanged: Array
    excluded: Array

    def __len__(self) -> int:
        return len(self.items) + len(self.properties) + len(self.unchanged) + len(self.excluded)


@dataclass(frozen=True, kw_only=True)
class RepeatsWorker:
    """One unit, after all ordinary ones."""

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:
        """Find the repeats, write the units that have some anew."""
        reports = finished_units(out.folder)
        seen = _Seen()
        for index in range(unit.index):
            repeats = seen.take(out.folder, reports[index])
            if len(repeats):
                _write_anew(out, reports[index], repeats)
        save_items(files.join(out.folder, SPILL, SUPERSEDED), 0, seen.superseded)


@dataclass(kw_only=True, slots=True)
class _Seen:
    """Ids of the units before."""

    parsed: ItemSet = field(default_factory=ItemSet)  # those left out, too
    unchanged: ItemSet = field(default_factory=ItemSet)
    properties: ItemSet = field(default_factory=ItemSet)
    superseded: list[int] = field(default_factory=list)

    def take(self, folder: str, report: UnitReport) -> Repeats:
        """The repeats of a unit; its other ids are seen from now on."""
        items = _ids(folder, report, ENTITIES.name, "qid")
        unchanged = load_items(files.join(folder, SPILL, UNCHANGED), report.index)
        properties = _ids(folder, report, PROPERTIES.name, "pid")
        excluded = load_items(files.join(folder, SPILL, EXCLUDED), report.index)
        again = self.parsed.contains(unchanged)
        self.superseded += unchanged[again & ~self.unchanged.contains(unchanged)].tolist()
        repeats = Repeats(
            items=items[self.parsed.contains(items) | self.unchanged.contains(items)],
            properties=properties[self.properties.contains(properties)],
            unchanged=unchanged[again | self.unchanged.contains(unchanged)],
            excluded=excluded[self.parsed.contains(excluded) | self.unchanged.contains(excluded)],
        )
        self.parsed.add(excluded)
        self.parsed.add(np.setdiff1d(items, repeats.items))
        self.unchanged.add(np.setdiff1d(unchanged, repeats.unchanged))
        self.properties.add(properties)
        return repeats


def leave_ids(unit: Unit[ByteRange], out: UnitWriter, what: str, ids: Sequence[int]) -> None:
    """Leave ids of a unit that have no rows to the phases that follow."""
    if ids:
        save_items(files.join(out.folder, SPILL, what), unit.index, ids)


def _ids(folder: str, report: UnitReport, table: str, column: str) -> Array:
    part = report.parts.get(table)
    if part is None:
        return NOTHING
    known = ENTITIES if table == ENTITIES.name else PROPERTIES
    batches = read_batches(files.join(folder, *part.path.split("/")), known, [column])
    return np.concatenate([batch.column(0).to_numpy() for batch in batches] or [NOTHING])


def _write_anew(out: UnitWriter, report: UnitReport, repeats: Repeats) -> None:
    """The rows of a unit without those of repeats, and its counts with them as skipped."""
    for name, part in report.parts.items():
        path = files.join(out.folder, *part.path.split("/"))
        for table, rows in _kept_rows(name, path, repeats):
            out.write(table, rows)
    counters = Counter(report.counters)
    counters["rows_out"] -= len(repeats) - len(repeats.excluded)
    counters["skipped_scholarly"] -= len(repeats.excluded)
    counters["skipped_repeated"] += len(repeats)
    counters["items_unchanged"] -= len(repeats.unchanged)
    for counter, count in (+counters).items():
        out.count(counter, count)
    out.replace(report.index)


def _kept_rows(name: str, path: str, repeats: Repeats) -> Iterator[tuple[Table, pa.Table]]:
    table = BY_NAME[name]
    for rows in read_rows(path, table):
        if name in OWNERS:
            dropped = np.isin(rows.column(OWNERS[name]).to_numpy(), repeats.items)
        elif table is PROPERTIES:
            dropped = np.isin(rows.column("pid").to_numpy(), repeats.properties)
        else:
            dropped = np.zeros(rows.num_rows, np.bool_)
        yield table, rows.filter(pa.array(~dropped))
