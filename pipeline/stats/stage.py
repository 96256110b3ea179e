"""Turn links into counts, bands, co-occurrence, facts and the tail's summary: stage `stats`.

The stage only maps units, in phases. What one phase leaves for the next lies in files, so memory
follows the unit, and a killed count goes on.

1. facts: the triples between linked entities.
2. stats: groups of links files to partial counts, by bucket.
3. entities: merged counts of entities, bands, the tail's summary.
4. tables: the other counts, merged bucket by bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import StatsConfig
from pipeline.database.connection import add_triples, add_view, working_database
from pipeline.engine.stage import Phase, StagePlan
from pipeline.engine.tables import RunPaths, check_table
from pipeline.engine.tasks import Bucket, ListRange, Unit
from pipeline.engine.units import UnitWriter
from pipeline.stats.count import PairLimits, PartialCounts, count_unit, read_mentions, write_facts
from pipeline.stats.merge import merge_entities, merge_facts, merge_pairs, merge_surfaces
from schemas import (
    COOCCURRENCE,
    ENTITY_FREQUENCY,
    FACT_SUPPORT,
    LINKS,
    SURFACE_FREQUENCY,
    TAIL_SUMMARY,
)
from schemas.settings import to_dict

TABLES = (ENTITY_FREQUENCY, SURFACE_FREQUENCY, COOCCURRENCE, FACT_SUPPORT, TAIL_SUMMARY)
# There is about one bucket per this many links.
BUCKET_LINKS = 500_000
MIN_BUCKETS = 4
FACT_BATCH = 500_000
# Both ends are linked, so a document can support the fact.
FACTS_QUERY = """
SELECT DISTINCT subject, predicate, object FROM triples
WHERE subject IN (SELECT DISTINCT qid FROM links) AND object IN (SELECT DISTINCT qid FROM links)
    AND subject <> object
"""


@dataclass(frozen=True, kw_only=True)
class CountWorker:
    """Count one group of links files: files `start` to `end` of the list."""

    link_files: tuple[str, ...]
    num_buckets: int
    config: StatsConfig

    def process(self, unit: Unit[ListRange], out: UnitWriter) -> None:
        """Leave the partial counts of one group."""
        limits = PairLimits(
            sentence=self.config.max_sentence_entities, document=self.config.max_document_entities
        )
        spill = PartialCounts(folder=out.folder, unit=unit.index, num_buckets=self.num_buckets)
        mentions = read_mentions(self.link_files[unit.task.start : unit.task.end])
        count_unit(mentions, limits, out, spill)
        out.advance(unit.size)


@dataclass(frozen=True, kw_only=True)
class TableWorker:
    """Make what needs the counts of all links: a task's kind says what, its number which bucket."""

    paths: RunPaths
    config: StatsConfig

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:
        """Make one table, or one bucket of it."""
        match unit.task.kind:
            case "facts":
                self._write_linked_facts(out)
            case "entities":
                merge_entities(self.config, self.paths, out)
            case "surfaces":
                merge_surfaces(self.config, unit.task.number, out)
            case "pairs":
                merge_pairs(self.config, unit.task.number, out)
            case "support":
                merge_facts(self.config, out)
            case kind:
                raise ValueError(f"stats: no task is called {kind!r}")
        out.advance(unit.size)

    def _write_linked_facts(self, out: UnitWriter) -> None:
        """Write the triples between linked entities, merged items followed."""
        with working_database(self.config.memory_gb) as connection:
            add_triples(connection, self.paths)
            add_view(connection, "links", self.paths.files("link", LINKS), LINKS)
            write_facts(out.folder, connection.sql(FACTS_QUERY).to_arrow_reader(FACT_BATCH))


def plan(config: StatsConfig, paths: RunPaths) -> StagePlan:
    """Plan groups of links files, about `unit_rows` links each, and the phases around them."""
    link, kb = paths.require("link"), paths.require("kb")
    num_links = {path: check_table(path, LINKS) for path in paths.files("link", LINKS)}
    needed_buckets = -(-sum(num_links.values()) // BUCKET_LINKS)
    num_buckets = config.num_buckets or max(MIN_BUCKETS, needed_buckets)

    # Facts and totals are few: one bucket each.
    tables = [
        Bucket(kind=kind, number=number)
        for kind in ("surfaces", "pairs")
        for number in range(num_buckets)
    ]
    count = CountWorker(link_files=tuple(num_links), num_buckets=num_buckets, config=config)
    make = TableWorker(paths=paths, config=config)
    groups = _groups(list(num_links.values()), config.unit_rows)
    return StagePlan(
        name="stats",
        tables=TABLES,
        phases=(
            Phase(name="facts", tasks=[Bucket(kind="facts")], worker=make),
            Phase(name="stats", tasks=groups, worker=count),
            # Pairs and surfaces need the totals of entities, so these come first.
            Phase(name="entities", tasks=[Bucket(kind="entities")], worker=make),
            Phase(name="tables", tasks=[*tables, Bucket(kind="support")], worker=make),
        ),
        inputs={"link": link.fingerprint, "kb": kb.fingerprint},
        config=to_dict(config),
        measure="",
        noun="links",
    )


def _groups(num_links: Sequence[int], unit_rows: int) -> list[ListRange]:
    """Group consecutive files by their links.

    A file is never cut, because its documents are whole.
    """
    groups, first_file, links_in_group = [], 0, 0
    for num_files, count in enumerate(num_links, 1):
        links_in_group += count
        # The last group may be smaller.
        if links_in_group >= unit_rows or num_files == len(num_links):
            groups.append(ListRange(kind="links", start=first_file, end=num_files))
            first_file, links_in_group = num_files, 0
    return groups
