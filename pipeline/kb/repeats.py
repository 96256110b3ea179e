"""Drop repeats, as the last step of `kb`: an entity that a dump repeats is kept once.

Its first occurrence in the order of the files stays. A unit drops repeats within itself; this
phase, one unit after all others, drops those across units: so the rows do not depend on how the
files were cut. Units that lose rows are written again, and replaced. A dump repeats hardly any
entity, so this nearly always costs only a look at the ids: one bit of memory per id in use.
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
from schemas.array_types import U32
from schemas.table import Table

# The column with the item that a row belongs to.
OWNERS = {
    "entities": "qid",
    "aliases": "qid",
    "triples": "subject",
    "statements": "subject",
}
# Folders of ids that a unit leaves. UNCHANGED: items that it did not parse, in an update.
UNCHANGED = "unchanged"
# Items that it left out.
EXCLUDED = "excluded"
# Unchanged items that another unit had parsed before.
SUPERSEDED = "superseded"
NO_IDS: U32 = np.empty(0, np.uint32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeats:
    """Hold the ids of one unit that an earlier unit has too."""

    items: U32
    properties: U32
    unchanged: U32
    excluded: U32

    def __len__(self) -> int:
        return len(self.items) + len(self.properties) + len(self.unchanged) + len(self.excluded)


@dataclass(frozen=True, kw_only=True)
class RepeatsWorker:
    """Drop the repeats of all units, in one unit after them."""

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:
        """Find the repeats; write the units that have some again."""
        reports = finished_units(out.folder)
        earlier = _EarlierIds()
        # In the order of the units, which is the order of the files: the first occurrence stays.
        for index in range(unit.index):
            repeats = earlier.take_repeats(out.folder, reports[index])
            if len(repeats):
                _write_again(out, reports[index], repeats)
        save_items(files.join(out.folder, SPILL, SUPERSEDED), 0, earlier.superseded)


@dataclass(kw_only=True, slots=True)
class _EarlierIds:
    """Hold the ids of the units before."""

    # Items that were parsed, those left out included.
    parsed: ItemSet = field(default_factory=ItemSet)
    unchanged: ItemSet = field(default_factory=ItemSet)
    properties: ItemSet = field(default_factory=ItemSet)
    superseded: list[int] = field(default_factory=list)

    def take_repeats(self, folder: str, report: UnitReport) -> Repeats:
        """Return the repeats of a unit, and add its other ids."""
        items = _ids(folder, report, ENTITIES.name, "qid")
        unchanged = load_items(files.join(folder, SPILL, UNCHANGED), report.index)
        properties = _ids(folder, report, PROPERTIES.name, "pid")
        excluded = load_items(files.join(folder, SPILL, EXCLUDED), report.index)

        # An unchanged item whose changed form came before must not be copied from the older run.
        was_parsed = self.parsed.contains(unchanged)
        was_unchanged = self.unchanged.contains(unchanged)
        self.superseded += unchanged[was_parsed & ~was_unchanged].tolist()

        repeats = Repeats(
            items=items[self.parsed.contains(items) | self.unchanged.contains(items)],
            properties=properties[self.properties.contains(properties)],
            unchanged=unchanged[was_parsed | was_unchanged],
            excluded=excluded[self.parsed.contains(excluded) | self.unchanged.contains(excluded)],
        )

        self.parsed.add(excluded)
        self.parsed.add(np.setdiff1d(items, repeats.items))
        self.unchanged.add(np.setdiff1d(unchanged, repeats.unchanged))
        self.properties.add(properties)
        return repeats


def leave_ids(unit: Unit[ByteRange], out: UnitWriter, kind: str, ids: Sequence[int]) -> None:
    """Leave ids of a unit that have no rows to the phases that follow.

    Args:
        unit: the unit.
        out: its writer.
        kind: the folder of these ids: UNCHANGED or EXCLUDED.
        ids: the QIDs.
    """
    if ids:
        save_items(files.join(out.folder, SPILL, kind), unit.index, ids)


def _ids(folder: str, report: UnitReport, table_name: str, column: str) -> U32:
    """Return the ids in a unit's part file; none if it has no such file."""
    part_file = report.parts.get(table_name)
    if part_file is None:
        return NO_IDS

    table = ENTITIES if table_name == ENTITIES.name else PROPERTIES
    batches = read_batches(files.join(folder, *part_file.path.split("/")), table, [column])
    return np.concatenate([batch.column(0).to_numpy() for batch in batches] or [NO_IDS])


def _write_again(out: UnitWriter, report: UnitReport, repeats: Repeats) -> None:
    """Write the rows of a unit without those of repeats, and count the repeats as skipped."""
    for name, part_file in report.parts.items():
        path = files.join(out.folder, *part_file.path.split("/"))
        for table, rows in _remaining_rows(name, path, repeats):
            out.write(table, rows)

    # Each repeat leaves the counter that it had, so that rows in still equal rows accounted for.
    counters = Counter(report.counters)
    counters["rows_out"] -= len(repeats) - len(repeats.excluded)
    counters["skipped_scholarly"] -= len(repeats.excluded)
    counters["skipped_repeated"] += len(repeats)
    counters["items_unchanged"] -= len(repeats.unchanged)
    # The unary plus drops counters that fell to 0, as if they had never been counted.
    for counter, count in (+counters).items():
        out.count(counter, count)
    out.replace(report.index)


def _remaining_rows(name: str, path: str, repeats: Repeats) -> Iterator[tuple[Table, pa.Table]]:
    """Yield the rows of a part file that do not belong to a repeat."""
    table = BY_NAME[name]
    for rows in read_rows(path, table):
        if name in OWNERS:
            is_repeat = np.isin(rows.column(OWNERS[name]).to_numpy(), repeats.items)
        elif table is PROPERTIES:
            is_repeat = np.isin(rows.column("pid").to_numpy(), repeats.properties)
        else:
            # Redirects and rejects belong to no entity.
            is_repeat = np.zeros(rows.num_rows, np.bool_)
        yield table, rows.filter(pa.array(~is_repeat))
