"""Write what a unit of work makes: its rows to its own part files, and then its report.

A unit is a range of an input, 10 to 60 seconds of work, that is read in batches, and is written
whole or not at all:

1. `UnitWriter` collects rows per table and writes them to `_tmp/`, hashing as it writes.
2. `finish` renames each file to `TABLE/part-00042-of-00200.parquet` and writes the report,
   `_units/00042.json`.
3. The report of a unit whose JSON is there is read from it, so a killed run goes on where it
   stopped.

Only reports leave a unit, so memory stays flat. `pipeline.engine.tasks` says which units there are.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.progress import ProgressAddress, ProgressSender
from pipeline.engine.stage_folders import SCRATCH
from pipeline.engine.tasks import Task, Unit
from schemas.checksums import sealed, unsealed
from schemas.manifest import PartFile
from schemas.outputs import UNITS
from schemas.rejects import REJECTS
from schemas.table import Table

# The trainer reads `examples` in random order, so its row groups are small.
ROW_GROUP_ROWS = {"examples": 8192}
DEFAULT_ROW_GROUP_ROWS = 65_536
# Of a rejected input, how much is kept to look at.
PAYLOAD_CHARACTERS = 500
FLUSH_BYTES = 64 << 20
logger = logging.getLogger("trelm")
T = TypeVar("T", bound=Task)
T_contra = TypeVar("T_contra", bound=Task, contravariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitReport:
    """Say what a unit wrote."""

    index: int
    # A part file for each table. All paths count from the folder of the stage's data.
    parts: dict[str, PartFile]
    # Every other file that the unit wrote: pieces of an index, and rows for the next phase.
    others: tuple[PartFile, ...] = ()
    counters: dict[str, int] = field(default_factory=dict)
    # Units whose parts and counters no longer count, because this unit wrote their rows again.
    replaces: tuple[int, ...] = ()
    # Wall-clock time that the unit took, what its worker opened first included.
    seconds: float = 0.0

    def to_json(self) -> str:
        """Return the report as JSON text, with a checksum."""
        return sealed(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> UnitReport:
        """Read a report from JSON text.

        Raises:
            ValueError: it is not as it was written.
        """
        values = unsealed(text)
        try:
            part_files = {name: PartFile(**entry) for name, entry in values.pop("parts").items()}
            others = tuple(PartFile(**entry) for entry in values.pop("others", ()))
            replaces = tuple(values.pop("replaces", ()))
            return cls(parts=part_files, others=others, replaces=replaces, **values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a report ({error})") from error

    @property
    def files(self) -> tuple[PartFile, ...]:
        """Return every file that the unit wrote."""
        return (*self.parts.values(), *self.others)


class UnitWorker(Protocol[T_contra]):
    """Do the units of one phase.

    A frozen, picklable dataclass; what it opens goes through `opened_once`.
    """

    def process(self, unit: Unit[T_contra], out: UnitWriter) -> None:
        """Read what the unit's task names, and write its rows."""


