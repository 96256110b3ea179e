"""Work units: a byte or row range of an input, read in batches, written to its own part files, then reported.

1. `UnitWriter` collects rows per table and writes them to `_tmp/`, hashing as it writes.
2. `finish` renames each file to `TABLE/part-00042-of-00200.parquet` and writes `_units/00042.json`.
3. The report of a unit whose JSON is there is taken from it: a killed run goes on where it stopped.
Only reports leave a unit, so memory stays flat.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.progress import ProgressAddress, ProgressSender
from schemas.manifest import PartFile
from schemas.rejects import REJECTS
from schemas.table import Table

ROW_GROUP_ROWS = {"examples": 8192}
DEFAULT_ROW_GROUP_ROWS = 65_536
PAYLOAD_CHARACTERS = 500
FLUSH_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """A range of one input: bytes, or rows of a Parquet part."""

    index: int
    of: int
    path: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """Length of the range."""
        return self.end - self.start


def sized_unit(path: str, size: int = 1) -> Unit:
    """A unit of a later phase: what it is for, and its share of the progress bar. Not numbered yet."""
    return Unit(index=0, of=0, path=path, start=0, end=size)


def numbered_phases(groups: Sequence[Iterable[Unit]]) -> list[list[Unit]]:
    """One numbering through all phases of a stage; every phase counts its own."""
    found: list[list[Unit]] = []
    index = 0
    for group in groups:
        units = list(group)
        found.append(
            [replace(unit, index=index + place, of=len(units)) for place, unit in enumerate(units)]
        )
        index += len(units)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitReport:
    """What a unit wrote."""

    index: int
    parts: dict[str, PartFile]
    counters: dict[str, int] = field(default_factory=dict)
    replaces: tuple[
        int, ...
    ] = ()  # units whose parts and counters no longer count: this one wrote them anew

    def to_json(self) -> str:
        """JSON text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> UnitReport:
        """Back from JSON text."""
        raw = json.loads(text)
        parts = {name: PartFile(**part) for name, part in raw.pop("parts").items()}
        return cls(parts=parts, replaces=tuple(raw.pop("replaces", ())), **raw)


class UnitWorker(Protocol):
    """What a map-only stage does with one unit. A picklable dataclass; `setup` runs once per process."""

    def setup(self) -> None:
        """Open models and indexes."""

    def process(self, unit: Unit, out: UnitWriter) -> None:
        """Read the unit's range and write its rows."""


class UnitWriter:
    """Collects the rows of one unit and writes them as part files."""

    def __init__(
        self, folder: str, stage: str, unit: Unit, address: ProgressAddress | None = None
    ) -> None:
        self.folder = folder
        self._stage = stage
        self._unit = unit
        self._sender = ProgressSender(address)
        self._pending: dict[str, list[pa.Table]] = {}
        self._pending_bytes: Counter[str] = Counter()
        self._sinks: dict[str, tuple[files.HashingSink, pq.ParquetWriter]] = {}
        self._rows: Counter[str] = Counter()
        self._rejects: list[tuple[str, str, str, str]] = []
        self._replaces: list[int] = []
        self.counters: Counter[str] = Counter()
        self._told: Counter[str] = Counter()

    def write(self, table: Table, rows: pa.Table) -> None:
        """Add rows of a table; checks their schema."""
        if not rows.schema.equals(table.schema):
            rows = table.from_columns({name: rows.column(name) for name in rows.column_names})
        name = table.name
        self._pending.setdefault(name, []).append(rows)
        self._pending_bytes[name] += rows.nbytes
        self._rows[name] += rows.num_rows
        wanted = ROW_GROUP_ROWS.get(name, DEFAULT_ROW_GROUP_ROWS)
        if (
            self._pending_bytes[name] > FLUSH_BYTES
            or sum(part.num_rows for part in self._pending[name]) >= wanted
        ):
            self._flush(name)

    def reject(self, key: str, reason: str, payload: str) -> None:
        """Keep a rejected input as a row of `rejects`."""
        self._rejects.append((self._stage, key, reason, payload[:PAYLOAD_CHARACTERS]))
        self.counters["rejects"] += 1

    def count(self, name: str, n: int = 1) -> None:
        """Add to a counter of the manifest."""
        self.counters[name] += n

    def replace(self, index: int) -> None:
        """Say that this unit has written the rows of another one anew, and counted them."""
        self._replaces.append(index)

    def advance(self, amount: int) -> None:
        """Tell that so much more of the unit's range is done, and what was counted since the last time."""
        self._sender.send(done=amount, **self._news())

    def _news(self) -> dict[str, int]:
        now = Counter({"records": self.counters["rows_in"], "rejects": self.counters["rejects"]})
        news = {name: count - self._told[name] for name, count in now.items()}
        self._told = now
        return news

    def _flush(self, name: str) -> None:
        rows = pa.concat_tables(self._pending.pop(name))
        self._pending_bytes[name] = 0
        if name not in self._sinks:
            sink = files.HashingSink(files.join(self.folder, "_tmp", f"{uuid.uuid4().hex}.parquet"))
            writer = pq.ParquetWriter(
                pa.PythonFile(sink, mode="w"), rows.schema, compression="zstd"
            )
            self._sinks[name] = (sink, writer)
        self._sinks[name][1].write_table(
            rows, row_group_size=ROW_GROUP_ROWS.get(name, DEFAULT_ROW_GROUP_ROWS)
        )

    def finish(self) -> UnitReport:
        """Close the files, give them their names, and write the unit's report."""
        if self._rejects:
            self.write(REJECTS, REJECTS.from_rows([tuple(row) for row in self._rejects]))
        for name in list(self._pending):
            self._flush(name)
        parts = {}
        for name, (sink, writer) in self._sinks.items():
            writer.close()
            sink.close()
            relative = f"{name}/part-{self._unit.index:05d}-of-{self._unit.of:05d}.parquet"
            files.rename(sink.path, files.join(self.folder, *relative.split("/")))
            parts[name] = PartFile(
                path=relative, rows=self._rows[name], num_bytes=sink.num_bytes, sha256=sink.sha256()
            )
        report = UnitReport(
            index=self._unit.index,
            parts=parts,
            counters=dict(self.counters),
            replaces=tuple(self._replaces),
        )
        files.write_bytes(unit_path(self.folder, self._unit.index), report.to_json().encode())
        self._sender.send(units=1, **self._news())
        return report

    def abandon(self) -> None:
        """Close and remove the temporary files after a failure."""
        self._sender.close()
        for sink, writer in self._sinks.values():
            with contextlib.suppress(
                OSError, StageError, pa.ArrowException
            ):  # the first failure is the one to report
                writer.close()
            sink.abandon()


def unit_path(folder: str, index: int) -> str:
    """Where a unit's report lies."""
    return files.join(folder, "_units", f"{index:05d}.json")


def finished_units(folder: str) -> dict[int, UnitReport]:
    """Reports of the units that are done."""
    if not files.exists(files.join(folder, "_units")):
        return {}
    found = files.list_files(files.join(folder, "_units", "*.json"))
    reports = [UnitReport.from_json(files.read_bytes(metadata.path).decode()) for metadata in found]
    return {report.index: report for report in reports}
