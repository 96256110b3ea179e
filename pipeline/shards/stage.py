"""Turn everything into training examples and knowledge: stage `shards`.

Sentences, links, importance and frequencies become `examples`; entities and relations become
`knowledge`. The stage only maps units, in phases. What one phase leaves for the next lies in files.

1. knowledge: `knowledge`, the tokenizer's files, and the lookup of the units.
2. shards: sentences of some units of `link` to rows, cut into equal ranges of their shuffle keys.
3. statements, where they are asked for: facts that no sentence states to rows, cut the same way.
4. shuffle: the rows of one range, sorted by key, to one part of `examples`.

The parts one after the other are in the order of the keys, no matter how the units were cut. The
trainer needs nothing else of the pipeline.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.arrays.hashing import hash64
from pipeline.arrays.runs import offsets_of
from pipeline.config import ShardsConfig
from pipeline.encoder.tokenizer import TOKENIZER_FILE, TextTokenizer, check_model, model_stamp
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.opened_once import OpenedOnce
from pipeline.engine.spill import concat_spill, spill_folder, write_spill
from pipeline.engine.stage import Phase, PreparedStage, StagePlan
from pipeline.engine.tables import RunPaths, open_table
from pipeline.engine.tasks import Bucket, ListRange, RowRange, Unit
from pipeline.engine.units import UnitReport, UnitWriter
from pipeline.link.linked_sentences import LinkedReader, linked_units
from pipeline.shards.example_rows import RowMaker
from pipeline.shards.knowledge import KnowledgeBuilder
from pipeline.shards.knowledge_lookup import open_lookup, save_lookup
from pipeline.shards.row_columns import KEY, KEYED_SCHEMA
from pipeline.shards.statement_text import StatementTemplates
from pipeline.shards.statements import StatementsWorker, save_facts, statement_templates
from pipeline.shards.windows import bucket_of
from pipeline.stats.rare_entities import rare_below
from schemas import DOCUMENTS, EXAMPLES, KNOWLEDGE, SENTENCES
from schemas.settings import to_dict

logger = logging.getLogger("trelm")

# Names in the folder that the phases leave behind.
LOOKUP_FOLDER, ROWS_KIND = "lookup", "rows"
# A row of `examples` stands for at most this many bytes of documents; with more text there are more
# files.
ROW_TEXT_BYTES = 256
# With more units of `link` than this, several are one unit here, up to so much text.
MIN_UNITS = 256
MAX_UNIT_MB = 32.0
# The share of the stage's time, for the progress bar.
SHUFFLE_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class KnowledgeWorker:
    """Write `knowledge`, the tokenizer's files beside it, and the lookup of the units."""

    paths: RunPaths
    config: ShardsConfig

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:  # noqa: ARG002 - there is one
        """Write the files and the rows."""
        # The library saves to a local folder only; the run may lie in a bucket.
        tokenizer = TextTokenizer(self.config.model)
        with tempfile.TemporaryDirectory() as scratch:
            tokenizer.save(scratch)
            for path in sorted(Path(scratch).iterdir()):
                files.write_bytes(files.join(out.folder, "tokenizer", path.name), path.read_bytes())

        # The lookup comes after the rows, whose making collects the facts.
        builder = KnowledgeBuilder(self.config, self.paths, tokenizer)
        for rows in builder.batches():
            out.write(KNOWLEDGE, rows)
        folder = files.join(spill_folder(out.folder), LOOKUP_FOLDER)
        save_lookup(folder, builder.lookup(), builder.limits())
        save_facts(folder, builder.statement_facts())


