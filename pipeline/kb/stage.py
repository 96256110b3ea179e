"""Turn dumps into tables: stage `kb`.

Wikidata JSON dumps become entities, aliases, properties, triples and statements; SQL dumps become
redirects.

Units are byte ranges of the JSON dumps, and one per pair of SQL dumps. A repeated id has rows once
per unit; the phase `repeats` then unites the occurrences of all units. Claims to merged items stay as the
dump has them: `redirects` says where they lead.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from pipeline.config import KbConfig
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.opened_once import OpenedOnce
from pipeline.engine.stage import Phase, PreparedStage, StagePlan
from pipeline.engine.tables import RunPaths
from pipeline.engine.tasks import Bucket, ByteRange, Unit
from pipeline.engine.units import UnitReport, UnitWriter
from pipeline.kb.entity_rows import NOT_JSON, KbBuilder, KbRules, RecordOutcome
from pipeline.kb.fast import SMALLEST_DUMPS, open_scanner
from pipeline.kb.indented import is_indented, read_indented
from pipeline.kb.repeats import EXCLUDED, UNCHANGED, RepeatsWorker, leave_ids, leave_repeated
from pipeline.kb.revisions import Revisions
from pipeline.kb.sql_redirects import (
    PAGE_COLUMNS,
    REDIRECT_COLUMNS,
    RedirectJoin,
    SqlRows,
    database_and_table,
)
from pipeline.kb.update import UpdatePlan, check_copied, open_revisions, plan_update
from pipeline.sources.chunks import SourceError, source_error
from pipeline.sources.lines import read_lines
from pipeline.sources.range_progress import RangeProgress, long_handler, loss_handler
from pipeline.sources.ranges import peek, plan_ranges
from schemas import ALIASES, ENTITIES, PROPERTIES, REDIRECTS, STATEMENTS, TRIPLES
from schemas.errors import ConfigError
from schemas.listing import a_few
from schemas.settings import to_dict

# JSON whose rows are collected before they become columns: about 40 MB of Python values.
BATCH_BYTES = 16 << 20
SQL_BATCH_ROWS = 50_000
# A unit decodes one block or member past its end, so small ones waste time.
NUM_UNITS, SMALLEST_UNIT, LARGEST_UNIT = 64, 8 << 20, 128 << 20


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Switch garbage collection off for a while.

    Rows hold no cycles, and the search for cycles costs 13 % of the time.
    """
    # Restored afterwards: other code of the process may have switched it off, too.
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def kb_rules(config: KbConfig) -> KbRules:
    """Return what the settings say is kept of an entity."""
    return KbRules(
        wiki=config.wiki,
        languages=config.languages,
        statements=config.statements,
        exclude_scholarly=config.exclude_scholarly,
    )


