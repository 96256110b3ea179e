"""Unite repeats, as the last step of `kb`: an entity that the dumps have several times is one.

This phase is one unit after all others, so the rows do not depend on how the files were cut. An
item's occurrences are united (`kb.merge`), in the order of the files; of a property, and of an item
whose first occurrence was left out or is copied from an older run, the first one stays. Units that
lose rows are written again, and replaced. A dump repeats hardly any entity, so this nearly always
costs only a look at the ids: one bit of memory per id in use.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.arrays.item_sets import ItemSet, load_items, save_items
from pipeline.engine import files
from pipeline.engine.stage_folders import SPILL
from pipeline.engine.tables import read_batches, read_rows
from pipeline.engine.tasks import Bucket, ByteRange, Unit
from pipeline.engine.units import UnitReport, UnitWriter, finished_units
from pipeline.kb.entity_rows import KbBuilder, KbRules
from pipeline.kb.merge import OCCURRENCE, OWNERS, united_rows
from schemas import ALIASES, BY_NAME, ENTITIES, PROPERTIES, TRIPLES
from schemas.array_types import U32, Bools
from schemas.table import Table

# Items whose occurrences are united at once: about 200 MB of rows.
UNITED_AT_ONCE = 50_000
# Folders of ids that a unit leaves. UNCHANGED: items that it did not parse, in an update.
UNCHANGED = "unchanged"
# Items that it left out.
EXCLUDED = "excluded"
# Unchanged items that another unit had parsed before.
SUPERSEDED = "superseded"
# Folder of the records of items that a unit had once more, a line each.
REPEATED = "repeated"
NO_IDS: U32 = np.empty(0, np.uint32)
logger = logging.getLogger("trelm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeats:
    """Hold the ids of one unit that an earlier unit has too."""

    items: U32
    properties: U32
    unchanged: U32
    excluded: U32
    # Items of which this unit has an occurrence that is united with the first one.
    united: U32

    def __len__(self) -> int:
        return len(self.items) + len(self.properties) + len(self.unchanged) + len(self.excluded)


@dataclass(frozen=True, kw_only=True)
class RepeatsWorker:
    """Unite the repeats of all units, in one unit after them."""

    # What is kept of an entity, for records that a unit had once more.
    rules: KbRules

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:
        """Find the repeats; write the units that have some again, then the united items."""
        reports = finished_units(out.folder)
        earlier = _EarlierIds(rules=self.rules)
        # In the order of the units, which is the order of the files: the first occurrence leads.
        repeats_of_units = [
            earlier.take_repeats(out.folder, reports[index]) for index in range(unit.index)
        ]
        united = np.unique(
            np.concatenate([NO_IDS, *(repeats.united for repeats in repeats_of_units)])
        )

        for index, repeats in enumerate(repeats_of_units):
            is_first = len(united) and np.isin(
                united, _ids(out.folder, reports[index], ENTITIES.name, "qid")
            )
            if len(repeats) or np.any(is_first):
                _write_again(out, reports[index], repeats, united)
        for low in range(0, len(united), UNITED_AT_ONCE):
            self._write_united(
                out, list(reports.values())[: unit.index], united[low : low + UNITED_AT_ONCE]
            )
        if len(united):
            out.count("items_united", len(united))
            logger.info(
                "kb: %d items occur several times and were united: later occurrences gave %d names "
                "and %d triples",
                len(united),
                out.counters["aliases_from_repeats"],
                out.counters["triples_from_repeats"],
            )
        save_items(files.join(out.folder, SPILL, SUPERSEDED), 0, earlier.superseded)

    def _write_united(self, out: UnitWriter, reports: Sequence[UnitReport], items: U32) -> None:
        """Write the rows of some items from all their occurrences."""
        rows: dict[str, list[pa.Table]] = {name: [] for name in OWNERS}
        occurrence = 0
        for report in reports:
            # The rows of the unit are one occurrence of each of its items; then come its records.
            stored = {name: _rows_of(out.folder, report, BY_NAME[name], items) for name in OWNERS}
            for tables in (stored, *_repeated_rows(out.folder, report, self.rules, items)):
                for name, table in tables.items():
                    number = pa.array(np.full(table.num_rows, occurrence), pa.int64())
                    rows[name].append(table.append_column(OCCURRENCE, number))
                occurrence += 1

        num_first = _rows_of_first(rows)
        for table, united in united_rows(rows):
            out.write(table, united)
            if table in (ALIASES, TRIPLES):
                out.count(f"{table.name}_from_repeats", united.num_rows - num_first[table.name])


@dataclass(kw_only=True, slots=True)
class _EarlierIds:
    """Hold the ids of the units before."""

    rules: KbRules
    # Items that have rows.
    stored: ItemSet = field(default_factory=ItemSet)
    # Items that were parsed and left out.
    left_out: ItemSet = field(default_factory=ItemSet)
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
        was_parsed = self._was_parsed(unchanged)
        was_unchanged = self.unchanged.contains(unchanged)
        self.superseded += unchanged[was_parsed & ~was_unchanged].tolist()

        again = items[self._was_parsed(items) | self.unchanged.contains(items)]
        was_stored = self.stored.contains(items)
        repeated_excluded = self._was_parsed(excluded) | self.unchanged.contains(excluded)
        self.left_out.add(excluded)
        self.stored.add(np.setdiff1d(items, again))
        self.unchanged.add(unchanged[~(was_parsed | was_unchanged)])

        # Records that the unit has once more: of items whose first occurrence has rows.
        records = _ids_of_repeated(folder, report, self.rules)
        repeats = Repeats(
            items=again,
            properties=properties[self.properties.contains(properties)],
            unchanged=unchanged[was_parsed | was_unchanged],
            excluded=excluded[repeated_excluded],
            united=np.concatenate([items[was_stored], records[self.stored.contains(records)]]),
        )
        self.properties.add(properties)
        return repeats

    def _was_parsed(self, items: U32) -> Bools:
        return self.stored.contains(items) | self.left_out.contains(items)


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


def leave_repeated(unit: Unit[ByteRange], out: UnitWriter, records: Sequence[bytes]) -> None:
    """Leave the records of items that a unit had once more to the phase `repeats`."""
    if records:
        content = b"".join(record + b"\n" for record in records)
        files.write_bytes(_repeated_path(out.folder, unit.index), content)


def _repeated_path(folder: str, index: int) -> str:
    return files.join(folder, SPILL, REPEATED, f"{index:05d}.jsonl")


def _repeated_rows(
    folder: str, report: UnitReport, rules: KbRules, items: U32 | None = None
) -> Iterator[dict[str, pa.Table]]:
    """Yield the rows of each record that a unit had once more, by table.

    Args:
        folder: of the stage's data.
        report: of the unit.
        rules: what is kept of an entity.
        items: only records of these; None: of all.
    """
    path = _repeated_path(folder, report.index)
    if not files.exists(path):
        return
    for record in files.read_bytes(path).splitlines():
        # A builder of its own, since it keeps each item once.
        builder = KbBuilder(rules)
        builder.add_line(record)
        tables = {table.name: rows for table, rows in builder.take()}
        entities = tables.get(ENTITIES.name)
        # A record that is left out, such as a scholarly article, has no rows.
        if entities is not None and (items is None or entities.column("qid")[0].as_py() in items):
            yield tables


def _ids_of_repeated(folder: str, report: UnitReport, rules: KbRules) -> U32:
    """Return the items of the records that a unit had once more, and that have rows."""
    ids = [
        rows[ENTITIES.name].column("qid")[0].as_py()
        for rows in _repeated_rows(folder, report, rules)
    ]
    return np.array(ids, np.uint32)


def _rows_of(folder: str, report: UnitReport, table: Table, items: U32) -> pa.Table:
    """Return the rows of some items in a unit's part file."""
    tables = [table.empty()]
    if table.name in report.parts:
        path = files.join(folder, *report.parts[table.name].path.split("/"))
        for rows in read_rows(path, table):
            is_owned = np.isin(rows.column(OWNERS[table.name]).to_numpy(), items)
            tables.append(rows.filter(pa.array(is_owned)))
    return pa.concat_tables(tables)


