"""Answer which facts a model learned, and what a run's statistics have to do with it."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.database.answers import Output, give_rows, opened_for, put_text
from pipeline.database.questions import Question
from pipeline.engine.errors import StageError
from pipeline.learned.fact_features import (
    FEATURES,
    FEATURES_SQL,
    RELATION,
    RELATION_MEANING,
    AskedFacts,
    facts_of,
)
from pipeline.learned.prediction import Prediction, Strength, predict
from schemas.array_types import F64
from schemas.ids import item_id

# The question whose rows are facts; the other one's are features.
FACTS_QUESTION = "learned-facts"
ALL = "all together"
# Of facts and of those known and not known: with fewer an AUC says nothing.
FEWEST = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedModel:
    """Name what `trelm-train evaluate lama --items` wrote about a model, trained and untrained."""

    # Each fact counts as often as it stands in the files.
    items: tuple[str, ...]
    # Facts that the model knew before are left out; empty for none.
    before: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnedFacts:
    """Hold the facts of an evaluation, and how well statistics tell which of them are known."""

    facts: AskedFacts
    prediction: Prediction
    # Facts that the model knew before, or was not asked then; they are left out.
    num_known_before: int = 0
    num_not_asked_before: int = 0


def ask_learned(
    run_folder: str, question: Question, asked: AskedModel, rows: int, output: Output
) -> None:
    """Answer a question about the facts that a model knows, or show the SQL of its features.

    Args:
        run_folder: the run that the model was trained on.
        question: what is asked.
        asked: the answers of the model.
        rows: the most facts of the answer.
        output: how to give it.

    Raises:
        ConfigError: a file is not what is needed, or the output cannot be given so.
        StageError: a table is missing, or there are too few facts.
    """
    with opened_for(run_folder, question, output) as connection:
        if output.show_sql:
            quoted = ("'" + path.replace("'", "''") + "'" for path in asked.items)
            put_text(
                FEATURES_SQL.strip().replace("$items", f"[{', '.join(quoted)}]") + ";", output.out
            )
            return
        learned = learned_facts(connection, asked)
        table = (
            facts_table(learned).slice(0, rows)
            if question.name == FACTS_QUESTION
            else features_table(learned)
        )
        give_rows(connection, table, output)


def learned_facts(connection: duckdb.DuckDBPyConnection, asked: AskedModel) -> LearnedFacts:
    """Join a model's answers with a run, and predict them.

    Args:
        connection: with the views of the run.
        asked: the answers.

    Raises:
        ConfigError: a file is not what is needed.
        StageError: there are too few facts with ids, known ones, or unknown ones.
    """
    facts, num_known_before, num_not_asked_before = facts_of(connection, asked.items), 0, 0
    if asked.before:
        earlier = facts_of(connection, asked.before, option="--before")
        asked_before = set(earlier.questions)
        known = {
            question
            for question, is_known in zip(earlier.questions, earlier.is_known, strict=True)
            if is_known
        }
        num_not_asked_before = sum(question not in asked_before for question in facts.questions)
        num_known_before = sum(question in known for question in facts.questions)
        # Only what was asked before, and not known then, can have been learned.
        not_known = asked_before - known
        is_new = [question in not_known for question in facts.questions]
        facts = facts.only(np.asarray(is_new, np.bool_))

    num_known = int(facts.is_known.sum())
    if min(num_known, len(facts.relation) - num_known) < FEWEST:
        raise StageError(
            f"{', '.join(asked.items)}: {len(facts.relation)} facts whose relation and items have ids, "
            f"{num_known} of them known{_left_out(num_known_before, num_not_asked_before)}; at least "
            f"{FEWEST} known and {FEWEST} not known are needed to tell them apart; ask more facts, with "
            f"sub_uri and obj_uri{', and the same ones before' if num_not_asked_before else ''}"
        )
    features = {
        name: np.stack([facts.columns[column] for column in columns], axis=1)
        for name, (columns, _) in FEATURES.items()
    }
    features[RELATION] = _one_column_each(facts.relation)
    return LearnedFacts(
        facts=facts,
        prediction=predict(features, facts.is_known, facts.subject),
        num_known_before=num_known_before,
        num_not_asked_before=num_not_asked_before,
    )


def _left_out(num_known_before: int, num_not_asked_before: int) -> str:
    """Say how many facts were left out, and why; empty where none was."""
    parts = ""
    if num_known_before:
        parts += f", {num_known_before} known before left out"
    if num_not_asked_before:
        parts += f", {num_not_asked_before} not asked before left out"
    return parts


def _one_column_each(relations: list[str]) -> F64:
    """Return a column per relation, 1 where a fact is of it, shape (n, relations)."""
    names = sorted(set(relations))
    return (np.asarray(relations)[:, None] == np.asarray(names)[None, :]).astype(np.float64)


def features_table(learned: LearnedFacts) -> pa.Table:
    """Return a row for all features together, then one per feature, the strongest first."""
    prediction, facts = learned.prediction, learned.facts
    meanings = {name: meaning for name, (_, meaning) in FEATURES.items()}
    meanings[RELATION] = RELATION_MEANING
    summary = f"{len(facts.relation)} facts, {int(facts.is_known.sum())} known"
    summary += _left_out(learned.num_known_before, learned.num_not_asked_before)
    whole = prediction.auc
    rows: list[tuple[str | float | None, ...]] = [
        (ALL, whole.value, whole.low, whole.high, None, None, summary)
    ]
    rows += [_row(strength, meanings[strength.name]) for strength in prediction.strengths]
    names = ("feature", "auc", "low", "high", "lost_without", "weight", "meaning")
    kinds = (pa.string(), *[pa.float64()] * 5, pa.string())
    columns = [
        pa.array(list(column), kind)
        for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)
    ]
    return pa.table(dict(zip(names, columns, strict=True)))


def _row(strength: Strength, meaning: str) -> tuple[str | float | None, ...]:
    alone = strength.alone
    figures = (
        None if value is None else round(value, 4)
        for value in (alone.value, alone.low, alone.high, strength.lost_without, strength.weight)
    )
    return (strength.name, *figures, meaning)


def facts_table(learned: LearnedFacts) -> pa.Table:
    """Return a row per fact, those first that statistics were most wrong about."""
    facts, p_known = learned.facts, learned.prediction.p_known
    surprise = np.abs(facts.is_known - p_known)
    order = np.lexsort((np.arange(len(surprise)), -surprise))
    table = pa.table(
        {
            "subject": [item_id(qid) for qid in facts.subject.tolist()],
            "subject_label": facts.subject_label,
            "relation": facts.relation,
            "object": [item_id(qid) for qid in facts.object.tolist()],
            "object_label": facts.object_label,
            "is_known": facts.is_known,
            "p_known": np.round(p_known, 4),
            **facts.columns,
        }
    )
    return table.take(pa.array(order))
