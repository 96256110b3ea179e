"""Probe a model, and set its answers beside how rare the questions' entities are.

Goes in: a model, probes, and a corpus's statistics. Comes out: the scores of `lama`, those by
frequency band and by stated fact too, and one Parquet file of the table `lama_items`, a row per
question.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.buckets import Location
from schemas.probes import LAMA_ITEMS, NUM_ANSWERS
from trelm_train.evaluate.answers import Answers
from trelm_train.evaluate.corpus_statistics import CorpusStatistics, Fact, statistics_of
from trelm_train.evaluate.items_file import check_items_path, write_items
from trelm_train.evaluate.lama import (
    Options,
    Questions,
    ask_all,
    collect,
    options_of,
    score_answers,
)
from trelm_train.evaluate.lama_files import RELATIONS_NAME, in_full
from trelm_train.evaluate.lama_report import Labels
from trelm_train.evaluate.lama_rows import ProbeRow
from trelm_train.evaluate.lama_uhn import name_cloze_of
from trelm_train.evaluate.prober import Prober
from trelm_train.model.masked_lm import load_pretrained, load_tokenizer, pick_device

PID = re.compile(r"P([0-9]{1,9})")
# Google-RE's names of relations that are Wikidata's too; a date is no item.
GOOGLE_RE_PIDS = {"place_of_birth": 19, "place_of_death": 20}


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
    relations = options.relations or in_full(options.probes).parent / RELATIONS_NAME
    inputs = [relations, options.common_vocab, *options.probes.rglob("*")]
    check_items_path(items_file.path, [path for path in inputs if path is not None])
    statistics = statistics_of(items_file.run, items_file.shards)
    model = load_pretrained(model_name, pick_device(device))
    prober = Prober(model, load_tokenizer(model_name, model), options.common_vocab)
    questions = collect(prober, options, name_cloze_of(options.uhn, model.device))

    # The best answers cost a sort over all candidates, so only those who want rows pay for it.
    answers = ask_all(prober, questions, num_top=NUM_ANSWERS if items_file.path else 0)
    columns = corpus_columns(questions, list(answers), statistics)
    if items_file.path is not None:
        write_items(lama_rows(prober, questions, answers, columns), items_file.path)
    labels = corpus_labels(questions, list(answers), columns, statistics)
    result = score_answers(prober, questions, answers, labels)
    return result | options_of(prober, questions, options)


def corpus_columns(
    questions: Questions, names: list[str], statistics: CorpusStatistics
) -> dict[str, Any]:
    """Return what the corpus says of each question of some relations, as columns of `lama_items`.

    Raises:
        TrelmError: statistics are damaged.
    """
    asked = [(name, item.row) for name in names for item in questions.items[name]]
    facts = [_fact_of(name, row) for name, row in asked]
    return _frequency_columns([row for _, row in asked], statistics) | _fact_columns(
        facts, statistics
    )


def corpus_labels(
    questions: Questions,
    names: list[str],
    columns: dict[str, Any],
    statistics: CorpusStatistics,
) -> dict[str, Labels]:
    """Return the groups that each question belongs to, for the report; none without statistics."""
    labels: dict[str, list[str]] = {}
    if statistics != CorpusStatistics():
        for side, noun in (("sub", "subject"), ("obj", "object")):
            bands = zip(columns[f"{side}_mentions"], columns[f"{side}_band"], strict=True)
            labels[noun] = [
                "no QID" if mentions is None else band or "never linked" for mentions, band in bands
            ]
    if statistics.fact_support is not None:
        shown = {True: "stated", False: "not stated", None: "no triple"}
        labels["fact"] = [shown[is_stated] for is_stated in columns["is_stated"]]

    # Columns go over all relations, one after the other.
    counts = [len(questions.items[name]) for name in names]
    ends = [sum(counts[: place + 1]) for place in range(len(counts))]
    return {
        title: {
            name: column[end - count : end]
            for name, count, end in zip(names, counts, ends, strict=True)
        }
        for title, column in labels.items()
    }


def lama_rows(
    prober: Prober,
    questions: Questions,
    answers: dict[str, Answers],
    corpus: dict[str, Any],
) -> pa.Table:
    """Build the rows of `lama_items`, a row per question, by relation.

    `corpus` are the columns of `corpus_columns`, in the same order.
    """
    # Relations without an item have no answers, and no row.
    names = list(answers)
    asked = [(name, item.row) for name in names for item in questions.items[name]]
    rows = [row for _, row in asked]
    columns: dict[str, Any] = {
        "model": [prober.model.name] * len(rows),
        "relation": [name for name, _ in asked],
        "template": [row.template for row in rows],
        "uuid": [row.uuid for row in rows],
        "sub_label": [row.sub_label for row in rows],
        "sub_qid": [row.sub_qid for row in rows],
        "obj_label": [row.obj_label for row in rows],
        "obj_qid": [row.obj_qid for row in rows],
    }
    # Columns are joined by their order, which is that of `rows` in all of them.
    columns |= corpus | _answer_columns(prober, [answers[name] for name in names])
    return LAMA_ITEMS.from_columns(columns)


def _frequency_columns(rows: list[ProbeRow], statistics: CorpusStatistics) -> dict[str, Any]:
    """Return mentions and bands of subjects and objects."""
    # Both sides in one look-up: the files are read once.
    qids = {qid for row in rows for qid in (row.sub_qid, row.obj_qid) if qid is not None}
    frequency_of = statistics.frequencies(qids) or {}

    columns: dict[str, Any] = {}
    for side, of_side in (
        ("sub", [row.sub_qid for row in rows]),
        ("obj", [row.obj_qid for row in rows]),
    ):
        frequencies = [frequency_of.get(qid) if qid is not None else None for qid in of_side]
        columns[f"{side}_mentions"] = [one.num_mentions if one else None for one in frequencies]
        columns[f"{side}_band"] = [one.band if one else None for one in frequencies]
    return columns


def _fact_of(relation: str, row: ProbeRow) -> Fact | None:
    """Return the triple that a question asks for, or None where an id of it is not known."""
    match = PID.fullmatch(relation)
    pid = int(match[1]) if match else GOOGLE_RE_PIDS.get(relation)
    if pid is None or row.sub_qid is None or row.obj_qid is None:
        return None
    return row.sub_qid, pid, row.obj_qid


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
        "filtered_rank": list(
            chain.from_iterable(one.filtered_rank_M.tolist() for one in of_relations)
        ),
        "p_gold": _joined([one.p_gold_M for one in of_relations]),
        "answers": [[text_of[token] for token in tokens] for tokens in top_ids],
        "p_answers": list(chain.from_iterable(one.top_p_MK.tolist() for one in of_relations)),
    }


def _joined(arrays: list[Any]) -> Any:  # noqa: ANN401 - an array, of any type
    return np.concatenate([np.zeros(0, np.float32), *arrays])
