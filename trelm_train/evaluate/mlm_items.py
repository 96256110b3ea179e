"""Measure a model on a shards folder, and write what it answered to each fact there.

Goes in: a model, and shards. Comes out: the measures of `mlm`, the same by the bands of the
entities, and one Parquet file of the table `mlm_items`. Costs what `mlm` costs; a row per fact is in
memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.buckets import Location
from schemas.probes import MLM_ITEMS
from trelm_train.data.knowledge import Knowledge, load_knowledge
from trelm_train.data.loader import Packing
from trelm_train.data.shards import Shards, open_shards
from trelm_train.evaluate.corpus_statistics import CorpusStatistics
from trelm_train.evaluate.items_file import check_items_path, write_items
from trelm_train.evaluate.mlm import FactAnswer, MlmReport, MlmTotals, add_split, report_of
from trelm_train.evaluate.mlm_bands import GroupTotals, facts_by_band, read_bands
from trelm_train.model.masked_lm import check_tokenizer, load_pretrained, pick_device


@dataclass(frozen=True, kw_only=True, slots=True)
class MlmMeasures:
    """Hold the measures of a model, and the same by band (`mlm_bands`)."""

    report: MlmReport
    # By group of the masked tokens: n, loss, accuracy.
    masked_by_group: dict[str, dict[str, Any]]
    # By band of the head and of the tail: n, cka_score.
    facts_by_head: dict[str, dict[str, Any]]
    facts_by_tail: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON: the report's, and three more."""
        return self.report.to_dict() | {
            "masked_by_group": self.masked_by_group,
            "facts_by_head": self.facts_by_head,
            "facts_by_tail": self.facts_by_tail,
        }


def measure(
    model_name: str,
    folder: Location,
    device: str,
    *,
    max_sentences: int = 0,
    items_path: Location | None = None,
) -> MlmMeasures:
    """Load a model, measure it on a shards folder, and write its answers where a file is named.

    Raises:
        ConfigError: a file or folder that was named is not what is needed.
        TrelmError: shards are damaged, or the rows cannot be written.
        NotFiniteError: the model gives NaN or infinite logits.
    """
    # Whatever can be refused is refused before the model answers.
    check_items_path(items_path, folder.rglob("*") if isinstance(folder, Path) else ())
    shards = open_shards(folder)
    model = load_pretrained(model_name, pick_device(device))
    vocabulary = check_tokenizer(model_name, model, shards)
    packing = Packing(
        max_tokens=min(128, model.max_tokens), batch_tokens=4096, limit=model.max_tokens
    )
    knowledge = load_knowledge(shards)

    bands = read_bands(shards)
    groups, answers = GroupTotals(bands), list[FactAnswer]()
    sums = MlmTotals(max_sentences=max_sentences, answers=answers, groups=groups)
    add_split(sums, model, vocabulary, shards, knowledge, packing)
    if items_path is not None:
        write_items(mlm_rows(model_name, answers, knowledge, shards), items_path)
    return MlmMeasures(
        report=report_of(sums),
        masked_by_group=groups.to_dict(),
        facts_by_head=facts_by_band(bands, ((one.head, one.score) for one in answers)),
        facts_by_tail=facts_by_band(bands, ((one.tail, one.score) for one in answers)),
    )


def readable(measures: MlmMeasures) -> str:
    """Return the measures as lines of text."""
    lines = [f"{name:20} {_number(value)}" for name, value in measures.report.to_dict().items()]
    lines.append("masked tokens, by the band of their entity or where they stand:")
    lines += [
        f"  {name:18} n {row['n']:6}  loss {_number(row['loss'])}  "
        f"accuracy {_number(row['accuracy'])}"
        for name, row in measures.masked_by_group.items()
    ]
    for end, rows in (("head", measures.facts_by_head), ("tail", measures.facts_by_tail)):
        lines.append(f"facts, by the band of their {end} entity:")
        lines += [
            f"  {name:18} n {row['n']:6}  cka_score {_number(row['cka_score'])}"
            for name, row in rows.items()
        ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def mlm_rows(
    model_name: str, answers: list[FactAnswer], knowledge: Knowledge, shards: Shards
) -> pa.Table:
    """Build the rows of `mlm_items`, a row per answer.

    Raises:
        TrelmError: a file of `knowledge` is damaged.
    """
    columns: dict[str, Any] = {
        "model": [model_name] * len(answers),
        "sentence": [answer.sentence for answer in answers],
        "predicate": [int(knowledge.ids[answer.relation]) for answer in answers],
        "rank": [answer.rank for answer in answers],
        "num_false": [answer.num_false for answer in answers],
        "p_gold": [answer.p_true for answer in answers],
        "p_false": [answer.p_false for answer in answers],
        "cka_score": [answer.score for answer in answers],
    }

    statistics = CorpusStatistics(knowledge=list(shards.knowledge_files))
    for side, rows in (
        ("sub", [answer.head for answer in answers]),
        ("obj", [answer.tail for answer in answers]),
    ):
        # Rows of `knowledge` are those of these shards alone; ids hold everywhere.
        qids = [int(knowledge.ids[row]) for row in rows]
        frequency_of = statistics.frequencies(set(qids))
        assert frequency_of is not None, "shards have frequencies"
        columns[f"{side}_label"] = [knowledge.label(row) for row in rows]
        columns[f"{side}_qid"] = qids
        columns[f"{side}_mentions"] = [frequency_of[qid].num_mentions for qid in qids]
        columns[f"{side}_band"] = [frequency_of[qid].band for qid in qids]
    return MLM_ITEMS.from_columns(columns)