@dataclass(frozen=True, kw_only=True)
class KbWorker:
    """Read one range of a JSON dump, or one pair of SQL dumps."""

    config: KbConfig
    # The page dump of the same database, by redirect dump.
    page_dumps: dict[str, str]
    # Files that are one indented document, not a record a line.
    indented: frozenset[str] = frozenset()
    # Whether the dumps are long enough for the scanner of entities.
    is_long: bool = False
    _revisions: OpenedOnce[Revisions] = field(default_factory=OpenedOnce, compare=False, repr=False)

    def process(self, unit: Unit[ByteRange], out: UnitWriter) -> None:
        """Write the rows of the unit.

        Raises:
            SourceError: the dump is damaged, and `skip_corrupt` is not set.
        """
        if unit.task.path in self.page_dumps:
            self._redirects(unit, out)
        else:
            with collector_off():
                self._entities(unit, out)

    def _entities(self, unit: Unit[ByteRange], out: UnitWriter) -> None:
        """Write the rows of a range of a JSON dump."""
        config, rules = self.config, kb_rules(self.config)
        is_unchanged = None
        if config.update:
            revisions = self._revisions.get(lambda: open_revisions(out.folder))
            is_unchanged = revisions.is_unchanged

        scanner = open_scanner(rules) if self.is_long else None
        builder = KbBuilder(rules, is_unchanged, scanner)
        progress = RangeProgress(unit.task, out)
        on_loss = loss_handler(out, skip_corrupt=config.skip_corrupt)
        num_bytes = 0
        path = unit.task.path
        lines = (
            (("0", record) for record in read_indented(path))
            if path in self.indented
            else read_lines(unit.task, on_loss, progress.reached, long_handler(out, path))
        )
        for position, line in lines:
            for outcome in builder.add_line(line):
                self._account(unit.task, out, position, line, outcome)
            # Bytes are counted instead of rows: entities differ in size by a factor of thousands.
            num_bytes += len(line)
            if num_bytes >= BATCH_BYTES:
                _flush(builder, out)
                num_bytes = 0
        _flush(builder, out)

        # The phases `repeats` and `copy` need the ids that have no rows here.
        leave_ids(unit, out, UNCHANGED, builder.unchanged)
        leave_ids(unit, out, EXCLUDED, builder.excluded)
        leave_repeated(unit, out, builder.repeated)
        for name, count in builder.counts.items():
            out.count(name, count)
        progress.finish()

    def _account(
        self, task: ByteRange, out: UnitWriter, position: str, line: bytes, outcome: RecordOutcome
    ) -> None:
        """Count what became of a record; keep it if it was rejected.

        Raises:
            SourceError: the file ends inside the record, and `skip_corrupt` is not set.
        """
        out.count("rows_in")
        if outcome.counter != "rejects":
            out.count(outcome.counter)
            return

        # Only the last line of a file can lack a newline: then the download is not complete.
        if outcome.reason == NOT_JSON and not line.endswith(b"\n") and not self.config.skip_corrupt:
            offset = int(position.partition("+")[0])
            advice = (
                "it is cut off: download it again, or set skip_corrupt to lose only this entity"
            )
            raise source_error(task.path, offset, "the file ends inside an entity", advice)

        payload = outcome.record[:2000].decode("utf-8", "replace")
        out.reject(f"{task.path}:{position}", outcome.reason, payload)

    def _redirects(self, unit: Unit[ByteRange], out: UnitWriter) -> None:
        """Write the redirects of a pair of SQL dumps."""
        join, progress = RedirectJoin(), RangeProgress(unit.task, out)
        for row in _sql_rows(unit.task.path, "redirect", REDIRECT_COLUMNS):
            counter = join.add_redirect(row)
            out.count("rows_in")
            # Rows out are counted below, when their pages are known.
            if counter != "rows_out":
                out.count(counter)

        pages = _sql_rows(self.page_dumps[unit.task.path], "page", PAGE_COLUMNS)
        while batch := list(islice(pages, SQL_BATCH_ROWS)):
            pairs = join.pairs(batch)
            out.write(REDIRECTS, REDIRECTS.from_rows(list(pairs)))

        out.count("rows_out", join.matched)
        out.count("skipped_redirect_without_page", len(join) - join.matched)
        progress.finish()


def _flush(builder: KbBuilder, out: UnitWriter) -> None:
    """Write the rows collected so far."""
    for table, rows in builder.take():
        out.write(table, rows)


def _sql_rows(path: str, table: str, columns: Sequence[str]) -> Iterator[list[bytes]]:
    """Yield the values of some columns of an SQL dump, row by row.

    Raises:
        SourceError: not a dump of this table, or damaged.
    """
    rows = SqlRows(table, columns)
    for position, line in read_lines(ByteRange(path=path, start=0, end=files.size_of(path))):
        try:
            yield from rows.feed(line)
        except ValueError as error:
            advice = "give the SQL dumps of the tables redirect and page, whole"
            raise source_error(path, int(position.partition("+")[0]), str(error), advice) from error


def check(config: KbConfig) -> list[str]:
    """Check the inputs before any work, by their first bytes; return the paths of the dumps.

    Raises:
        ConfigError: no dump.
        StageError: not a Wikidata dump, or an SQL dump without its partner.
    """
    # Before the paths are expanded: an address would look like a missing file.
    refuse_addresses(config.dumps)
    dumps = files.expand(config.dumps)
    if not dumps:
        raise ConfigError(
            "kb.dumps is empty: give a Wikidata JSON dump, for example --dump latest-all.json.gz"
        )
    for path in dumps:
        check_dump(path)
    pair_sql_dumps(files.expand(config.redirects))
    return dumps


def plan(config: KbConfig, paths: RunPaths) -> StagePlan:
    """Plan the units of the dumps, and the phases around them.

    Raises:
        ConfigError: no dump.
        StageError: not a Wikidata dump, or an SQL dump without its partner.
    """
    dumps = check(config)
    tasks, unit_bytes = [], unit_size(config, dumps)
    indented = frozenset(filter(is_indented, dumps))
    for path in dumps:
        whole = [ByteRange(path=path, start=0, end=files.size_of(path))]
        tasks += whole if path in indented else plan_ranges(path, unit_bytes)
    page_dumps = pair_sql_dumps(files.expand(config.redirects))
    # A pair of SQL dumps is one unit: the redirects must be complete before pages are read.
    tasks += [ByteRange(path=path, start=0, end=files.size_of(path)) for path in page_dumps]

    inputs = [*dumps, *page_dumps, *page_dumps.values()]
    tables = (
        ENTITIES,
        ALIASES,
        PROPERTIES,
        TRIPLES,
        REDIRECTS,
        *((STATEMENTS,) if config.statements else ()),
    )

    # Progress counts bytes of the dumps: the other phases have none.
    repeats = Phase(
        name="repeats",
        tasks=[Bucket(kind="repeats", size=0)],
        worker=RepeatsWorker(rules=kb_rules(config)),
    )
    no_update = UpdatePlan(before=(), then=(), inputs={})
    update = plan_update(config, paths) if config.update else no_update
    is_long = sum(map(files.size_of, dumps)) >= SMALLEST_DUMPS
    worker = KbWorker(config=config, page_dumps=page_dumps, indented=indented, is_long=is_long)
    parse = Phase(name="kb", tasks=tasks, worker=worker)
    return StagePlan(
        name="kb",
        tables=tables,
        phases=(*update.before, parse, repeats, *update.then),
        inputs={path: files.stamp(path) for path in inputs} | update.inputs,
        config=to_dict(config),
        finish=functools.partial(finish, a_few(dumps)),
        measure="bytes",
        noun="entities",
    )


