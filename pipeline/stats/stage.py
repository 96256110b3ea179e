"""Stage `stats`: links to counts, bands, co-occurrence, supported facts and the summary of the tail.

Map-only, in phases: what one leaves for the next lies in files, so memory follows the unit and a killed count goes on.

1. facts: the triples between linked entities.
2. stats: groups of links files to partial counts, by bucket.
3. entities: merged counts of entities, bands, the tail's summary.
4. tables: the other counts, merged bucket by bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import StatsConfig
from pipeline.database.connection import add_triples, add_view, connect
from pipeline.engine.stage import Phase, StagePlan
from pipeline.engine.tables import RunPaths, check_table
from pipeline.engine.units import Unit, UnitWriter, numbered_phases, sized_unit
from pipeline.stats.count import PairLimits, Spill, count_unit, read_mentions, write_facts
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
BUCKET_LINKS = 500_000
MIN_BUCKETS = 4
FACT_BATCH = 500_000
FACTS_QUERY = """
SELECT DISTINCT subject, predicate, object FROM triples
WHERE subject IN (SELECT DISTINCT qid FROM links) AND object IN (SELECT DISTINCT qid FROM links) AND subject <> object
"""


@dataclass(frozen=True, kw_only=True)
class CountWorker:
    """Counts one group of links files: files `start` to `end` of the list."""

    link_files: tuple[str, ...]
    num_buckets: int
    config: StatsConfig

    def setup(self) -> None:
        """Nothing to open."""

    def process(self, unit: Unit, out: UnitWriter) -> None:
        """Partial counts of one group."""
        limits = PairLimits(
            sentence=self.config.max_sentence_entities, document=self.config.max_document_entities
        )
        spill = Spill(folder=out.folder, unit=unit.index, num_buckets=self.num_buckets)
        count_unit(read_mentions(self.link_files[unit.start : unit.end]), limits, out, spill)
        out.advance(unit.size)


@dataclass(frozen=True, kw_only=True)
class TableWorker:
    """Makes what is made of all links at once; a unit's path is what, and the bucket."""

    paths: RunPaths
    config: StatsConfig

    def setup(self) -> None:
        """Nothing to open."""

    def process(self, unit: Unit, out: UnitWriter) -> None:
        """One table, or one bucket of it."""
        kind, _, bucket = unit.path.partition("/")
        {
            "facts": lambda: self._facts(out),
            "entities": lambda: merge_entities(self.config, self.paths, out),
            "surfaces": lambda: merge_surfaces(self.config, int(bucket), out),
            "pairs": lambda: merge_pairs(self.config, int(bucket), out),
            "support": lambda: merge_facts(self.config, out),
        }[kind]()
        out.advance(unit.size)

    def _facts(self, out: UnitWriter) -> None:
        """Triples between linked entities, merged items followed."""
        with connect(self.config.memory_gb) as connection:
            add_triples(connection, self.paths)
            add_view(connection, "links", self.paths.files("link", LINKS), LINKS)
            write_facts(out.folder, connection.sql(FACTS_QUERY).to_arrow_reader(FACT_BATCH))


def plan(config: StatsConfig, paths: RunPaths) -> StagePlan:
    """Groups of links files, about `unit_rows` links each, and the phases around them."""
    link, kb = paths.require("link"), paths.require("kb")
    rows = {path: check_table(path, LINKS) for path in paths.files("link", LINKS)}
    num_buckets = config.num_buckets or max(MIN_BUCKETS, -(-sum(rows.values()) // BUCKET_LINKS))
    tables = [
        sized_unit(f"{kind}/{bucket}")
        for kind in ("surfaces", "pairs")
        for bucket in range(num_buckets)
    ]
    facts, units, entities, others = numbered_phases(
        [[sized_unit("facts")], _groups(list(rows.values()), config.unit_rows), [sized_unit("entities")],
         [*tables, sized_unit("support")]]
    )  # fmt: skip
    worker = TableWorker(paths=paths, config=config)
    return StagePlan(
        name="stats",
        tables=TABLES,
        units=units,
        worker=CountWorker(link_files=tuple(rows), num_buckets=num_buckets, config=config),
        inputs={"link": link.fingerprint, "kb": kb.fingerprint},
        config=to_dict(config),
        before=(Phase(name="facts", units=facts, worker=worker),),
        then=(
            Phase(name="entities", units=entities, worker=worker),
            Phase(name="tables", units=others, worker=worker),
        ),
        measure="",
        noun="links",
    )


def _groups(rows: Sequence[int], unit_rows: int) -> list[Unit]:
    """Ranges of files, by their rows; a file is never cut: its documents are whole."""
    groups, first, taken = [], 0, 0
    for number, count in enumerate(rows, 1):
        taken += count
        if taken >= unit_rows or number == len(rows):
            groups.append(Unit(index=0, of=0, path="links", start=first, end=number))
            first, taken = number, 0
    return groups
