"""Write statements, a phase of stage `shards`: facts of rare entities that no sentence states.

Goes in: the facts that the knowledge phase chose, and how many tokens the corpus has. Comes out: the
rows of the first facts, as many as the share of tokens allows, beside those of the sentences.
Memory: the rows, 4 bytes per token and about 100 per statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import ShardsConfig
from pipeline.encoder.tokenizer import TextTokenizer
from pipeline.engine import files
from pipeline.engine.spill import spill_folder, write_spill
from pipeline.engine.tasks import Bucket, Unit
from pipeline.engine.units import UnitWriter, finished_units
from pipeline.shards.knowledge_lookup import open_lookup
from pipeline.shards.row_columns import KEY, KEYED_SCHEMA
from pipeline.shards.statement_rows import StatementMaker
from pipeline.shards.statement_text import StatementTemplates
from pipeline.shards.windows import bucket_of
from pipeline.templates.property_ids import property_number
from pipeline.templates.template_file import (
    DISTRACTOR,
    OWN,
    known_and_held,
    read_templates,
)

FACTS_NAME = "statement_facts.parquet"
# Facts that are tokenized at once.
BATCH_FACTS = 32_768


@dataclass(frozen=True, kw_only=True)
class StatementsWorker:
    """Turn facts into rows until the share of tokens is used up; there is one unit."""

    config: ShardsConfig
    templates: StatementTemplates
    # The number of files of `examples`.
    num_files: int
    # Names in the folder that the phases leave behind: of the lookup, and of rows.
    lookup_name: str
    rows_kind: str

    def process(self, unit: Unit[Bucket], out: UnitWriter) -> None:
        """Make the rows, and count what became of every fact."""
        folder = files.join(spill_folder(out.folder), self.lookup_name)
        facts = read_facts(folder)
        # The phase before has ended: all its reports are there.
        reports = finished_units(out.folder).values()
        num_tokens = sum(report.counters.get("train_tokens", 0) for report in reports)
        room = tokens_allowed(self.config.statements_share, num_tokens)

        lookup, limits = open_lookup(folder)
        maker = StatementMaker(
            config=self.config,
            tokenizer=TextTokenizer(self.config.model),
            lookup=lookup,
            limits=limits,
            templates=self.templates,
        )
        rows = self._rows(maker, facts, room, out)
        buckets = bucket_of(rows[KEY].to_numpy(), self.num_files)
        write_spill(out.folder, self.rows_kind, unit.index, rows, buckets, self.num_files)

    def _rows(self, maker: StatementMaker, facts: pa.Table, room: int, out: UnitWriter) -> pa.Table:
        """Return the rows of the first facts that fit into the room."""
        tables = [KEYED_SCHEMA.empty_table()]
        counters = out.counters
        for low in range(0, facts.num_rows, BATCH_FACTS):
            batch = facts.slice(low, BATCH_FACTS)
            tables.append(maker.rows(batch, room - counters["statement_tokens"], counters))
            if num_handled(counters) < low + batch.num_rows:
                break

        counters["statement_facts"] = facts.num_rows
        counters["statements_over_share"] = facts.num_rows - num_handled(counters)
        return pa.concat_tables(tables).combine_chunks()


def num_handled(counters: Mapping[str, int]) -> int:
    """Return the number of facts that were written, or cannot be."""
    names = ("statements", "statements_too_long", "statements_without_tokens")
    return sum(counters.get(name, 0) for name in names)


def tokens_allowed(share: float, num_tokens: int) -> int:
    """Return how many tokens of statements are at most `share` of all tokens with them.

    Args:
        share: above 0 and below 1.
        num_tokens: of all other rows of the training split.
    """
    # A share of 0.1 means one tenth, not the nearest binary number.
    exact = Fraction(str(share))
    return int(exact * num_tokens / (1 - exact))


def statement_templates(path: str) -> StatementTemplates:
    """Return the templates of a file by relation, or our own where the path is empty.

    A template that `synth` keeps for probes is never used (`known_and_held`).

    Raises:
        ConfigError: a row is no template; names file and line.
    """
    rows_of: dict[str, list[dict[str, Any]]] = {}
    for row in read_templates(path or str(OWN)):
        if row["relation"] != DISTRACTOR:
            rows_of.setdefault(row["relation"], []).append(row)
    known = {property_number(name): known_and_held(rows)[0] for name, rows in rows_of.items()}
    return {predicate: texts for predicate, texts in known.items() if texts}


def save_facts(folder: str, facts: pa.Table) -> None:
    """Write the facts of the statements to a folder (`FACT_SCHEMA`)."""
    sink = pa.BufferOutputStream()
    pq.write_table(facts, sink, compression="zstd")
    files.write_bytes(files.join(folder, FACTS_NAME), bytes(sink.getvalue()))


def read_facts(folder: str) -> pa.Table:
    """Read what `save_facts` wrote."""
    return pq.read_table(pa.BufferReader(files.read_bytes(files.join(folder, FACTS_NAME))))


def share_in_words(counters: Mapping[str, int]) -> str:
    """Say how many statements there are: "statements 1,234 (8.0 % of tokens)"."""
    num_tokens = counters["statement_tokens"]
    share = num_tokens / max(num_tokens + counters["train_tokens"], 1)
    return f"statements {counters['statements']:,} ({share:.1%} of tokens)".replace("%", " %", 1)
