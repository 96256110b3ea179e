"""Update a knowledge base (`kb --update`): parse only the items whose revision changed.

A newer dump is read beside the output of an older run:

1. Phase `revisions`: the revisions that the older run holds, as memory-mapped arrays.
2. Phase `kb`, the ordinary one, parses items with another revision, new ones, and all properties.
   Of the others it leaves the QIDs in a file per unit. It must still decompress and pass over
   every line: the dump has no index.
3. Phase `repeats`, the ordinary one (`kb.repeats`).
4. Phase `copy`: rows of the older run whose item is among those, part by part. Items that the newer
   dump lacks drop out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import flow
from pipeline.arrays.item_sets import ItemSet, load_all_items, load_items
from pipeline.config import KbConfig
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.opened_once import OpenedOnce
from pipeline.engine.stage import Phase
from pipeline.engine.stage_folders import SPILL
from pipeline.engine.tables import ADDED, RunPaths, check_table, read_batches, read_rows
from pipeline.engine.tasks import Bucket, Unit
from pipeline.engine.units import UnitReport, UnitWriter
from pipeline.kb.merge import OWNERS
from pipeline.kb.repeats import SUPERSEDED, UNCHANGED
from pipeline.kb.revisions import Revisions, write_revisions
from pipeline.kb.terms import label_languages
from schemas import ALIASES, ENTITIES, REDIRECTS, STATEMENTS, TRIPLES
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.settings import to_dict
from schemas.table import Table

REVISIONS = "revisions"
logger = logging.getLogger("trelm")
COPIED = {table.name: table for table in (ENTITIES, ALIASES, TRIPLES, STATEMENTS, REDIRECTS)}
# The settings that decide an item's rows.
DECISIVE = ("languages", "wiki", "statements", "exclude_scholarly")


@dataclass(frozen=True, kw_only=True)
class RevisionsWorker:
    """Collect the revisions of the older run's items, in one unit."""

    run: str
    # Part files of its `entities`.
    parts: tuple[str, ...]

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:  # noqa: ARG002 - there is one
        """Write the revisions.

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
    """Open the revisions in a stage's data folder."""
    return Revisions(files.join(folder, SPILL, REVISIONS))


@dataclass(frozen=True, kw_only=True)
class CopyWorker:
    """Copy the rows of items that have not changed, one part file of the older run per unit."""

    # Path of each part, and the name of its table.
    parts: tuple[tuple[str, str], ...]
    _unchanged: OpenedOnce[ItemSet] = field(default_factory=OpenedOnce, compare=False, repr=False)

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:
        """Copy the rows of one part."""
        path, table_name = self.parts[unit.task.number]
        table = COPIED[table_name]
        for rows in read_rows(path, table):
            copied_rows = self._unchanged_rows(rows, table, out.folder)
            out.write(table, copied_rows)
            if table.name == ENTITIES.name:
                out.count("items_copied", copied_rows.num_rows)

    def _unchanged_rows(self, rows: pa.Table, table: Table, folder: str) -> pa.Table:
        """Return the rows of unchanged items; redirects belong to no item and all stay."""
        if table.name not in OWNERS:
            return rows
        qids = rows.column(OWNERS[table.name]).to_numpy()
        unchanged = self._unchanged.get(lambda: unchanged_items(folder))
        return rows.filter(pa.array(unchanged.contains(qids)))


def unchanged_items(folder: str) -> ItemSet:
    """Return the items that no unit parsed."""
    items = load_all_items(files.join(folder, SPILL, UNCHANGED))
    items.discard(load_items(files.join(folder, SPILL, SUPERSEDED), 0))
    return items


def check_copied(folder: str, reports: Sequence[UnitReport]) -> None:
    """Make sure that every unchanged item has its rows.

    Raises:
        StageError: the older run was changed meanwhile.
    """
    num_copied = sum(report.counters.get("items_copied", 0) for report in reports)
    num_unchanged = len(unchanged_items(folder))
    if num_copied < num_unchanged:
        raise StageError(
            f"kb: {num_unchanged} items are unchanged, but the older run has {num_copied} of them; "
            "run kb again"
        )


