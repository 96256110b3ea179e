"""Make what `gpu_check` works on, from nothing: a tokenizer, shards of sentences with facts, models.

No download and no data kit is needed. Sentences are ids drawn by Zipf's law, with the lengths that
sentences of Wikipedia have. Half of them state a fact: a head of two tokens, and a tail of one.
Every mention is linked and may be injected.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from benchmarks.train_data import random_model
from schemas.shards import EXAMPLES, KNOWLEDGE, POLICY_BITS
from tests.trelm_train.world import write_shards

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
OPENING, CLOSING = 2, 3
RELATIONS, TAILS_PER_RELATION = 6, 40
TAILS = RELATIONS * TAILS_PER_RELATION
# A head is a given name and a family name, so that the names of many heads share their tokens.
GIVEN, FAMILIES = 30, 50
HEADS = GIVEN * FAMILIES
# Of the logarithm of the number of words: 27 words in the mean, 23 in the median.
LENGTH_MEAN, LENGTH_SPREAD = 3.15, 0.55
FEWEST_WORDS, MOST_WORDS = 8, 120
ROW_GROUP = 8192
POLICIES = POLICY_BITS["all"] | POLICY_BITS["long-tail-important"]


@dataclass(frozen=True, kw_only=True)
class Made:
    """Hold a tokenizer's words, and where each kind of them begins among the ids."""

    words: list[str]
    given: int
    family: int
    tail: int
    filler: int

    @classmethod
    def of(cls, vocabulary: int) -> Made:
        """Return the words of a vocabulary of this many tokens: special ones, names, then fillers."""
        given = len(SPECIAL)
        family, tail = given + GIVEN, given + GIVEN + FAMILIES
        filler = tail + TAILS
        names = [
            *(f"given{number}" for number in range(GIVEN)),
            *(f"family{number}" for number in range(FAMILIES)),
            *(f"tail{number}" for number in range(TAILS)),
        ]
        fillers = [f"word{number}" for number in range(vocabulary - filler)]
        words = [*SPECIAL, *names, *fillers]
        return cls(words=words, given=given, family=family, tail=tail, filler=filler)

    def head_ids(self, head: int) -> list[int]:
        """Return the two tokens of a head's name."""
        return [self.given + head % GIVEN, self.family + head // GIVEN]


def made_tokenizer(words: list[str]) -> Any:  # noqa: ANN401 - a class of transformers
    """Return a WordPiece tokenizer of whole words."""
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", OPENING), ("[SEP]", CLOSING)]
    )
    named = {f"{word.strip('[]').lower()}_token": word for word in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def tail_of(head: int, relation: int) -> int:
    """Return the tail of a head's fact, by its number among all tails: one of the relation's."""
    return relation * TAILS_PER_RELATION + (head * 7 + relation * 3) % TAILS_PER_RELATION


def example_columns(made: Made, sentences: int) -> dict[str, list[Any]]:
    """Return rows of `examples`."""
    rng = np.random.default_rng(0)
    lengths = np.clip(
        rng.lognormal(LENGTH_MEAN, LENGTH_SPREAD, sentences).astype(np.int64),
        FEWEST_WORDS,
        MOST_WORDS,
    )
    num_fillers = len(made.words) - made.filler
    rows: dict[str, list[Any]] = {name: [] for name in EXAMPLES.column_names}
    for number, length in enumerate(lengths.tolist()):
        # Zipf's law has no end: what lies beyond the vocabulary starts again.
        words = made.filler + rng.zipf(1.2, length) % num_fillers
        head, relation = int(rng.integers(HEADS)), number % RELATIONS
        tail = tail_of(head, relation)
        words[1:3], words[length - 2] = made.head_ids(head), made.tail + tail
        has_fact = number % 2 == 0
        values = {
            "doc_id": f"d{number}", "sentence_start": 0, "is_statement": False,
            "input_ids": [OPENING, *words.tolist(), CLOSING], "n_tokens": length + 2,
            "word_starts": list(range(1, length + 1)),
            "split": "validation" if number % 16 == 15 else "train",
            "span_start": [2, length - 1], "span_end": [4, length],
            "span_entity_row": [head, HEADS + tail], "span_frequency": [5, 50],
            "span_cosine": [0.9, 0.95], "span_policies": [POLICIES, POLICIES],
            "fact_head_span": [0] if has_fact else [], "fact_tail_span": [1] if has_fact else [],
            "fact_relation_row": [HEADS + TAILS + relation] if has_fact else [],
        }  # fmt: skip
        for name, value in values.items():
            rows[name].append(value)
    return rows


def knowledge_columns(made: Made) -> dict[str, list[Any]]:
    """Return rows of `knowledge`: heads, tails, relations."""
    first_relation = HEADS + TAILS
    facts = [[(r, HEADS + tail_of(head, r)) for r in range(RELATIONS)] for head in range(HEADS)]
    rows: dict[str, list[Any]] = {name: [] for name in KNOWLEDGE.column_names}
    for row in range(first_relation + RELATIONS):
        is_relation = row >= first_relation
        own = facts[row] if row < HEADS else []
        if row < HEADS:
            label_ids = made.head_ids(row)
        else:
            label_ids = [made.filler if is_relation else made.tail + row - HEADS]
        relation = row - first_relation
        tails = range(relation * TAILS_PER_RELATION, (relation + 1) * TAILS_PER_RELATION)
        values = {
            "row": row, "kind": "relation" if is_relation else "entity", "id": 1 + row,
            "label": " ".join(made.words[token] for token in label_ids), "label_ids": label_ids,
            "frequency": 0 if is_relation else 5, "band": None if is_relation else "tail",
            "bank_row": None if is_relation else row,
            "triple_relation_row": [first_relation + r for r, _ in own],
            "triple_other_row": [tail for _, tail in own], "triple_is_head": [True] * len(own),
            "true_tail_relation_row": [first_relation + r for r, _ in own],
            "true_tail_tail_row": [tail for _, tail in own],
            "tail_rows": [HEADS + tail for tail in tails] if is_relation else [],
        }  # fmt: skip
        for name, value in values.items():
            rows[name].append(value)
    return rows


def made_shards(folder: Path, vocabulary: int, sentences: int) -> str:
    """Make or find shards of this many sentences; return their folder."""
    shards = folder / f"shards-{vocabulary}-{sentences}"
    if not (shards / "manifest.json").exists():
        # What a process that was ended has left there by half.
        shutil.rmtree(shards, ignore_errors=True)
        made = Made.of(vocabulary)
        write_shards(
            shards,
            made_tokenizer(made.words),
            example_columns(made, sentences),
            knowledge_columns(made),
            ROW_GROUP,
        )
    return str(shards)


def made_model(folder: Path, shape: str, shards: str, spread: float = 0.02) -> str:
    """Make or find an untrained BERT without dropout; return its folder."""
    return random_model(folder, shape, shards, dropout=0.0, spread=spread)


def sentence_ids(vocabulary: int, sentences: int) -> list[Any]:
    """Return the words of sentences as arrays of ids, without the special tokens."""
    rows = example_columns(Made.of(vocabulary), sentences)["input_ids"]
    return [np.asarray(row[1:-1], np.int64) for row in rows]


__all__ = ["SPECIAL", "Made", "made_model", "made_shards", "made_tokenizer", "sentence_ids"]