class UnitWriter:
    """Collect the rows of one unit and write them as part files."""

    def __init__(
        self, folder: str, stage: str, unit: Unit[Any], address: ProgressAddress | None = None
    ) -> None:
        self.folder = folder
        self._stage = stage
        self._unit = unit
        self._sender = ProgressSender(address)
        self._begun = time.perf_counter()

        # Batches of rows that wait for a full row group, by table.
        self._pending: dict[str, list[pa.Table]] = {}
        self._pending_bytes: Counter[str] = Counter()
        self._sinks: dict[str, tuple[files.HashingSink, pq.ParquetWriter]] = {}
        self._num_rows: Counter[str] = Counter()
        self._rejects: list[tuple[str, str, str, str]] = []
        self._replaces: list[int] = []
        self.counters: Counter[str] = Counter()
        # Counts that the progress bar knows already.
        self._sent: Counter[str] = Counter()

    def write(self, table: Table, rows: pa.Table) -> None:
        """Add rows of a table; their schema is checked."""
        if not rows.schema.equals(table.schema):
            rows = table.from_columns({name: rows.column(name) for name in rows.column_names})
        name = table.name
        pending = self._pending.setdefault(name, [])
        pending.append(rows)
        self._pending_bytes[name] += rows.nbytes
        self._num_rows[name] += rows.num_rows

        # A row group is written when it is full, or earlier when its rows are long.
        is_full = sum(batch.num_rows for batch in pending) >= _row_group_rows(name)
        if is_full or self._pending_bytes[name] > FLUSH_BYTES:
            self._flush(name)

    def reject(self, key: str, reason: str, payload: str) -> None:
        """Keep a rejected input as a row of `rejects`."""
        self._rejects.append((self._stage, key, reason, payload[:PAYLOAD_CHARACTERS]))
        self.counters["rejects"] += 1

    def count(self, name: str, n: int = 1) -> None:
        """Add to a counter of the manifest."""
        self.counters[name] += n

    def replace(self, index: int) -> None:
        """Say that this unit has written the rows of another one again, and counted them."""
        self._replaces.append(index)

    def advance(self, amount: int) -> None:
        """Report that `amount` more of the unit's range is done, with what was counted since the
        last call.
        """
        self._sender.send(done=amount, **self._unsent_counts())

    def _unsent_counts(self) -> dict[str, int]:
        # Rows that are written again were reported by the units that wrote them first.
        if self._replaces:
            return {}
        counts = Counter({"records": self.counters["rows_in"], "rejects": self.counters["rejects"]})
        unsent = {name: count - self._sent[name] for name, count in counts.items()}
        self._sent = counts
        return unsent

    def _flush(self, name: str) -> None:
        rows = pa.concat_tables(self._pending.pop(name))
        self._pending_bytes[name] = 0
        if name not in self._sinks:
            sink = files.HashingSink(self._scratch_of(name))
            # With a checksum per page, readers notice a changed byte.
            writer = pq.ParquetWriter(
                pa.PythonFile(sink, mode="w"),
                rows.schema,
                compression="zstd",
                write_page_checksum=True,
            )
            self._sinks[name] = (sink, writer)
        _, writer = self._sinks[name]
        writer.write_table(rows, row_group_size=_row_group_rows(name))

    def _part_of(self, name: str) -> str:
        """Return where a table's rows go, counted from the folder."""
        return f"{name}/part-{self._unit.index:05d}-of-{self._unit.of:05d}.parquet"

    def _scratch_of(self, name: str) -> str:
        """Return where a table's rows are written first."""
        if files.is_local(self.folder):
            return files.join(self.folder, SCRATCH, f"{uuid.uuid4().hex}.parquet")
        # An object appears whole; another name would only cost a copy and a removal.
        return files.join(self.folder, *self._part_of(name).split("/"))

    def finish(self, others: Iterable[PartFile] = ()) -> UnitReport:
        """Close the files, give them their names, and write the unit's report.

        Args:
            others: the files that the unit wrote beside those of tables, with their full paths.
        """
        if self._rejects:
            self.write(REJECTS, REJECTS.from_rows([tuple(row) for row in self._rejects]))
        for name in list(self._pending):
            self._flush(name)

        part_files = {}
        for name, (sink, writer) in self._sinks.items():
            writer.close()
            sink.close()
            path = self._part_of(name)
            files.rename(sink.path, files.join(self.folder, *path.split("/")))
            part_files[name] = PartFile(
                path=path,
                rows=self._num_rows[name],
                num_bytes=sink.num_bytes,
                sha256=sink.sha256(),
            )

        # The report comes last: without it the unit counts as not done, whatever files there are.
        report = UnitReport(
            index=self._unit.index,
            parts=part_files,
            others=below(self.folder, others),
            counters=dict(self.counters),
            replaces=tuple(self._replaces),
            seconds=round(time.perf_counter() - self._begun, 3),
        )
        files.write_bytes(unit_path(self.folder, self._unit.index), report.to_json().encode())
        self._sender.send(units=1, **self._unsent_counts())
        return report

    def abandon(self) -> None:
        """Close and remove the temporary files after a failure."""
        self._sender.close()
        for sink, writer in self._sinks.values():
            # The first failure is the one to report, not what closing adds to it.
            with contextlib.suppress(OSError, StageError, pa.ArrowException):
                writer.close()
            sink.abandon()


def _row_group_rows(table: str) -> int:
    return ROW_GROUP_ROWS.get(table, DEFAULT_ROW_GROUP_ROWS)


def unit_path(folder: str, index: int) -> str:
    """Return where a unit's report lies."""
    return files.join(folder, UNITS, f"{index:05d}.json")


def relative_to(folder: str, path: str) -> str:
    """Return a path below a folder, counted from it."""
    return path.removeprefix(folder.rstrip("/") + "/")


def below(folder: str, entries: Iterable[PartFile]) -> tuple[PartFile, ...]:
    """Return the files below a folder, their paths counted from it; scratch files are elsewhere."""
    return tuple(
        replace(entry, path=relative_to(folder, entry.path))
        for entry in entries
        if entry.path.startswith(folder.rstrip("/") + "/")
    )


def finished_units(folder: str) -> dict[int, UnitReport]:
    """Read the reports of the units that are done, by their numbers.

    A report that is not as it was written counts as none.
    """
    if not files.exists(files.join(folder, UNITS)):
        return {}

    reports = {}
    for entry in files.list_files(files.join(folder, UNITS, "*.json")):
        try:
            report = UnitReport.from_json(files.read_bytes(entry.path).decode())
        except ValueError as error:
            logger.warning("%s: %s; its unit is done again", entry.path, error)
            continue
        reports[report.index] = report
    return reports


def write_unit(
    folder: str,
    stage: str,
    unit: Unit[T],
    process: Callable[[Unit[T], UnitWriter], None],
    address: ProgressAddress | None = None,
) -> UnitReport:
    """Write the rows of one unit, or nothing at all, and return its report."""
    writer = UnitWriter(folder, stage, unit, address)

    try:
        with files.recording() as others:
            process(unit, writer)
        return writer.finish(others)
    except BaseException:
        # Also on Ctrl-C: no temporary file stays behind.
        writer.abandon()
        raise
