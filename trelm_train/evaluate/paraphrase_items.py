"""Load a model, ask it the paraphrases of facts, and write what it answered to each question.

Goes in: a model, facts and patterns. Comes out: the scores of `paraphrases`, and one Parquet file
of the table `paraphrase_items`. Costs what `paraphrases` costs; the rows are in memory until they
are written.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from schemas.buckets import Location
from schemas.probes import PARAPHRASE_ITEMS
from trelm_train.evaluate.items_file import check_items_path, write_items
from trelm_train.evaluate.paraphrase_scores import TIED, RelationAnswers
from trelm_train.evaluate.paraphrases import (
    ParaphraseOptions,
    Paraphrases,
    ask_all,
    collect,
    result_of,
)
from trelm_train.evaluate.prober import Prober
from trelm_train.model.masked_lm import load_pretrained, load_tokenizer, pick_device


def probe(
    model_name: str, device: str, options: ParaphraseOptions, items_path: Location | None = None
) -> dict[str, Any]:
    """Load a model, ask it every fact in every way, and write its answers where a file is named.

    Raises:
        ConfigError: a file or folder that was named is not what is needed.
        TrelmError: the rows cannot be written.
        NotFiniteError: the model gives NaN or infinite logits.
    """
    # Whatever can be refused is refused before the model answers.
    inputs = [*options.probes.rglob("*"), *options.patterns.rglob("*")]
    check_items_path(items_path, inputs)
    model = load_pretrained(model_name, pick_device(device))
    prober = Prober(model, load_tokenizer(model_name, model), None)
    read = collect(prober, options)

    answers = ask_all(prober, read)
    if items_path is not None:
        write_items(paraphrase_rows(prober, read, answers), items_path)
    return {"model": model_name} | result_of(read, answers)


def paraphrase_rows(
    prober: Prober, read: Paraphrases, answers: dict[str, RelationAnswers]
) -> pa.Table:
    """Build the rows of `paraphrase_items`, a row per question, by relation and pattern."""
    columns: dict[str, list[Any]] = {name: [] for name in PARAPHRASE_ITEMS.column_names}
    text_of: dict[int, str | None] = {TIED: None}
    for relation in read.relations:
        of_relation = answers[relation.name]
        for token in relation.candidates.tolist():
            text_of.setdefault(token, prober.tokenizer.decode([token]).strip())

        for number, pattern in enumerate(relation.patterns):
            items, ranks = relation.items_PI[number], of_relation.rank_PI[number].tolist()
            columns["model"] += [prober.model.name] * len(items)
            columns["relation"] += [relation.name] * len(items)
            columns["template"] += [pattern] * len(items)
            columns["sub_label"] += [item.row.sub_label for item in items]
            columns["sub_qid"] += [item.row.sub_qid for item in items]
            columns["obj_label"] += [item.row.obj_label for item in items]
            columns["obj_qid"] += [item.row.obj_qid for item in items]
            columns["rank"] += ranks
            columns["score"] += of_relation.log_p_PI[number].tolist()
            columns["is_right"] += [rank == 1 for rank in ranks]
            columns["answer"] += [text_of[token] for token in of_relation.best_PI[number].tolist()]
    return PARAPHRASE_ITEMS.from_columns(columns)