@dataclass(frozen=True, kw_only=True)
class UpdatePlan:
    """Hold the phases around the ordinary ones, and what they read."""

    before: tuple[Phase[Bucket], ...]
    then: tuple[Phase[Bucket], ...]
    inputs: dict[str, str]


def plan_update(config: KbConfig, paths: RunPaths) -> UpdatePlan:
    """Plan the phases for an update of another run.

    Raises:
        ConfigError: the older run is this one, or was made with other settings or another version.
        StageError: the older run has no finished `kb`, or its dump names no revisions.
    """
    if _normalised(config.update) == _normalised(paths.root):
        raise ConfigError(
            "kb.update names the run itself: give another --run folder, and this one to --update"
        )

    # The older run may be gone after an update: then this stage is up to date, or else fails later.
    old = RunPaths(root=config.update)
    present = paths.manifest("kb")
    if present is not None and "update" in present.inputs and old.manifest("kb") is None:
        return _update_plan(config.update, (), {}, present.inputs["update"])

    manifest = old.finished("kb")
    _check_settings(config, manifest)
    if not manifest.counters.get("items_with_revision"):
        raise StageError(
            f"--update {config.update}: the dump of that run does not name revisions (lastrevid), "
            "so the changed items cannot be found; run kb without --update"
        )

    if old.added_fingerprint and not paths.added_fingerprint:
        logger.warning(
            "--update %s: that run has entities of its own, which an update does not copy; when the "
            "index is finished, run `trelm-pipeline index --run %s --add %s`",
            config.update,
            paths.root,
            old.artefact(ADDED, "source"),
        )
    # New SQL dumps replace the redirects of the older run.
    tables = [table for table in COPIED.values() if table.name in OWNERS or not config.redirects]
    table_by_path = {path: table.name for table in tables for path in old.files("kb", table)}
    for path, name in table_by_path.items():
        check_table(path, COPIED[name])
    entity_paths = tuple(old.files("kb", ENTITIES))
    return _update_plan(config.update, entity_paths, table_by_path, manifest.fingerprint)


def _check_settings(config: KbConfig, manifest: Manifest) -> None:
    """Refuse an older run whose rows follow other rules.

    Raises:
        ConfigError: names the settings, or the version.
    """
    ours, theirs = _decisive_settings(to_dict(config)), _decisive_settings(manifest.config)
    different = [name for name in DECISIVE if ours[name] != theirs[name]]
    if not different and manifest.algorithm == flow.algorithm_of("kb"):
        return

    difference = ", ".join(f"kb.{name}" for name in different)
    if not different:
        difference = f"version of the algorithm (program {manifest.code_version})"
    raise ConfigError(
        f"--update {config.update}: that run was made with another {difference}; "
        "run kb without --update"
    )


def _normalised(run: str) -> str:
    """Return the folder of a run in one spelling."""
    return run.rstrip("/") if files.REMOTE_MARK in run else str(Path(run).resolve())


def _decisive_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that decide an item's rows."""
    # Two lists of languages may lead to the same order of labels.
    languages = label_languages(tuple(config.get("languages", ())))
    return {name: config.get(name) for name in DECISIVE} | {"languages": languages}


def _update_plan(
    run: str, entity_paths: tuple[str, ...], table_by_path: dict[str, str], fingerprint: str
) -> UpdatePlan:
    """Return the phases that read an older run.

    Args:
        run: its folder.
        entity_paths: part files of its `entities`.
        table_by_path: the table of each part file to copy.
        fingerprint: of its stage `kb`.
    """
    revisions = Phase(
        name=REVISIONS,
        tasks=[Bucket(kind=REVISIONS, size=0)],
        worker=RevisionsWorker(run=run, parts=entity_paths),
    )

    # Progress counts bytes of the newer dump: parts have none.
    copies = [Bucket(kind="copy", number=number, size=0) for number in range(len(table_by_path))]
    copy = Phase(name="copy", tasks=copies, worker=CopyWorker(parts=tuple(table_by_path.items())))
    return UpdatePlan(before=(revisions,), then=(copy,), inputs={"update": fingerprint})