@dataclass(frozen=True, kw_only=True)
class RowsWorker:
    """Turn sentences into rows, in files per range of keys.

    A unit is a range of documents, counted over all of them.
    """

    paths: RunPaths
    config: ShardsConfig
    # The units of `link`.
    linked: tuple[Unit[RowRange], ...]
    # The number of files of `examples`.
    num_files: int
    _resources: OpenedOnce[tuple[RowMaker, LinkedReader]] = field(
        default_factory=OpenedOnce, compare=False, repr=False
    )

    def process(self, unit: Unit[ListRange], out: UnitWriter) -> None:
        """Make the rows of some units of `link`, one after the other."""
        maker, reader = self.resources(out.folder)
        # The task counts documents: find the units of `link` that lie in it.
        document_offsets = offsets_of(np.array([link.size for link in self.linked], np.int64))
        low, high = np.searchsorted(document_offsets, [unit.task.start, unit.task.end])

        tables = [KEYED_SCHEMA.empty_table()]
        for link_unit in self.linked[low:high]:
            linked = reader.read(link_unit)
            cosines = reader.cosines(link_unit, linked)
            tables.append(maker.rows(linked, cosines, out.counters))
            out.advance(link_unit.size)

        rows = pa.concat_tables(tables)
        buckets = bucket_of(rows[KEY].to_numpy(), self.num_files)
        write_spill(out.folder, ROWS_KIND, unit.index, rows, buckets, self.num_files)

    def resources(self, folder: str) -> tuple[RowMaker, LinkedReader]:
        """Return what the worker opens once."""
        return self._resources.get(lambda: self._open(folder))

    def _open(self, folder: str) -> tuple[RowMaker, LinkedReader]:
        """Open the tokenizer and the lookup."""
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
    """Write the rows of one range of keys, from all units, in the order of their keys.

    Memory: three times those rows.
    """

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:
        """Write one file."""
        rows = concat_spill(out.folder, ROWS_KIND, unit.task.number, KEYED_SCHEMA)
        # Stable: rows with the same key stay in the order of the corpus, which no unit changes.
        order = np.argsort(rows[KEY].to_numpy(), kind="stable")
        out.write(EXAMPLES, rows.drop_columns([KEY]).take(pa.array(order)).cast(EXAMPLES.schema))
        out.advance(unit.size)


@dataclass(frozen=True, kw_only=True)
class _Finish:
    """Name the tokenizer beside the shards, and its hash."""

    model: str

    def __call__(self, prepared: PreparedStage, reports: Sequence[UnitReport]) -> dict[str, str]:
        num_made = sum(
            report.counters.get(name, 0) for report in reports for name in ("windows", "statements")
        )
        num_written = sum(
            report.parts[EXAMPLES.name].rows for report in reports if EXAMPLES.name in report.parts
        )
        if num_made != num_written:
            raise StageError(
                f"shards: {num_made} rows made, {num_written} written; "
                "this is a fault of the program; please report it"
            )

        # The trainer compares the hash with its own tokenizer: other ids would be other tokens.
        content = files.read_bytes(files.join(prepared.data, "tokenizer", TOKENIZER_FILE))
        return {
            "tokenizer": f"{prepared.plan.data_folder}/tokenizer",
            "tokenizer_sha256": hashlib.sha256(content).hexdigest(),
            "model": self.model,
        }


def check(config: ShardsConfig) -> None:
    """Check a local model and the templates before any work.

    Raises:
        StageError: the model cannot be used.
        ConfigError: a row of the file of templates is no template.
    """
    check_model(config.model, "tokenizer")
    if config.statements:
        statement_templates(config.statement_templates)


