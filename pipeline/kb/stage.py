"""Stage `kb`: Wikidata JSON dumps to entities, aliases, properties, triples and statements; SQL dumps to redirects.

Units are byte ranges of the JSON dumps, and one per pair of SQL dumps. A repeated id is kept once per unit; repeats
across units (a dump has hardly any) stay, and the manifest says how many items do so. Claims to merged items stay as the
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
from pipeline.engine.opened import OpenedOnce
from pipeline.engine.stage import Phase, PreparedStage, StagePlan
from pipeline.engine.tables import RunPaths
from pipeline.engine.tasks import Bucket, ByteRange, Unit
from pipeline.engine.units import UnitReport, UnitWriter
from pipeline.kb.entity_rows import NOT_JSON, KbBuilder, KbRules, Outcome
from pipeline.kb.repeats import EXCLUDED, UNCHANGED, RepeatsWorker, leave_ids
from pipeline.kb.revisions import Revisions
from pipeline.kb.sql_redirects import (
    PAGE_COLUMNS,
    REDIRECT_COLUMNS,
    RedirectJoin,
    SqlRows,
    database_and_table,
)
from pipeline.kb.update import UpdatePlan, check_copied, open_revisions, plan_update
from pipeline.sources.chunks import SourceError, Span, source_error
from pipeline.sources.lines import read_lines
from pipeline.sources.ranges import peek, plan_ranges
from pipeline.sources.work import RangeProgress, loss_handler, span_of
from schemas import ALIASES, ENTITIES, PROPERTIES, REDIRECTS, STATEMENTS, TRIPLES
from schemas.errors import ConfigError
from schemas.settings import to_dict

BATCH_BYTES = (
    16 << 20
)  # JSON whose rows are collected before they become columns: about 40 MB of Python values
SQL_BATCH_ROWS = 50_000
# A unit decodes one block or member past its end, so small ones waste time.
NUM_UNITS, SMALLEST_UNIT, LARGEST_UNIT = 64, 8 << 20, 128 << 20


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """No garbage collection: rows hold no cycles, and looking for some costs 13 % of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True, kw_only=True)
class KbWorker:
    """Reads one range of a JSON dump, or one pair of SQL dumps."""

    config: KbConfig
    page_dumps: dict[str, str]  # redirect dump -> page dump of the same database
    _revisions: OpenedOnce[Revisions] = field(default_factory=OpenedOnce, compare=False, repr=False)

    def process(self, unit: Unit[ByteRange], out: UnitWriter) -> None:
        """Rows of the unit."""
        if unit.task.path in self.page_dumps:
            self._redirects(unit, out)
        else:
            with collector_off():
                self._entities(unit, out)

    def _entities(self, unit: Unit[ByteRange], out: UnitWriter) -> None:
        config = self.config
        rules = KbRules(
            languages=config.languages,
            statements=config.statements,
            exclude_scholarly=config.exclude_scholarly,
        )
        is_unchanged = None
        if config.update:
            revisions = self._revisions.get(lambda: open_revisions(out.folder))
            is_unchanged = revisions.is_unchanged
        builder, progress, num_bytes = (
            KbBuilder(rules, is_unchanged),
            RangeProgress(unit.task, out),
            0,
        )
        on_loss = loss_handler(out, skip_corrupt=config.skip_corrupt)
        for position, line in read_lines(span_of(unit.task), on_loss, progress.at_byte):
            for outcome in builder.add_line(line):
                self._account(unit.task, out, position, line, outcome)
            num_bytes += len(line)
            if num_bytes >= BATCH_BYTES:
                _flush(builder, out)
                num_bytes = 0
        _flush(builder, out)
        leave_ids(unit, out, UNCHANGED, builder.unchanged)
        leave_ids(unit, out, EXCLUDED, builder.excluded)
        for name, count in builder.counts.items():
            out.count(name, count)
        progress.finish()

    def _account(
        self, task: ByteRange, out: UnitWriter, position: str, line: bytes, outcome: Outcome
    ) -> None:
        out.count("rows_in")
        if outcome.counter != "rejects":
            out.count(outcome.counter)
            return
        if outcome.reason == NOT_JSON and not line.endswith(b"\n") and not self.config.skip_corrupt:
            offset = int(position.partition("+")[0])
            advice = (
                "it is cut off: download it again, or set skip_corrupt to lose only this entity"
            )
            raise source_error(task.path, offset, "the file ends inside an entity", advice)
        out.reject(
            f"{task.path}:{position}",
            outcome.reason,
            outcome.record[:2000].decode("utf-8", "replace"),
        )

    def _redirects(self, unit: Unit[ByteRange], out: UnitWriter) -> None:
        join, progress = RedirectJoin(), RangeProgress(unit.task, out)
        for row in _sql_rows(unit.task.path, "redirect", REDIRECT_COLUMNS):
            what = join.add_redirect(row)
            out.count("rows_in")
            if what != "rows_out":
                out.count(what)
        pages = _sql_rows(self.page_dumps[unit.task.path], "page", PAGE_COLUMNS)
        while batch := list(islice(pages, SQL_BATCH_ROWS)):
            pairs = join.pairs(batch)
            out.write(REDIRECTS, REDIRECTS.from_rows(list(pairs)))
        out.count("rows_out", join.matched)
        out.count("skipped_redirect_without_page", len(join) - join.matched)
        progress.finish()


def _flush(builder: KbBuilder, out: UnitWriter) -> None:
    for table, rows in builder.take():
        out.write(table, rows)


