"""Look up how often a corpus names the entities of probes, and whether it states their facts.

Goes in: a run of `trelm-pipeline` (stage `stats`), or the `knowledge` table of a shards folder.
Comes out: figures of the entities and facts that are asked for, and of no others. Costs one pass
over those files by row group; memory is that of the rows that are kept.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from schemas import buckets
from schemas.bucket_copies import joined as join_location
from schemas.bucket_copies import local_stage
from schemas.buckets import Location
from schemas.errors import ConfigError, TrelmError
from schemas.ids import MAX_HOPS
from schemas.kb import REDIRECTS
from schemas.manifest import MANIFEST_NAME
from schemas.shards import ENTITY, KNOWLEDGE
from schemas.stats import ENTITY_FREQUENCY, FACT_SUPPORT
from trelm_train.data.shards import read_manifest, table_files

# Subject, predicate and object, as numbers.
Fact = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Frequency:
    """Hold how often an entity is linked, and its band (None: never)."""

    num_mentions: int
    band: str | None


@dataclass(frozen=True, slots=True)
class Support:
    """Hold in how many sentences and documents both ends of a fact are linked."""

    num_sentences: int
    num_documents: int


NEVER_LINKED = Frequency(0, None)
NOT_STATED = Support(0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusStatistics:
    """Hold the checked files of a run's or of shards' statistics; None: not given."""

    entity_frequency: list[Path] | None = None
    fact_support: list[Path] | None = None
    # Merged items, by the item that they became.
    redirects: list[Path] | None = None
    knowledge: list[Path] | None = None

    def frequencies(self, qids: Collection[int]) -> dict[int, Frequency] | None:
        """Return the frequencies of entities, 0 where none is listed; None without statistics.

        Raises:
            TrelmError: a file is damaged.
        """
        current = self._current(qids)
        numbers = pa.array(sorted(set(current.values())), pa.uint32())
        if self.entity_frequency is not None:
            row_filter = pc.field("qid").isin(numbers)
            rows = _rows(self.entity_frequency, ("qid", "num_mentions", "band"), row_filter)
        elif self.knowledge is not None:
            # Ids of relations are PIDs, whose numbers are those of other items.
            row_filter = pc.field("id").isin(numbers) & (pc.field("kind") == ENTITY)
            rows = _rows(self.knowledge, ("id", "frequency", "band"), row_filter)
        else:
            return None

        listed = {qid: Frequency(num_mentions, band) for qid, num_mentions, band in rows}
        return {qid: listed.get(current[qid], NEVER_LINKED) for qid in qids}

    def supports(self, facts: Collection[Fact]) -> dict[Fact, Support] | None:
        """Return how often facts are stated, 0 where none is listed; None where it is not known.

        Raises:
            TrelmError: a file is damaged.
        """
        if self.fact_support is None:
            return None

        current = self._current(
            {qid for subject, _, object_ in facts for qid in (subject, object_)}
        )
        # More rows than these facts come over, since each column is compared alone.
        subjects = pa.array(sorted({current[fact[0]] for fact in facts}), pa.uint32())
        predicates = pa.array(sorted({fact[1] for fact in facts}), pa.uint32())
        row_filter = pc.field("subject").isin(subjects) & pc.field("predicate").isin(predicates)
        names = ("subject", "predicate", "object", "num_sentences", "num_documents")
        listed = {
            (subject, predicate, object_): Support(num_sentences, num_documents)
            for subject, predicate, object_, num_sentences, num_documents in _rows(
                self.fact_support, names, row_filter
            )
        }
        return {
            fact: listed.get((current[fact[0]], fact[1], current[fact[2]]), NOT_STATED)
            for fact in facts
        }

    def _current(self, qids: Collection[int]) -> dict[int, int]:
        """Return the item that each item has become, or itself; probes name items of years ago.

        An item that was merged into one that was merged later leads to the last one.
        """
        current = {qid: qid for qid in qids}
        for _ in range(MAX_HOPS):
            sources = pa.array([f"Q{qid}" for qid in sorted(set(current.values()))], pa.string())
            is_merged = pc.field("source").isin(sources)
            rows = _rows(self.redirects or [], ("source", "target"), is_merged)
            merged = {
                int(source[1:]): int(target[1:]) for source, target in rows if target[:1] == "Q"
            }
            if not merged:
                break
            current = {qid: merged.get(found, found) for qid, found in current.items()}
        return current


def _rows(paths: list[Path], names: tuple[str, ...], wanted: pc.Expression) -> list[Any]:
    """Return some columns of the rows that are wanted, as tuples.

    Raises:
        TrelmError: a file is damaged.
    """
    if not paths:
        return []
    try:
        # The filter is applied while row groups are read: what is not wanted takes no memory.
        dataset = ds.dataset([str(path) for path in paths], format="parquet")
        table = dataset.to_table(columns=list(names), filter=wanted)
    except (pa.ArrowException, OSError) as error:
        raise TrelmError(
            f"{paths[0].parent}: cannot be read ({error}); copy it again, or run the stage again"
        ) from error
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def statistics_of(run: Location | None, shards: Location | None) -> CorpusStatistics:
    """Check the statistics of a run or of shards (one of them at most), before anything is asked.

    Raises:
        ConfigError: both are given, or one is not the folder of a finished stage.
        TrelmError: a file is missing, changed or of another version.
    """
    if run is not None and shards is not None:
        raise ConfigError("--run and --shards both name a corpus; give one of them")

    if run is not None:
        folder = local_stage(
            join_location(run, "stats"), tables=(ENTITY_FREQUENCY.name, FACT_SUPPORT.name)
        )
        manifest = read_manifest(folder, "stats", "trelm-pipeline stats")
        return CorpusStatistics(
            entity_frequency=table_files(folder, manifest, ENTITY_FREQUENCY),
            fact_support=table_files(folder, manifest, FACT_SUPPORT),
            redirects=_redirect_files(join_location(run, "kb")),
        )
    if shards is not None:
        folder = local_stage(shards, tables=(KNOWLEDGE.name,))
        manifest = read_manifest(folder, "shards", "trelm-pipeline shards")
        return CorpusStatistics(knowledge=table_files(folder, manifest, KNOWLEDGE))
    return CorpusStatistics()


def _redirect_files(location: Location) -> list[Path] | None:
    """Return the files of the run's redirects, or None where only its statistics were kept."""
    if isinstance(location, Path):
        if not (location / MANIFEST_NAME).is_file():
            return None
        folder = location
    elif buckets.exists(f"{location}/{MANIFEST_NAME}"):
        folder = local_stage(location, tables=(REDIRECTS.name,))
    else:
        return None
    return table_files(folder, read_manifest(folder, "kb", "trelm-pipeline kb"), REDIRECTS)
