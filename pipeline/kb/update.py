"""`kb --update`: a newer dump beside the output of an older run; only items whose revision changed are parsed.

1. Phase `revisions`: the revisions that the older run holds, as memory-mapped arrays.
2. Phase `kb`, the ordinary one, parses items with another revision, new ones, and all properties; of the others it leaves
   the QIDs in a file per unit. It must still decompress and pass over every line: the dump has no index.
3. Phase `repeats`, the ordinary one (`kb_repeats`).
4. Phase `copy`: rows of the older run whose item is among those, part by part. Items that the newer dump lacks drop out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import __version__
from pipeline.arrays.item_sets import ItemSet, load_all_items, load_items
from pipeline.config import KbConfig
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.opened import OpenedOnce
from pipeline.engine.stage import SPILL, Phase
from pipeline.engine.tables import RunPaths, check_table, read_batches, read_rows
from pipeline.engine.tasks import Bucket, Unit
from pipeline.engine.units import UnitReport, UnitWriter
from pipeline.kb.repeats import OWNERS, SUPERSEDED, UNCHANGED
from pipeline.kb.revisions import Revisions, write_revisions
from pipeline.kb.terms import label_languages
from schemas import ALIASES, ENTITIES, REDIRECTS, STATEMENTS, TRIPLES
from schemas.errors import ConfigError
from schemas.settings import to_dict
from schemas.table import Table

REVISIONS = "revisions"
COPIED = {table.name: table for table in (ENTITIES, ALIASES, TRIPLES, STATEMENTS, REDIRECTS)}
SAME = ("languages", "statements", "exclude_scholarly")  # what decides an item's rows


@dataclass(frozen=True, kw_only=True)
class RevisionsWorker:
    """One unit: revisions of the older run's items."""

    run: str
    parts: tuple[str, ...]  # of its `entities`

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:  # noqa: ARG002 - there is one
        """Write them.

        Raises:
            StageError: the older run has gone.
        """
        if not self.parts:
            raise StageError(
                f"--update {self.run}: no finished stage 'kb' there; give the older run, or none"
            )
        batches = (read_batches(path, ENTITIES, ["qid", "revision"]) for path in self.parts)
        write_revisions(files.join(out.folder, SPILL, REVISIONS), chain.from_iterable(batches))


def open_revisions(folder: str) -> Revisions:
    """The revisions in a stage's data folder."""
    return Revisions(files.join(folder, SPILL, REVISIONS))


@dataclass(frozen=True, kw_only=True)
class CopyWorker:
    """One unit per part of the older run: rows of items that have not changed."""

    # Path of each part, and the name of its table.
    parts: tuple[tuple[str, str], ...]
    _unchanged: OpenedOnce[ItemSet] = field(default_factory=OpenedOnce, compare=False, repr=False)

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:
        """Copy the rows of one part."""
        path, table_name = self.parts[unit.task.number]
        table = COPIED[table_name]
        for rows in read_rows(path, table):
            kept = self._kept(rows, table, out.folder)
            out.write(table, kept)
            if table.name == ENTITIES.name:
                out.count("items_copied", kept.num_rows)

    def _kept(self, rows: pa.Table, table: Table, folder: str) -> pa.Table:
        if table.name not in OWNERS:
            return rows
        qids = rows.column(OWNERS[table.name]).to_numpy()
        unchanged = self._unchanged.get(lambda: unchanged_items(folder))
        return rows.filter(pa.array(unchanged.contains(qids)))


def unchanged_items(folder: str) -> ItemSet:
    """The items that no unit parsed."""
    items = load_all_items(files.join(folder, SPILL, UNCHANGED))
    items.discard(load_items(files.join(folder, SPILL, SUPERSEDED), 0))
    return items


def check_copied(folder: str, reports: Sequence[UnitReport]) -> None:
    """Make sure that every unchanged item has its rows.

    Raises:
        StageError: the older run was changed meanwhile.
    """
    copied, wanted = (
        sum(report.counters.get("items_copied", 0) for report in reports),
        len(unchanged_items(folder)),
    )
    if copied < wanted:
        raise StageError(
            f"kb: {wanted} items are unchanged, but the older run has {copied} of them; run kb anew"
        )


@dataclass(frozen=True, kw_only=True)
class UpdatePlan:
    """The phases around the ordinary one, and what they read."""

    before: tuple[Phase[Bucket], ...]
    then: tuple[Phase[Bucket], ...]
    inputs: dict[str, str]


def plan_update(config: KbConfig, paths: RunPaths) -> UpdatePlan:
    """Phases for an update of another run.

    Raises:
        ConfigError, StageError: the older run cannot be updated, and why.
    """
    if _place(config.update) == _place(paths.root):
        raise ConfigError(
            "kb.update names the run itself: give another --run folder, and this one to --update"
        )
    old = RunPaths(root=config.update)
    own = paths.manifest("kb")
    if own is not None and "update" in own.inputs and old.manifest("kb") is None:
        return _update_plan(
            config.update, (), {}, own.inputs["update"]
        )  # up to date, or else an error
    manifest = old.finished("kb")
    wanted, found = _what_decides(to_dict(config)), _what_decides(manifest.config)
    different = [name for name in SAME if wanted[name] != found[name]]
    if different or manifest.code_version != __version__:
        what = (
            ", ".join(f"kb.{name}" for name in different)
            or f"version {manifest.code_version} of this program"
        )
        raise ConfigError(
            f"--update {config.update}: that run was made with another {what}; run kb without --update"
        )
    if not manifest.counters.get("items_with_revision"):
        raise StageError(
            f"--update {config.update}: the dump of that run does not name revisions (lastrevid), so what has changed "
            "cannot be told; run kb without --update"
        )
    tables = [table for table in COPIED.values() if table.name in OWNERS or not config.redirects]
    parts = {path: table.name for table in tables for path in old.files("kb", table)}
    for path, name in parts.items():
        check_table(path, COPIED[name])
    return _update_plan(
        config.update, tuple(old.files("kb", ENTITIES)), parts, manifest.fingerprint
    )


def _place(run: str) -> str:
    """Where a run lies, however it is spelt."""
    return run.rstrip("/") if files.REMOTE_MARK in run else str(Path(run).resolve())


def _what_decides(config: dict[str, Any]) -> dict[str, Any]:
    languages = label_languages(tuple(config.get("languages", ())))
    return {name: config.get(name) for name in SAME} | {"languages": languages}


def _update_plan(
    run: str, entities: tuple[str, ...], parts: dict[str, str], fingerprint: str
) -> UpdatePlan:
    # Progress counts bytes of the newer dump: parts have none.
    copies = [Bucket(kind="copy", number=number, size=0) for number in range(len(parts))]
    revisions = Phase(
        name=REVISIONS,
        tasks=[Bucket(kind=REVISIONS, size=0)],
        worker=RevisionsWorker(run=run, parts=entities),
    )
    copy = Phase(name="copy", tasks=copies, worker=CopyWorker(parts=tuple(parts.items())))
    return UpdatePlan(before=(revisions,), then=(copy,), inputs={"update": fingerprint})
