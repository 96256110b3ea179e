"""Write what a model answered to each LAMA question, beside how rare the question's entities are.

Goes in: a model, probes, and a corpus's statistics. Comes out: the scores of `lama`, and one
Parquet file of the table `lama_items`, so that "does it know rare entities better?" is one query.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.buckets import Location
from schemas.errors import ConfigError
from schemas.probes import LAMA_ITEMS, NUM_ANSWERS
from trelm_train.evaluate.answers import Answers
from trelm_train.evaluate.corpus_statistics import CorpusStatistics, Fact, statistics_of
from trelm_train.evaluate.items_file import check_items_path, write_items
from trelm_train.evaluate.lama import (
    Item,
    Options,
    Prober,
    Questions,
    ask_all,
    collect,
    score_answers,
    uhn_of,
)
from trelm_train.model.masked_lm import load_pretrained, load_tokenizer, pick_device

PID = re.compile(r"P([0-9]{1,9})")


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemsFile:
    """Say where the rows go (None: nowhere), and which corpus counts how rare an entity is."""

    path: Location | None = None
    run: Location | None = None
    shards: Location | None = None


NO_ITEMS = ItemsFile()


def probe(
    model_name: str, device: str, options: Options, items_file: ItemsFile = NO_ITEMS
) -> dict[str, Any]:
    """Load a model, probe it, and write its answers where a file is named.

    Raises:
        ConfigError: a file or folder that was named is not what is needed.
        TrelmError: statistics are damaged, or the rows cannot be written.
        NotFiniteError: the model gives NaN or infinite logits.
    """
    # Whatever can be refused is refused before the model answers.
    inputs = [options.relations, options.common_vocab, *options.probes.rglob("*")]
    check_items_path(items_file.path, [path for path in inputs if path is not None])
    statistics = _open_statistics(items_file)
    model = load_pretrained(model_name, pick_device(device))
    prober = Prober(model, load_tokenizer(model_name, model), options.common_vocab)
    questions = collect(prober, options)

    # The best answers cost a sort over all candidates, so only those who want rows pay for it.
    answers = ask_all(prober, questions, num_top=NUM_ANSWERS if items_file.path else 0)
    if items_file.path is not None:
        write_items(lama_rows(prober, questions, answers, statistics), items_file.path)
    return score_answers(prober, questions, answers) | {"uhn": uhn_of(options)}


def _open_statistics(items_file: ItemsFile) -> CorpusStatistics:
    """Check the folders of an items file.

    Raises:
        ConfigError: a corpus without a file, or a corpus too many.
    """
    corpus = items_file.run or items_file.shards
    if items_file.path is None and corpus is not None:
        raise ConfigError(f"{corpus}: serves --items alone; add --items FILE.parquet, or leave it")
    return statistics_of(items_file.run, items_file.shards)


def lama_rows(
    prober: Prober,
    questions: Questions,
    answers: dict[str, Answers],
    statistics: CorpusStatistics,
) -> pa.Table:
    """Build the rows of `lama_items`, a row per question, by relation.

    Raises:
        TrelmError: statistics are damaged.
    """
    # Relations without an item have no answers, and no row.
    names = list(answers)
    asked = [(name, item) for name in names for item in questions.items[name]]
    items = [item for _, item in asked]
    columns: dict[str, Any] = {
        "model": [prober.model.name] * len(items),
        "relation": [name for name, _ in asked],
        "template": [questions.templates[name] for name, _ in asked],
        "uuid": [item.uuid for item in items],
        "sub_label": [item.sub_label for item in items],
        "sub_qid": [item.sub_qid for item in items],
        "obj_label": [item.obj_label for item in items],
        "obj_qid": [item.obj_qid for item in items],
    }

    # Columns are joined by their order, which is that of `items` in all of them.
    columns |= _frequency_columns(items, statistics)
    columns |= _fact_columns([_fact_of(name, item) for name, item in asked], statistics)
    columns |= _answer_columns(prober, [answers[name] for name in names])
    return LAMA_ITEMS.from_columns(columns)


def _frequency_columns(items: list[Item], statistics: CorpusStatistics) -> dict[str, Any]:
    """Return mentions and bands of subjects and objects."""
    # Both sides in one look-up: the files are read once.
    qids = {qid for item in items for qid in (item.sub_qid, item.obj_qid) if qid is not None}
    frequency_of = statistics.frequencies(qids) or {}

    columns: dict[str, Any] = {}
    for side, of_side in (
        ("sub", [item.sub_qid for item in items]),
        ("obj", [item.obj_qid for item in items]),
    ):
        frequencies = [frequency_of.get(qid) if qid is not None else None for qid in of_side]
        columns[f"{side}_mentions"] = [one.num_mentions if one else None for one in frequencies]
        columns[f"{side}_band"] = [one.band if one else None for one in frequencies]
    return columns


def _fact_of(relation: str, item: Item) -> Fact | None:
    """Return the triple that a question asks for, or None where an id of it is not known."""
    # Google-RE names its relations in words, so no triple of the KB belongs to them.
    pid = PID.fullmatch(relation)
    if pid is None or item.sub_qid is None or item.obj_qid is None:
        return None
    return item.sub_qid, int(pid[1]), item.obj_qid


def _fact_columns(facts: list[Fact | None], statistics: CorpusStatistics) -> dict[str, Any]:
    """Say of each fact whether the corpus states it."""
    # Without statistics all three are null: not known is not the same as not stated.
    support_of = statistics.supports({fact for fact in facts if fact is not None}) or {}
    supports = [support_of.get(fact) if fact is not None else None for fact in facts]
    return {
        "is_stated": [one.num_sentences > 0 if one else None for one in supports],
        "stated_sentences": [one.num_sentences if one else None for one in supports],
        "stated_documents": [one.num_documents if one else None for one in supports],
    }


def _answer_columns(prober: Prober, of_relations: list[Answers]) -> dict[str, Any]:
    """Return ranks, probabilities and the best answers, relation by relation."""
    top_ids = list(chain.from_iterable(one.top_id_MK.tolist() for one in of_relations))
    # A token is decoded once, however many questions it answers.
    text_of = {
        token: prober.tokenizer.decode([token]).strip()
        for token in set(chain.from_iterable(top_ids))
    }
    return {
        "rank": list(chain.from_iterable(one.rank_M.tolist() for one in of_relations)),
        "p_gold": _joined([one.p_gold_M for one in of_relations]),
        "answers": [[text_of[token] for token in tokens] for tokens in top_ids],
        "p_answers": list(chain.from_iterable(one.top_p_MK.tolist() for one in of_relations)),
    }


def _joined(arrays: list[Any]) -> Any:  # noqa: ANN401 - an array, of any type
    return np.concatenate([np.zeros(0, np.float32), *arrays])
