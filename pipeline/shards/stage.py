"""Stage `shards`: sentences, links, importance and frequencies to `examples`; entities and relations to `knowledge`.

Map-only, in phases: what one leaves for the next lies in files.

1. knowledge: `knowledge`, the tokenizer's files, and what the units look up.
2. shards: sentences of some units of `link` to rows, cut into equal ranges of their shuffle keys.
3. shuffle: the rows of one range, sorted by key, to one part of `examples`.

The parts one after the other are in the order of the keys, whatever the units were. The trainer needs nothing else of the
pipeline.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.arrays.runs import offsets_of
from pipeline.config import ShardsConfig
from pipeline.encoder.tokenizer import TOKENIZER_FILE, TextTokenizer, check_model, model_stamp
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.opened import OpenedOnce
from pipeline.engine.spill import concat_spill, spill_folder, write_spill
from pipeline.engine.stage import Phase, PreparedStage, StagePlan
from pipeline.engine.tables import RunPaths, open_table
from pipeline.engine.tasks import Bucket, ListRange, RowRange, Unit
from pipeline.engine.units import UnitReport, UnitWriter
from pipeline.link.linked_sentences import LinkedReader, linked_units
from pipeline.shards.example_rows import KEY, KEYED_SCHEMA, RowMaker
from pipeline.shards.knowledge import KnowledgeBuilder
from pipeline.shards.knowledge_lookup import open_lookup, save_lookup
from pipeline.shards.windows import bucket_of
from schemas import DOCUMENTS, EXAMPLES, KNOWLEDGE, SENTENCES
from schemas.settings import to_dict

LOOKUP_FOLDER, ROWS_KIND = "lookup", "rows"  # in the folder of what is spilled
ROW_TEXT_BYTES = 256  # of documents, per row of `examples`, at most, before there are more files
MIN_UNITS = 256  # while there are more units of `link`, several are worked on together,
MAX_UNIT_MB = 32.0  # up to so much text
SHUFFLE_SHARE = 0.05  # of the stage's time, for the progress bar


@dataclass(frozen=True, kw_only=True)
class KnowledgeWorker:
    """One unit, before all others: `knowledge`, the tokenizer's files beside it, and what the units look up."""

    paths: RunPaths
    config: ShardsConfig

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:  # noqa: ARG002 - there is one
        """Write them."""
        tokenizer = TextTokenizer(self.config.model)
        with tempfile.TemporaryDirectory() as scratch:
            tokenizer.save(scratch)
            for path in sorted(Path(scratch).iterdir()):
                files.write_bytes(files.join(out.folder, "tokenizer", path.name), path.read_bytes())
        builder = KnowledgeBuilder(self.config, self.paths, tokenizer)
        for rows in builder.batches():
            out.write(KNOWLEDGE, rows)
        save_lookup(
            files.join(spill_folder(out.folder), LOOKUP_FOLDER), builder.lookup(), builder.limits()
        )


@dataclass(frozen=True, kw_only=True)
class RowsWorker:
    """Sentences to rows, in files per range of keys. A unit is a range of documents, counted over all of them."""

    paths: RunPaths
    config: ShardsConfig
    linked: tuple[Unit[RowRange], ...]  # units of `link`
    num_files: int  # of `examples`
    _resources: OpenedOnce[tuple[RowMaker, LinkedReader]] = field(
        default_factory=OpenedOnce, compare=False, repr=False
    )

    def process(self, unit: Unit[ListRange], out: UnitWriter) -> None:
        """One unit: some units of `link`, one after the other."""
        maker, reader = self.resources(out.folder)
        before = offsets_of(np.array([one.size for one in self.linked], np.int64))
        low, high = np.searchsorted(before, [unit.task.start, unit.task.end])
        parts = [KEYED_SCHEMA.empty_table()]
        for one in self.linked[low:high]:
            linked = reader.read(one)
            parts.append(maker.rows(linked, reader.cosines(one, linked), out.counters))
            out.advance(one.size)
        rows = pa.concat_tables(parts)
        buckets = bucket_of(rows[KEY].to_numpy(), self.num_files)
        write_spill(out.folder, ROWS_KIND, unit.index, rows, buckets, self.num_files)

    def resources(self, folder: str) -> tuple[RowMaker, LinkedReader]:
        """What the worker opens once."""
        return self._resources.get(lambda: self._open(folder))

    def _open(self, folder: str) -> tuple[RowMaker, LinkedReader]:
        tokenizer = TextTokenizer(self.config.model)
        lookup, limits = open_lookup(files.join(spill_folder(folder), LOOKUP_FOLDER))
        maker = RowMaker(
            config=self.config,
            tokenizer=tokenizer,
            frame=tokenizer.frame,
            lookup=lookup,
            limits=limits,
        )
        return maker, LinkedReader(self.paths)