def _rows_of_first(rows: dict[str, list[pa.Table]]) -> Counter[str]:
    """Count, by table, the rows that belong to the first occurrence of their item."""
    entities = pa.concat_tables(rows[ENTITIES.name])
    # The rows are in the order of the occurrences, and unique returns the first of each item.
    items, first = np.unique(entities.column("qid").to_numpy(), return_index=True)
    occurrences = entities.column(OCCURRENCE).to_numpy()[first]

    counts: Counter[str] = Counter()
    for name, tables in rows.items():
        for table in tables:
            owners = np.searchsorted(items, table.column(OWNERS[name]).to_numpy())
            is_first = table.column(OCCURRENCE).to_numpy() == occurrences[owners]
            counts[name] += int(np.count_nonzero(is_first))
    return counts


def _ids(folder: str, report: UnitReport, table_name: str, column: str) -> U32:
    """Return the ids in a unit's part file; none if it has no such file."""
    part_file = report.parts.get(table_name)
    if part_file is None:
        return NO_IDS

    table = ENTITIES if table_name == ENTITIES.name else PROPERTIES
    batches = read_batches(files.join(folder, *part_file.path.split("/")), table, [column])
    return np.concatenate([batch.column(0).to_numpy() for batch in batches] or [NO_IDS])


def _write_again(out: UnitWriter, report: UnitReport, repeats: Repeats, united: U32) -> None:
    """Write the rows of a unit without those of repeats, and count the repeats as skipped.

    The rows of united items are left out as well: they are written once, by themselves.
    """
    dropped = np.union1d(repeats.items, united)
    for name, part_file in report.parts.items():
        path = files.join(out.folder, *part_file.path.split("/"))
        for table, rows in _remaining_rows(name, path, dropped, repeats.properties):
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


def _remaining_rows(
    name: str, path: str, items: U32, properties: U32
) -> Iterator[tuple[Table, pa.Table]]:
    """Yield the rows of a part file that do not belong to some items and properties."""
    table = BY_NAME[name]
    for rows in read_rows(path, table):
        if name in OWNERS:
            is_repeat = np.isin(rows.column(OWNERS[name]).to_numpy(), items)
        elif table is PROPERTIES:
            is_repeat = np.isin(rows.column("pid").to_numpy(), properties)
        else:
            # Redirects and rejects belong to no entity.
            is_repeat = np.zeros(rows.num_rows, np.bool_)
        yield table, rows.filter(pa.array(~is_repeat))
