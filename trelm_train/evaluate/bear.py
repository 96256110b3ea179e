"""Ask a BEAR probe (Wiland et al. 2024): of all statements that the answers of a relation give, is
the true one the likeliest?

Goes in: an encoder and a probe (`bear_data`). Comes out: accuracy by relation and template, their
mean, and a row per question where a file is named. A statement is scored as a whole by its
pseudo-log-likelihood (`pseudo_likelihood`), so answers may have several tokens; the sum is not
divided by the length, as in LM-PUB-QUIZ, the probe's own program. Costs a forward pass per token of
each statement: instances x answers x templates x about ten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.array_types import F64, I64, Bools
from schemas.buckets import Location
from schemas.errors import ConfigError
from schemas.probes import BEAR_ITEMS
from trelm_train.evaluate.bear_data import BearProbe, BearRelation, read_bear
from trelm_train.evaluate.items_file import check_items_path, write_items
from trelm_train.evaluate.pseudo_likelihood import pseudo_log_likelihoods
from trelm_train.model.masked_lm import (
    MaskedLm,
    load_pretrained,
    load_tokenizer,
    pick_device,
    vocabulary_of,
)
from trelm_train.model.protocols import Tokenizer
from trelm_train.reporting.progress import counting

# Legend: P templates, I instances, A answers.

PLACES = re.compile(r"\[X\]|\[Y\]")
# Statements that are tokenised and scored at a time, at least those of one instance.
CHUNK = 8192
SCORING = "pseudo-log-likelihood of the statement, the rest of a masked word masked too (word-l2r)"


@dataclass(frozen=True, kw_only=True, slots=True)
class BearScores:
    """Hold the scores of all statements of one relation."""

    score_PIA: F64
    # Number of the right answer.
    answer_I: I64
    # Number of the first answer that gives a statement of the same tokens; None where all differ.
    first_PIA: I64 | None = None

    @property
    def _alike_PIA(self) -> I64:
        if self.first_PIA is not None:
            return self.first_PIA
        return np.broadcast_to(np.arange(self.score_PIA.shape[2]), self.score_PIA.shape)

    @property
    def is_first_PIA(self) -> Bools:
        """Say which answers count: of those that an uncased model reads alike, the first."""
        counts: Bools = self._alike_PIA == np.arange(self.score_PIA.shape[2])
        return counts

    @property
    def right_PI1(self) -> I64:
        """Return the number of the right answer, or of the first one that reads the same."""
        return np.take_along_axis(self._alike_PIA, self.answer_I[None, :, None], 2)

    @property
    def rank_PI(self) -> I64:
        """Rank the right answers, from 1; ties count against the model."""
        right_PI1 = np.take_along_axis(self.score_PIA, self.right_PI1, 2)
        # The right answer is not worse than itself: it is the 1.
        ranks: I64 = ((self.score_PIA >= right_PI1) & self.is_first_PIA).sum(2)
        return ranks


def probe(
    model_name: str,
    device: str,
    folder: Path,
    *,
    limit: int = 0,
    items_path: Location | None = None,
) -> dict[str, Any]:
    """Load a model, score every statement of a probe, and write its answers where a file is named.

    Raises:
        ConfigError: a file or folder that was named is not what is needed.
        TrelmError: the rows cannot be written.
        NotFiniteError: the model gives NaN or infinite logits.
    """
    # Whatever can be refused is refused before the model answers.
    check_items_path(items_path, folder.rglob("*"))
    read = read_bear(folder, limit)
    model = load_pretrained(model_name, pick_device(device))
    tokenizer = load_tokenizer(model_name, model)

    scores = score_all(model, tokenizer, read)
    if items_path is not None:
        write_items(bear_rows(model_name, read, scores), items_path)
    return {"model": model_name} | result_of(read, scores)


def fill(template: str, subject: str, answer: str) -> str:
    """Return the statement of a template; it begins with a capital letter, as in LM-PUB-QUIZ.

    >>> fill("[X] is in [Y].", "the [Y] group", "asia")
    'The [Y] group is in asia.'
    """
    # In one pass: a name that looks like a place stays as it is.
    text = PLACES.sub(lambda place: subject if place[0] == "[X]" else answer, template)
    return text[:1].upper() + text[1:]


def score_all(model: MaskedLm, tokenizer: Tokenizer, read: BearProbe) -> dict[str, BearScores]:
    """Score every statement of every relation, and show how many are scored.

    Raises:
        ConfigError: a statement is longer than the model takes, or there is no mask token.
        NotFiniteError: the model gives NaN or infinite logits.
    """
    scores: dict[str, BearScores] = {}
    vocabulary = vocabulary_of(tokenizer, model.config.vocab_size)
    num_done = 0
    total = sum(relation.num_statements for relation in read.relations)
    with counting(total, "statements") as show:
        for relation in read.relations:
            parts, firsts = [], []
            for statements in _chunks(relation):
                encodings = tokenizer(statements).encodings
                _check_lengths(model, relation, statements, encodings)
                parts.append(
                    pseudo_log_likelihoods(model, vocabulary.pad_id, vocabulary.mask_id, encodings)
                )
                firsts.append(first_alike(encodings, len(relation.answers), tokenizer.unk_token_id))
                num_done += len(statements)
                show(num_done)
            shape = (len(relation.templates), len(relation.instances), len(relation.answers))
            scores[relation.name] = BearScores(
                score_PIA=np.concatenate(parts).reshape(shape),
                answer_I=np.asarray([one.answer for one in relation.instances], np.int64),
                first_PIA=np.concatenate(firsts).reshape(shape),
            )
    return scores


def first_alike(encodings: Sequence[Any], num_answers: int, unk_id: int | None) -> I64:
    """Return, for each statement, the number of the first answer to its question that reads the same.

    Answers that differ in case alone are one statement for an uncased model. Statements with an
    unknown token are never the same: what stands there may differ, so they tie, and none is right.
    """
    numbers = np.empty(len(encodings), np.int64)
    for start in range(0, len(encodings), num_answers):
        seen: dict[tuple[int, ...], int] = {}
        for answer, encoding in enumerate(encodings[start : start + num_answers]):
            is_known = unk_id not in encoding.ids
            numbers[start + answer] = (
                seen.setdefault(tuple(encoding.ids), answer) if is_known else answer
            )
    return numbers


def _chunks(relation: BearRelation) -> Iterator[list[str]]:
    """Yield the statements of a relation: template, then instance, then answer is the inner loop."""
    # Whole instances, since their statements share inputs.
    chunk: list[str] = []
    for template in relation.templates:
        for instance in relation.instances:
            chunk += [fill(template, instance.sub_label, answer) for answer in relation.answers]
            if len(chunk) >= CHUNK:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def _check_lengths(
    model: MaskedLm, relation: BearRelation, statements: list[str], encodings: Sequence[Any]
) -> None:
    """Refuse statements that the model has no positions for.

    Raises:
        ConfigError: names the longest one.
    """
    longest = max(range(len(encodings)), key=lambda number: len(encodings[number].ids))
    num_tokens = len(encodings[longest].ids)
    if num_tokens > model.max_tokens:
        raise ConfigError(
            f"{relation.name}: a statement of {num_tokens} tokens, but {model.name} takes "
            f"{model.max_tokens}: {statements[longest][:80]!r}…; shorten it, or leave the relation out"
        )


def result_of(read: BearProbe, scores: dict[str, BearScores]) -> dict[str, Any]:
    """Score the answers.

    `score` is the mean over templates, then over all instances; `macro` over relations instead.
    `sd_over_templates` is the sample standard deviation of the score of each template, by its
    number; None where relations differ in how many templates they have, or have one.
    """
    rows = {relation.name: _row(relation, scores[relation.name]) for relation in read.relations}
    weights = [row["n"] for row in rows.values()]

    def mean(key: str) -> float:
        return float(np.average([row[key] for row in rows.values()], weights=weights))

    # Templates have numbers alone in common, so all relations must have as many.
    by_template: list[float] = []
    if len({len(row["by_template"]) for row in rows.values()}) == 1:
        accuracies = [row["by_template"] for row in rows.values()]
        by_template = np.average(accuracies, axis=0, weights=weights).tolist()
    return {
        "score": mean("accuracy"),
        "sd_over_templates": float(np.std(by_template, ddof=1)) if len(by_template) > 1 else None,
        "by_template": by_template or None,
        "macro": float(np.mean([row["accuracy"] for row in rows.values()])),
        "chance": mean("chance"),
        "majority": mean("majority"),
        "num_instances": sum(weights),
        "num_statements": sum(relation.num_statements for relation in read.relations),
        "num_relations": len(rows),
        "scoring": SCORING,
        "relations": rows,
        "missing_relations": list(read.missing),
        "files_without_metadata": list(read.unnamed),
    }


def _row(relation: BearRelation, scores: BearScores) -> dict[str, Any]:
    """Score the answers to one relation."""
    accuracy_P = (scores.rank_PI == 1).mean(1)
    num_answers_PI = scores.is_first_PIA.sum(2)
    majority_P = [np.bincount(right_I).max() for right_I in scores.right_PI1[:, :, 0]]
    return {
        "n": len(relation.instances),
        "answers": len(relation.answers),
        "accuracy": float(accuracy_P.mean()),
        "by_template": accuracy_P.tolist(),
        # What a blind guess has right on average, and one answer to everything at best.
        "chance": float((1 / num_answers_PI).mean()),
        "majority": float(np.mean(majority_P) / len(scores.answer_I)),
    }


def bear_rows(model_name: str, read: BearProbe, scores: dict[str, BearScores]) -> pa.Table:
    """Build the rows of `bear_items`, a row per question, by relation and template."""
    columns: dict[str, list[Any]] = {name: [] for name in BEAR_ITEMS.column_names}
    for relation in read.relations:
        of_relation, instances = scores[relation.name], relation.instances
        for number, template in enumerate(relation.templates):
            score_IA, ranks = of_relation.score_PIA[number], of_relation.rank_PI[number].tolist()
            is_first_IA = of_relation.is_first_PIA[number]
            right_I = np.take_along_axis(score_IA, of_relation.answer_I[:, None], 1)[:, 0]
            columns["model"] += [model_name] * len(instances)
            columns["relation"] += [relation.name] * len(instances)
            columns["template"] += [template] * len(instances)
            columns["sub_label"] += [one.sub_label for one in instances]
            columns["sub_qid"] += [one.sub_qid for one in instances]
            columns["obj_label"] += [relation.answers[one.answer] for one in instances]
            columns["obj_qid"] += [one.obj_qid for one in instances]
            columns["rank"] += ranks
            columns["score"] += right_I.tolist()
            columns["is_right"] += [rank == 1 for rank in ranks]
            columns["answer"] += _best_answers(score_IA, is_first_IA, relation.answers)
    return BEAR_ITEMS.from_columns(columns)


def _best_answers(score_IA: F64, is_first_IA: Bools, answers: tuple[str, ...]) -> list[str | None]:
    """Return the best answer of each instance, or None where another one is as good."""
    score_IA = np.where(is_first_IA, score_IA, -np.inf)
    is_best_IA = score_IA == score_IA.max(1, keepdims=True)
    return [
        answers[best] if is_alone else None
        for best, is_alone in zip(
            is_best_IA.argmax(1).tolist(), (is_best_IA.sum(1) == 1).tolist(), strict=True
        )
    ]


def readable(result: dict[str, Any]) -> str:
    """Return the result as a few lines of text."""
    lines = []
    for name, row in result["relations"].items():
        by_template = " ".join(f"{accuracy:.3f}" for accuracy in row["by_template"])
        lines.append(
            f"{name:8} n {row['n']:5}  answers {row['answers']:4}  accuracy {row['accuracy']:.3f}  "
            f"by template {by_template}  chance {row['chance']:.3f}"
        )
    sd = result["sd_over_templates"]
    spread = "" if sd is None else f" ± {sd:.4f} over templates"
    lines += [
        f"score {result['score']:.4f}{spread}  macro {result['macro']:.4f}  "
        f"chance {result['chance']:.4f}  majority {result['majority']:.4f}",
        f"{result['num_instances']} instances, {result['num_statements']} statements; {SCORING}",
    ]
    for title, key in (
        ("relations without a file", "missing_relations"),
        ("files without an entry in metadata_relations.json", "files_without_metadata"),
    ):
        if result[key]:
            lines.append(f"{title}: {', '.join(result[key])}")
    return "\n".join(lines)
