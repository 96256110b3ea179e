"""The counts of stage `stats` the naive way: one thread, plain loops, everything in memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations
from math import log
from typing import Any

Mention = tuple[str, int, str, int | None, float]  # document, sentence, surface, item, confidence


@dataclass
class Naive:
    """All counts of some mentions."""

    mentions: Counter[int] = field(default_factory=Counter)
    documents: Counter[int] = field(default_factory=Counter)
    sentences: Counter[int] = field(default_factory=Counter)
    expected: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    surfaces: Counter[tuple[str, int]] = field(default_factory=Counter)
    pair_sentences: Counter[tuple[int, int]] = field(default_factory=Counter)
    pair_documents: Counter[tuple[int, int]] = field(default_factory=Counter)
    fact_sentences: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    fact_documents: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    over_sentence: int = 0
    over_document: int = 0
    num_sentences: int = 0
    num_documents: int = 0


def count(
    rows: Iterable[Mention],
    triples: Iterable[tuple[int, int, int]],
    in_sentence: int,
    in_document: int,
) -> Naive:
    """Count, with the caps on pairs."""
    naive = Naive()
    by_sentence: dict[tuple[str, int], set[int]] = defaultdict(set)
    by_document: dict[str, set[int]] = defaultdict(set)
    for document, sentence, surface, qid, confidence in rows:
        linked = by_sentence[document, sentence], by_document[document]
        if qid is None:
            continue
        naive.mentions[qid] += 1
        naive.expected[qid] += round(confidence, 5)
        naive.surfaces[surface, qid] += 1
        for found in linked:
            found.add(qid)
    objects: dict[int, set[tuple[int, int, int]]] = defaultdict(set)
    for fact in triples:
        if fact[0] != fact[2]:
            objects[fact[0]].add(fact)
    naive.num_sentences, naive.num_documents = len(by_sentence), len(by_document)
    near: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for (document, _), entities in by_sentence.items():
        naive.sentences.update(entities)
        naive.fact_sentences.update(
            fact for qid in entities for fact in objects[qid] if fact[2] in entities
        )
        if len(entities) > in_sentence:
            naive.over_sentence += 1
            continue
        pairs = list(combinations(sorted(entities), 2))
        naive.pair_sentences.update(pairs)
        near[document].update(pairs)
    for document, entities in by_document.items():
        naive.documents.update(entities)
        naive.fact_documents.update(
            fact for qid in entities for fact in objects[qid] if fact[2] in entities
        )
        naive.over_document += len(entities) > in_document
        together = combinations(sorted(entities), 2) if len(entities) <= in_document else []
        naive.pair_documents.update(near[document] if len(entities) > in_document else together)
    return naive


def npmi(both: int, one: int, other: int, total: int) -> float:
    """Normalised pointwise mutual information, from counts."""
    if both in (0, total):
        return 1.0 if both else -1.0
    return log(both * total / (one * other)) / -log(both / total)


def tables(naive: Naive, least: int) -> dict[str, list[tuple[Any, ...]]]:
    """Rows of the tables, sorted by key, floats last."""
    of_surface: Counter[str] = Counter()
    for (surface, _), number in naive.surfaces.items():
        of_surface[surface] += number
    pairs = [
        pair
        for pair, number in naive.pair_documents.items()
        if number >= least or naive.pair_sentences[pair] >= least
    ]
    return {
        "entity_frequency": [
            (qid, number, naive.documents[qid], naive.sentences[qid], naive.expected[qid])
            for qid, number in sorted(naive.mentions.items())
        ],
        "surface_frequency": [
            (surface, qid, number, number / of_surface[surface], number / naive.mentions[qid])
            for (surface, qid), number in sorted(naive.surfaces.items())
        ],
        "cooccurrence": [
            (
                *pair, naive.pair_sentences[pair], naive.pair_documents[pair],
                npmi(naive.pair_sentences[pair], *(naive.sentences[qid] for qid in pair), naive.num_sentences),
                npmi(naive.pair_documents[pair], *(naive.documents[qid] for qid in pair), naive.num_documents),
            )
            for pair in sorted(pairs)
        ],
        "fact_support": [
            (*fact, naive.fact_sentences[fact], number) for fact, number in sorted(naive.fact_documents.items())
        ],
    }  # fmt: skip