def plan(config: ShardsConfig, paths: RunPaths) -> StagePlan:
    """Plan units of `link`, some together, between the knowledge and the files.

    A local model and a file of templates are checked before any unit starts.

    Raises:
        StageError: a stage before is missing or out of date, or the model cannot be used.
        ConfigError: a row of the file of templates is no template.
    """
    check(config)
    config = _with_scored_policies(config, paths)
    inputs = {
        stage: paths.require(stage).fingerprint for stage in ("kb", "link", "stats", "importance")
    }
    inputs["model"] = model_stamp(config.model)

    linked, num_files = tuple(linked_units(paths)), _num_files(config, paths)
    tasks = _together(linked, float(paths.require("link").config["unit_mb"]))
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

    # A run without statements has no such phase.
    statements: list[Phase[Bucket]] = []
    if config.statements:
        templates = statement_templates(config.statement_templates)
        # Their order counts: a hash chooses among those of a relation.
        inputs["statement_templates"] = f"{hash64(json.dumps(sorted(templates.items()))):016x}"
        statements = [_statements_phase(config, templates, num_files)]

    # Each shuffle counts as this many documents of the progress bar.
    share = int(SHUFFLE_SHARE * sum(task.size for task in tasks) / num_files)
    shuffle = Phase(
        name="shuffle",
        tasks=[Bucket(kind="shuffle", number=n, size=share) for n in range(num_files)],
        worker=ShuffleWorker(),
    )
    return StagePlan(
        name="shards",
        tables=(EXAMPLES, KNOWLEDGE),
        phases=(knowledge, rows, *statements, shuffle),
        inputs=inputs,
        config=to_dict(config),
        finish=_Finish(model=config.model),
        measure="",
        noun="sentences",
    )


def _with_scored_policies(config: ShardsConfig, paths: RunPaths) -> ShardsConfig:
    """Leave out the policy that compares mentions which `importance` did not score.

    Raises:
        StageError: `importance` took fewer entities for rare than this stage does.
    """
    scored = paths.require("importance").config
    if scored.get("mentions") != "needed":
        return config

    r_freq, scored_below = rare_below(paths, config.r_freq), float(scored["r_freq"])
    if r_freq > scored_below:
        raise StageError(
            f"shards.r_freq is {r_freq}, but `importance` scored the sentences of entities below "
            f"{scored_below} mentions alone; lower shards.r_freq, or run `trelm-pipeline importance "
            f"--set importance.mentions=needed --set importance.r_freq={r_freq}`"
        )
    if "importance" not in config.policies:
        return config
    logger.warning(
        "shards: without bits for the policy importance, which compares all mentions; `importance` "
        "scored those that the other policies need (importance.mentions = needed)"
    )
    policies = tuple(policy for policy in config.policies if policy != "importance")
    return dataclasses.replace(config, policies=policies or ("none",))


def _statements_phase(
    config: ShardsConfig, templates: StatementTemplates, num_files: int
) -> Phase[Bucket]:
    """Return the phase that writes statements, after the rows: it must know their tokens."""
    return Phase(
        name="statements",
        tasks=[Bucket(kind="statements", size=0)],
        worker=StatementsWorker(
            config=config,
            templates=templates,
            num_files=num_files,
            lookup_name=LOOKUP_FOLDER,
            rows_kind=ROWS_KIND,
        ),
    )


def _num_files(config: ShardsConfig, paths: RunPaths) -> int:
    """Return the number of parts of `examples`.

    It follows from the sentences and the bytes of text, which do not depend on how `link` was cut.
    """
    num_bytes = 0
    for path in paths.files("documents", DOCUMENTS):
        with open_table(path, DOCUMENTS) as parquet:
            metadata = parquet.metadata
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            num_bytes += sum(group.total_byte_size for group in groups)

    # Long sentences become several rows: then the bytes count.
    num_sentences = paths.require("link").tables[SENTENCES.name].rows
    num_rows = max(num_sentences, num_bytes // ROW_TEXT_BYTES)
    return max(-(-num_rows // config.rows_per_file), 1)


def _together(linked: Sequence[Unit[RowRange]], unit_mb: float) -> list[ListRange]:
    """Return ranges of documents: consecutive units of `link`, several as one.

    Every unit leaves a file with a batch for each range of keys, so few large units are better.
    """
    step = int(max(min(len(linked) // MIN_UNITS, MAX_UNIT_MB / unit_mb), 1))
    offsets = offsets_of(np.array([unit.size for unit in linked], np.int64)).tolist()
    lows = range(0, len(linked), step)
    ranges = [(offsets[low], offsets[min(low + step, len(linked))]) for low in lows]
    return [ListRange(kind="documents", start=start, end=end) for start, end in ranges]