@dataclass(frozen=True, kw_only=True)
class ShuffleWorker:
    """The rows of one range of keys, from all units, in the order of their keys. Memory: three times those rows."""

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:
        """One file. Rows with the same key stay in the order of the corpus, which no unit changes."""
        rows = concat_spill(out.folder, ROWS_KIND, unit.task.number, KEYED_SCHEMA)
        order = np.argsort(rows[KEY].to_numpy(), kind="stable")
        out.write(EXAMPLES, rows.drop_columns([KEY]).take(pa.array(order)).cast(EXAMPLES.schema))
        out.advance(unit.size)


@dataclass(frozen=True, kw_only=True)
class _Finish:
    """Names the tokenizer beside the shards, and its hash."""

    model: str

    def __call__(self, prepared: PreparedStage, reports: Sequence[UnitReport]) -> dict[str, str]:
        made = sum(report.counters.get("windows", 0) for report in reports)
        written = sum(
            report.parts[EXAMPLES.name].rows for report in reports if EXAMPLES.name in report.parts
        )
        if made != written:
            raise StageError(
                f"shards: {made} rows made, {written} written; this is a fault of the program: report it"
            )
        content = files.read_bytes(files.join(prepared.data, "tokenizer", TOKENIZER_FILE))
        return {
            "tokenizer": f"{prepared.plan.data_folder}/tokenizer",
            "tokenizer_sha256": hashlib.sha256(content).hexdigest(),
            "model": self.model,
        }


def plan(config: ShardsConfig, paths: RunPaths) -> StagePlan:
    """Units of `link`, some together, between the knowledge and the files; checks a local model before any work."""
    check_model(config.model)
    inputs = {
        stage: paths.require(stage).fingerprint for stage in ("kb", "link", "stats", "importance")
    }
    inputs["model"] = model_stamp(config.model)
    linked, num_files = tuple(linked_units(paths)), _num_files(config, paths)
    tasks = _together(linked, float(paths.require("link").config["unit_mb"]))
    share = int(SHUFFLE_SHARE * sum(task.size for task in tasks) / num_files)
    knowledge = Phase(
        name="knowledge",
        tasks=[Bucket(kind="knowledge", size=0)],
        worker=KnowledgeWorker(paths=paths, config=config),
    )
    rows = Phase(
        name="shards",
        tasks=tasks,
        worker=RowsWorker(paths=paths, config=config, linked=linked, num_files=num_files),
    )
    shuffle = Phase(
        name="shuffle",
        tasks=[Bucket(kind="shuffle", number=n, size=share) for n in range(num_files)],
        worker=ShuffleWorker(),
    )
    return StagePlan(
        name="shards",
        tables=(EXAMPLES, KNOWLEDGE),
        phases=(knowledge, rows, shuffle),
        inputs=inputs,
        config=to_dict(config),
        finish=_Finish(model=config.model),
        measure="",
        noun="sentences",
    )


def _num_files(config: ShardsConfig, paths: RunPaths) -> int:
    """Parts of `examples`: by sentences and bytes of text, which do not depend on how `link` was cut."""
    num_bytes = 0
    for path in paths.files("documents", DOCUMENTS):
        with open_table(path, DOCUMENTS) as parquet:
            groups = (
                parquet.metadata.row_group(number)
                for number in range(parquet.metadata.num_row_groups)
            )
            num_bytes += sum(group.total_byte_size for group in groups)
    num_sentences = paths.require("link").tables[SENTENCES.name].rows
    num_rows = max(num_sentences, num_bytes // ROW_TEXT_BYTES)
    return max(-(-num_rows // config.rows_per_file), 1)


def _together(linked: Sequence[Unit[RowRange]], unit_mb: float) -> list[ListRange]:
    """Consecutive units of `link` as one: every unit leaves a file with a batch for each range of keys."""
    step = int(max(min(len(linked) // MIN_UNITS, MAX_UNIT_MB / unit_mb), 1))
    before = offsets_of(np.array([unit.size for unit in linked], np.int64)).tolist()
    ranges = [
        (before[low], before[min(low + step, len(linked))]) for low in range(0, len(linked), step)
    ]
    return [ListRange(kind="documents", start=start, end=end) for start, end in ranges]
