"""Shards of sentences that look alike but for one answer, drawn at random: nothing but a leak can
tell it.

Every sentence is the same words with one of `NUM_ANSWERS` answer tokens at its end, each as often
as the others. A model that sees the words alone cannot get below `FLOOR`, on the first visit or any
later one: there is nothing to memorise by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schemas.shards import EXAMPLES, KNOWLEDGE, POLICY_BITS
from tests.trelm_train.world import write_shards

NUM_ANSWERS = 8
NUM_SENTENCES = 64
FLOOR = math.log(NUM_ANSWERS)
OPEN, CLOSE = 2, 3
HEAD, WORDS, ANSWERS = 100, (101, 102, 103), tuple(range(110, 110 + NUM_ANSWERS))  # token ids
RELATION, INVERSE = 0, 1  # rows of `knowledge`
FIRST_ANSWER = 2
FIRST_HEAD = FIRST_ANSWER + NUM_ANSWERS


@dataclass(frozen=True, kw_only=True)
class Span:
    """A linked mention of one token."""

    at: int
    entity: int
    injected: bool


@dataclass(frozen=True, kw_only=True)
class Puzzle:
    """One sentence; only the word at `answer_at`, its last, may be masked."""

    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    fact: tuple[int, int] | None = None  # head and tail as numbers of spans


def answers(seed: int = 0) -> list[int]:
    """Number of the answer of every sentence: all equally often, in random order."""
    order = np.repeat(np.arange(NUM_ANSWERS), NUM_SENTENCES // NUM_ANSWERS)
    return np.random.default_rng(seed).permutation(order).tolist()


def example_columns(puzzles: list[Puzzle]) -> dict[str, list[Any]]:
    """The rows of `examples`."""
    rows: dict[str, list[Any]] = {name: [] for name in EXAMPLES.column_names}
    for number, puzzle in enumerate(puzzles):
        ids = [OPEN, *puzzle.ids, CLOSE]
        values = {
            "doc_id": f"d{number}", "sentence_start": 0, "input_ids": ids, "word_starts": [len(ids) - 2],
            "n_tokens": len(ids), "split": "train",
            "span_start": [span.at + 1 for span in puzzle.spans], "span_end": [span.at + 2 for span in puzzle.spans],
            "span_entity_row": [span.entity for span in puzzle.spans], "span_frequency": [2 for _ in puzzle.spans],
            "span_cosine": [0.9 for _ in puzzle.spans],
            "span_policies": [POLICY_BITS["all"] if span.injected else 0 for span in puzzle.spans],
            "fact_head_span": [puzzle.fact[0]] if puzzle.fact else [],
            "fact_relation_row": [RELATION] if puzzle.fact else [],
            "fact_tail_span": [puzzle.fact[1]] if puzzle.fact else [], "is_statement": False,
        }  # fmt: skip
        for name, value in values.items():
            rows[name].append(value)
    return rows


def knowledge_columns(
    triples: dict[int, list[tuple[int, int, bool]]], bank_rows: dict[int, int]
) -> dict[str, Any]:
    """Two relations, the answers, and as many heads as sentences, all of one name.

    `triples` has, by entity, relation, other end, and whether the entity is the head.
    """
    rows: dict[str, list[Any]] = {name: [] for name in KNOWLEDGE.column_names}
    for row in range(FIRST_HEAD + NUM_SENTENCES):
        is_answer = FIRST_ANSWER <= row < FIRST_HEAD
        own = triples.get(row, [])
        heads = [(relation, other) for relation, other, is_head in own if is_head]
        values = {
            "row": row, "kind": "relation" if row < FIRST_ANSWER else "entity", "id": row, "label": f"label {row}",
            "label_ids": [ANSWERS[row - FIRST_ANSWER]] if is_answer else [HEAD], "frequency": 2, "band": "tail",
            "bank_row": bank_rows.get(row),
            "triple_relation_row": [relation for relation, _, _ in own],
            "triple_other_row": [other for _, other, _ in own],
            "triple_is_head": [is_head for _, _, is_head in own],
            "true_tail_relation_row": [relation for relation, _ in heads],
            "true_tail_tail_row": [other for _, other in heads],
            "tail_rows": list(range(FIRST_ANSWER, FIRST_HEAD)) if row == RELATION else [],
        }  # fmt: skip
        for name, value in values.items():
            rows[name].append(value)
    return rows


def write(
    folder: Path,
    tokenizer: Any,
    puzzles: list[Puzzle],
    triples: dict[int, list[tuple[int, int, bool]]],
    bank_rows: dict[int, int],
) -> Path:
    """A shards folder."""
    return write_shards(
        folder, tokenizer, example_columns(puzzles), knowledge_columns(triples, bank_rows), 64
    )