def _sql_rows(path: str, table: str, columns: Sequence[str]) -> Iterator[list[bytes]]:
    rows = SqlRows(table, columns)
    for position, line in read_lines(Span(path=path, start=0, end=files.size_of(path))):
        try:
            yield from rows.feed(line)
        except ValueError as error:
            advice = "give the SQL dumps of the tables redirect and page, whole"
            raise source_error(path, int(position.partition("+")[0]), str(error), advice) from error


def plan(config: KbConfig, paths: RunPaths) -> StagePlan:
    """Units of the dumps.

    Raises:
        ConfigError, StageError: no dump, not a Wikidata dump, an SQL dump without its partner.
    """
    refuse_addresses(config.dumps)
    dumps = files.expand(config.dumps)
    if not dumps:
        raise ConfigError(
            "kb.dumps is empty: give a Wikidata JSON dump, for example --dump latest-all.json.gz"
        )
    tasks, unit_bytes = [], unit_size(config, dumps)
    for path in dumps:
        check_dump(path)
        spans = plan_ranges(path, unit_bytes)
        tasks += [ByteRange(path=path, start=span.start, end=span.end) for span in spans]
    page_dumps = pair_sql_dumps(files.expand(config.redirects))
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
    repeats = Phase(name="repeats", tasks=[Bucket(kind="repeats", size=0)], worker=RepeatsWorker())
    none = UpdatePlan(before=(), then=(), inputs={})
    update = plan_update(config, paths) if config.update else none
    parse = Phase(name="kb", tasks=tasks, worker=KbWorker(config=config, page_dumps=page_dumps))
    return StagePlan(
        name="kb",
        tables=tables,
        phases=(*update.before, parse, repeats, *update.then),
        inputs={path: files.stamp(path) for path in inputs} | update.inputs,
        config=to_dict(config),
        finish=functools.partial(finish, tuple(dumps)),
        measure="bytes",
        noun="entities",
    )


def unit_size(config: KbConfig, dumps: Sequence[str]) -> int:
    """Stored bytes of a unit: enough units for all workers to end together, few enough for a dump of 150 GB."""
    if config.unit_mb:
        return max(int(config.unit_mb * 2**20), 1)
    return min(max(sum(map(files.size_of, dumps)) // NUM_UNITS, SMALLEST_UNIT), LARGEST_UNIT)


def refuse_addresses(paths: Sequence[str]) -> None:
    """Dumps are files.

    Raises:
        ConfigError: an address of a web server.
    """
    for path in paths:
        if path.startswith(("http://", "https://")):
            raise ConfigError(
                f"{path}: dumps are not read over HTTP; download one with a date in its name (latest changes, and is "
                "missing for days while a dump is made), check its checksum, and give the file"
            )


def check_dump(path: str) -> None:
    """Refuse what is not a Wikidata JSON dump, by its first bytes.

    Raises:
        SourceError: says what it is instead.
    """
    losses: list[SourceError] = []
    head = peek(path, losses=losses).lstrip(b"\xef\xbb\xbf \t\r\n")
    if (
        head[:1] in (b"[", b"{") or losses
    ):  # what begins in the middle tells nothing: the units will say what is damaged
        return
    advice = "give a Wikidata JSON dump (.json, .json.gz, .json.bz2, .json.zst)"
    if head[:1] == b"<":
        raise source_error(
            path, 0, "this is HTML or XML, not a Wikidata JSON dump (a failed download?)", advice
        )
    if head[:2] in (b"--", b"/*"):
        raise source_error(
            path, 0, "this is an SQL dump, not a Wikidata JSON dump", f"{advice}; SQL: kb.redirects"
        )
    raise source_error(
        path, 0, "this is not a Wikidata JSON dump: it starts with neither [ nor {", advice
    )


def pair_sql_dumps(paths: Sequence[str]) -> dict[str, str]:
    """For each redirect dump the page dump of the same database (named in the dump, or by the file's first word).

    Raises:
        SourceError: neither of the two tables, or one without the other.
    """
    found: dict[tuple[str, str], str] = {}
    for path in paths:
        database, table = database_and_table(peek(path, 1 << 16))
        if table not in ("redirect", "page"):
            problem = (
                f"this is a dump of table {table!r}"
                if table
                else "this is no SQL dump with a CREATE TABLE"
            )
            raise source_error(
                path, 0, problem, "give the SQL dumps of the tables redirect and page"
            )
        found[database or posixpath.basename(path).partition("-")[0], table] = path
    for (database, table), path in found.items():
        other = "page" if table == "redirect" else "redirect"
        if (database, other) not in found:
            problem = f"table {table!r} of {database!r} without its table {other!r}"
            raise source_error(
                path,
                0,
                problem,
                f"give both dumps: ids become names only through both ({other} too)",
            )
    return {
        path: found[database, "page"]
        for (database, table), path in found.items()
        if table == "redirect"
    }


def finish(
    dumps: tuple[str, ...], prepared: PreparedStage, reports: Sequence[UnitReport]
) -> dict[str, str]:
    """Refuse a dump without items.

    Raises:
        StageError: no item at all.
    """
    if "update" in prepared.plan.inputs:
        check_copied(prepared.data, reports)
    parts = [report.parts[ENTITIES.name] for report in reports if ENTITIES.name in report.parts]
    if not parts:
        raise StageError(f"{', '.join(dumps)}: no Wikidata item in it; give a dump of items")
    return {}
