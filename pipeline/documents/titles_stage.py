"""Turn titles into items: stage `titles`.

Redirect pages of a MediaWiki export become `redirects`, and all titles become two sorted arrays.
The arrays (`titles/hashes.npy`, uint64; `titles/qids.npy`, uint32) are built once, after the units,
from the items' English Wikipedia titles, from these redirects and from those of `kb` (merged items
included). Memory then: 16 bytes per title and redirect; readers map the arrays.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa

from pipeline.arrays.mapped_files import load_array, local_folder, save_array
from pipeline.arrays.sorted_map import SortedMap, sorted_map
from pipeline.config import DocumentsConfig
from pipeline.documents.corpus import PAYLOAD_LENGTH, files_of, redirect_target
from pipeline.documents.title_hashes import hash_titles, resolve_titles
from pipeline.documents.wiki_name import check_wiki
from pipeline.documents.wikitext_titles import link_target, normalise_title
from pipeline.engine import files
from pipeline.engine.row_buffer import RowBuffer
from pipeline.engine.stage import Phase, PreparedStage, StagePlan
from pipeline.engine.tables import RunPaths, read_batches
from pipeline.engine.tasks import ByteRange, Unit
from pipeline.engine.units import UnitReport, UnitWriter
from pipeline.sources.pages import parse_page, read_pages
from pipeline.sources.range_progress import RangeProgress, long_handler, loss_handler
from pipeline.sources.ranges import plan_ranges
from schemas import ENTITIES, REDIRECTS
from schemas.settings import to_dict
from schemas.table import Table

FOLDER, HASHES, QIDS = "titles", "hashes.npy", "qids.npy"
ITEM_ID = re.compile(r"Q[1-9]\d*")
# The result of a look-up that leads to no item.
NO_ITEM = 0


@dataclass(frozen=True, kw_only=True)
class TitlesWorker:
    """Read the redirect pages of one range."""

    config: DocumentsConfig

    def process(self, unit: Unit[ByteRange], out: UnitWriter) -> None:
        """Write the redirects of articles; skip and count all other pages."""
        buffer, progress = RowBuffer(REDIRECTS), RangeProgress(unit.task, out)
        sources: set[str] = set()
        on_loss = loss_handler(out, skip_corrupt=self.config.skip_corrupt)
        on_long = long_handler(out, unit.task.path)
        for position, xml in read_pages(unit.task, on_loss, progress.reached, on_long):
            out.count("rows_in")
            try:
                page = parse_page(xml)
            except ValueError as error:
                # Without the details after the colon, so that equal faults have equal reasons.
                reason = str(error).partition(":")[0]
                payload = xml[:PAYLOAD_LENGTH].decode("utf-8", "replace")
                out.reject(f"{unit.task.path}:{position}", reason, payload)
                continue

            # A link and a title are spelt in many ways: both sides are normalised before they are
            # compared.
            target = redirect_target(page)
            source, leads_to = normalise_title(page.title), link_target(target or "")
            # Redirects that differ only in spelling lead to themselves once they are normalised.
            is_skipped = page.namespace != 0 or not leads_to or source == leads_to
            if is_skipped or source in sources:
                out.count("skipped_page" if target is None else "skipped_redirect")
                continue

            sources.add(source)
            out.count("rows_out")
            buffer.append((source, leads_to))
        out.write(REDIRECTS, buffer.take())
        progress.finish()


def plan(config: DocumentsConfig, paths: RunPaths) -> StagePlan:
    """Plan the units of the corpus's MediaWiki exports.

    A corpus without exports has no unit: the titles of the items remain.

    Raises:
        StageError: `kb` has not run, or an input cannot be read.
    """
    kb = paths.require("kb")
    exports = [entry for entry, kind in files_of(config).items() if kind == "wiki-xml"]
    for entry in exports:
        check_wiki(entry.path, str(kb.config["wiki"]))
    unit_bytes = int(config.unit_mb * 2**20)
    tasks = [task for entry in exports for task in plan_ranges(entry.path, unit_bytes)]
    return StagePlan(
        name="titles",
        tables=(REDIRECTS,),
        phases=(Phase(name="titles", tasks=tasks, worker=TitlesWorker(config=config)),),
        inputs={entry.path: entry.stamp for entry in exports} | {"kb": kb.fingerprint},
        config=to_dict(config),
        finish=functools.partial(finish, paths),
        measure="bytes",
        noun="pages",
    )


def finish(
    paths: RunPaths, prepared: PreparedStage, reports: Sequence[UnitReport]
) -> dict[str, str]:
    """Build the title map from the tables of `kb` and the redirects of this stage."""
    # The manifest of this stage is not written yet: its part files come from the reports.
    part_files = [
        report.parts[REDIRECTS.name] for report in reports if REDIRECTS.name in report.parts
    ]
    new_paths = [files.join(prepared.data, *part_file.path.split("/")) for part_file in part_files]
    redirect_paths = [*paths.files("kb", REDIRECTS), *new_paths]
    titles = build_title_map(paths.files("kb", ENTITIES), redirect_paths)

    folder = files.join(prepared.data, FOLDER)
    save_array(files.join(folder, HASHES), titles.keys)
    save_array(files.join(folder, QIDS), titles.values)
    return {FOLDER: f"{prepared.plan.data_folder}/{FOLDER}", "num_titles": str(len(titles.keys))}


def build_title_map(entity_paths: Sequence[str], redirect_paths: Sequence[str]) -> SortedMap:
    """Return the hash of every title that leads to an item, and the item.

    Args:
        entity_paths: part files of `entities`.
        redirect_paths: part files of `redirects`, of titles and of items.
    """
    # The empty arrays keep the dtype where there is no row at all.
    titles, qids = [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
    for batch in _batches(entity_paths, ENTITIES, ["qid", "enwiki_title"]):
        # Most items have no article in English Wikipedia.
        with_title = batch.filter(batch.column("enwiki_title").is_valid())
        titles.append(hash_titles(with_title.column("enwiki_title").to_pylist()))
        qids.append(with_title.column("qid").to_numpy())

    # Redirects join two titles or two items. Only the items of the latter are needed as numbers.
    sources, targets = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    merged_items: list[tuple[int, int]] = []
    for batch in _batches(redirect_paths, REDIRECTS, ["source", "target"]):
        columns = (batch.column("source").to_pylist(), batch.column("target").to_pylist())
        pairs = list(zip(*columns, strict=True))
        merged_items += [
            (int(source[1:]), int(target[1:]))
            for source, target in pairs
            if _are_items(source, target)
        ]
        sources.append(hash_titles(source for source, _ in pairs))
        targets.append(hash_titles(target for _, target in pairs))

    from_items = np.array([source for source, _ in merged_items], dtype=np.uint32)
    to_items = np.array([target for _, target in merged_items], dtype=np.uint32)
    return resolve_titles(
        sorted_map(np.concatenate(titles), np.concatenate(qids)),
        sorted_map(np.concatenate(sources), np.concatenate(targets)),
        sorted_map(from_items, to_items),
    )


def _are_items(source: str, target: str) -> bool:
    """Say whether a redirect leads from item to item."""
    return bool(ITEM_ID.fullmatch(source) and ITEM_ID.fullmatch(target))


def _batches(paths: Sequence[str], table: Table, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the batches of several part files, one file after the other."""
    return chain.from_iterable(read_batches(path, table, columns) for path in paths)


class TitleMap:
    """Look up the items of titles, memory-mapped: shared by the processes of a machine."""

    def __init__(self, folder: str) -> None:
        local = local_folder(folder)
        # The arrays are sorted by hash: a look-up is a binary search in mapped memory.
        keys, values = (load_array(files.join(local, name)) for name in (HASHES, QIDS))
        self._titles = SortedMap(keys=keys, values=values)

    def __len__(self) -> int:
        return len(self._titles.keys)

    def find(self, titles: Sequence[str]) -> list[int]:
        """Return the item of each title, through redirects; NO_ITEM where it leads to none.

        About 2 µs per title.
        """
        if not titles:
            return []
        has_item, qids = self._titles.find(hash_titles(titles))
        items: list[int] = np.where(has_item, qids, NO_ITEM).tolist()
        return items