def unit_size(config: KbConfig, dumps: Sequence[str]) -> int:
    """Return the stored bytes of a unit.

    There are enough units for all workers to end together, and few enough for a dump of 150 GB.
    """
    if config.unit_mb:
        return max(int(config.unit_mb * 2**20), 1)
    return min(max(sum(map(files.size_of, dumps)) // NUM_UNITS, SMALLEST_UNIT), LARGEST_UNIT)


def refuse_addresses(paths: Sequence[str]) -> None:
    """Refuse addresses of web servers: dumps are files.

    Raises:
        ConfigError: an address of a web server.
    """
    for path in paths:
        if path.startswith(("http://", "https://")):
            raise ConfigError(
                f"{path}: dumps are not read over HTTP; download one with a date in its name "
                "(latest changes, and is missing for days while a dump is made), "
                "check its checksum, and give the file"
            )


def check_dump(path: str) -> None:
    """Refuse a file that is no Wikidata JSON dump, by its first bytes.

    Raises:
        SourceError: another kind of file, which the message names.
    """
    losses: list[SourceError] = []
    head = peek(path, losses=losses).lstrip(b"\xef\xbb\xbf \t\r\n")
    # After a loss the head begins in the middle and shows nothing: the units report the damage.
    if head[:1] in (b"[", b"{") or losses:
        return

    advice = "give a Wikidata JSON dump (.json, .json.gz, .json.bz2, .json.zst)"
    if head[:1] == b"<":
        problem = "this is HTML or XML, not a Wikidata JSON dump (a failed download?)"
        raise source_error(path, 0, problem, advice)
    if head[:2] in (b"--", b"/*"):
        problem = "this is an SQL dump, not a Wikidata JSON dump"
        raise source_error(path, 0, problem, f"{advice}; SQL: kb.redirects")
    problem = "this is not a Wikidata JSON dump: it starts with neither [ nor {"
    raise source_error(path, 0, problem, advice)


def pair_sql_dumps(paths: Sequence[str]) -> dict[str, str]:
    """Return the page dump of the same database for each redirect dump.

    The database is named in the dump, or else by the first word of the file's name.

    Raises:
        SourceError: neither of the two tables, or one without the other.
    """
    path_of: dict[tuple[str, str], str] = {}
    for path in paths:
        database, table = database_and_table(peek(path, 1 << 16))
        if table not in ("redirect", "page"):
            problem = "this is no SQL dump with a CREATE TABLE"
            if table:
                problem = f"this is a dump of table {table!r}"
            advice = "give the SQL dumps of the tables redirect and page"
            raise source_error(path, 0, problem, advice)
        path_of[database or posixpath.basename(path).partition("-")[0], table] = path

    # Redirects have only the id of their page: its title stands in the other table.
    for (database, table), path in path_of.items():
        partner = "page" if table == "redirect" else "redirect"
        if (database, partner) not in path_of:
            problem = f"table {table!r} of {database!r} without its table {partner!r}"
            advice = f"give both dumps: ids become names only through both ({partner} too)"
            raise source_error(path, 0, problem, advice)

    return {
        path: path_of[database, "page"]
        for (database, table), path in path_of.items()
        if table == "redirect"
    }


def finish(dumps: str, prepared: PreparedStage, reports: Sequence[UnitReport]) -> dict[str, str]:
    """Refuse a dump without items; make sure that an update lost none.

    Raises:
        StageError: no item at all, or the older run was changed during an update.
    """
    # Only an update copies rows, so only it can miss some.
    if "update" in prepared.plan.inputs:
        check_copied(prepared.data, reports)
    if not any(ENTITIES.name in report.parts for report in reports):
        raise StageError(f"{dumps}: no Wikidata item in it; give a dump of items")
    return {}
