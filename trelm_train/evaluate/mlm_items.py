"""Measure a model on a shards folder, and write what it answered to each fact there.

Goes in: a model, and shards. Comes out: the measures of `mlm`, and one Parquet file of the table
`mlm_items`. Costs what `mlm` costs; the rows are in memory until they are written.
"""

from __future__ import annotations

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
from trelm_train.model.masked_lm import check_tokenizer, load_pretrained, pick_device


def measure(
    model_name: str,
    folder: Location,
    device: str,
    *,
    max_sentences: int = 0,
    items_path: Location | None = None,
) -> MlmReport:
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

    sums = MlmTotals(max_sentences=max_sentences, answers=None if items_path is None else [])
    add_split(sums, model, vocabulary, shards, knowledge, packing)
    if items_path is not None:
        write_items(mlm_rows(model_name, sums.answers or [], knowledge, shards), items_path)
    return report_of(sums)


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
