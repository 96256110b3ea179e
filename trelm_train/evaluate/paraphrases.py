"""Ask every fact in several ways (ParaRel, Elazar et al. 2021): is a model right, and consistent?

Goes in: a folder of facts in LAMA's form, and a folder of patterns, `P….jsonl` with rows
`{"pattern": "[X] is the capital of [Y]."}`; the first pattern is the base. Comes out: accuracy and
consistency by relation, and a row per question where a file is named. An item counts if its object
is one token and every pattern can ask it; the candidates are the objects of the relation's facts.
Costs a forward pass per fact and pattern, many of them in one batch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schemas.array_types import I64
from trelm_train.evaluate.answers import pass_logits, ranks_of
from trelm_train.evaluate.lama_files import read_jsonl
from trelm_train.evaluate.lama_rows import skip_reason
from trelm_train.evaluate.paraphrase_files import files_of, read_patterns, relation_files
from trelm_train.evaluate.paraphrase_scores import (
    TIED,
    Counts,
    RelationAnswers,
    article_fits,
    count,
    macro,
    micro,
)
from trelm_train.evaluate.prober import Item, Prober
from trelm_train.reporting.progress import counting

# Legend: M questions of a batch, V vocabulary, C candidates, P patterns, I items.


@dataclass(frozen=True, kw_only=True, slots=True)
class ParaphraseOptions:
    """Say where facts and patterns are."""

    probes: Path
    patterns: Path
    # Items per relation; 0: all.
    limit: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """Hold the questions of one relation: an item per pattern and fact."""

    name: str
    patterns: tuple[str, ...]
    items_PI: list[list[Item]]
    # Token ids of all objects, ascending.
    candidates: I64

    @property
    def items(self) -> list[Item]:
        """Return the facts, as the base pattern asks them."""
        return self.items_PI[0]


@dataclass(slots=True)
class Paraphrases:
    """Hold the relations that have an item, and what was left out."""

    relations: list[Relation] = field(default_factory=list)
    # Reason → rows that do not count for it.
    excluded: Counter[str] = field(default_factory=Counter)
    without_items: list[str] = field(default_factory=list)
    # Files of one folder that the other one lacks.
    without_patterns: list[str] = field(default_factory=list)
    without_facts: list[str] = field(default_factory=list)


def collect(prober: Prober, options: ParaphraseOptions) -> Paraphrases:
    """Read every question that counts, by relation.

    Raises:
        ConfigError: a file is unreadable or wrong, or no relation has both facts and patterns.
    """
    both = relation_files(options.probes, options.patterns)
    read = Paraphrases(
        without_patterns=[name for name in files_of(options.probes) if name not in both],
        without_facts=[name for name in files_of(options.patterns) if name not in both],
    )
    for name, (facts, patterns) in both.items():
        relation = _relation(prober, facts, read_patterns(patterns), options.limit, read.excluded)
        if relation.items:
            read.relations.append(relation)
        else:
            read.without_items.append(name)
    return read


def _relation(
    prober: Prober, path: Path, patterns: tuple[str, ...], limit: int, excluded: Counter[str]
) -> Relation:
    """Read the facts of one relation; count what is left out.

    Raises:
        ConfigError: the file is unreadable.
    """
    items_PI: list[list[Item]] = [[] for _ in patterns]
    candidates: set[int] = set()
    pairs: set[tuple[str, str]] = set()

    for row in read_jsonl(path):
        base = skip_reason(row, pairs, uhn=False, uncased=prober.is_uncased) or prober.item(
            patterns[0], row
        )
        if isinstance(base, str):
            excluded[base] += 1
            continue
        # With a limit too, the candidates are those of all facts: chance stays what it is.
        candidates.add(base.cloze.gold)
        if limit and len(items_PI[0]) >= limit:
            continue

        asked = [base, *(prober.item(pattern, row) for pattern in patterns[1:])]
        reasons = [item for item in asked if isinstance(item, str)]
        if reasons:
            excluded[reasons[0]] += 1
            continue
        for items, item in zip(items_PI, asked, strict=True):
            assert not isinstance(item, str)
            items.append(item)

    return Relation(
        name=path.stem,
        patterns=patterns,
        items_PI=items_PI,
        candidates=np.asarray(sorted(candidates), np.int64),
    )


def ask_all(prober: Prober, read: Paraphrases) -> dict[str, RelationAnswers]:
    """Ask every question, and show how many are answered.

    Raises:
        NotFiniteError: the model gives NaN or infinite logits.
    """
    answers: dict[str, RelationAnswers] = {}
    num_done = 0
    with counting(sum(map(_num_questions, read.relations)), "questions") as show:
        for relation in read.relations:
            answers[relation.name] = ask_relation(prober, relation)
            num_done += _num_questions(relation)
            show(num_done)
    return answers


def _num_questions(relation: Relation) -> int:
    return len(relation.patterns) * len(relation.items)


def ask_relation(prober: Prober, relation: Relation) -> RelationAnswers:
    """Ask every fact of a relation by every pattern; the answers are P x I."""
    clozes = [item.cloze for item in chain.from_iterable(relation.items_PI)]
    rank, best = np.zeros(len(clozes), np.int64), np.zeros(len(clozes), np.int64)
    log_p = np.zeros(len(clozes), np.float32)
    candidate_C = torch.from_numpy(relation.candidates).to(prober.model.device)

    def take(number_M: I64, logits_MV: Tensor) -> None:
        golds = [clozes[number].gold for number in number_M.tolist()]
        gold_M = torch.tensor(golds, device=logits_MV.device)
        rank[number_M], best[number_M], log_p[number_M] = (
            answer.cpu().numpy() for answer in judge(logits_MV, gold_M, candidate_C)
        )

    pass_logits(prober.model, prober.tokenizer.pad_token_id or 0, clozes, take)
    shape = (len(relation.patterns), len(relation.items))
    fits = [
        [article_fits(pattern, item.row.obj_label) for item in relation.items]
        for pattern in relation.patterns
    ]
    return RelationAnswers(
        rank_PI=rank.reshape(shape),
        best_PI=best.reshape(shape),
        log_p_PI=log_p.reshape(shape),
        fits_PI=np.asarray(fits, np.bool_).reshape(shape),
    )


def judge(logits_MV: Tensor, gold_M: Tensor, candidate_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rank of each gold token among the candidates, the best candidate (TIED where it is
    not alone) and the gold token's log-probability over the vocabulary, each as M.
    """
    gold_M1 = logits_MV.gather(1, gold_M[:, None])
    logits_MC = logits_MV[:, candidate_C]
    best_M1, place_M1 = logits_MC.max(1, keepdim=True)
    is_tied_M = ranks_of(logits_MC, best_M1) > 1
    return (
        ranks_of(logits_MC, gold_M1),
        candidate_C[place_M1[:, 0]].masked_fill(is_tied_M, TIED),
        gold_M1[:, 0] - logits_MV.logsumexp(1),
    )


def result_of(read: Paraphrases, answers: dict[str, RelationAnswers]) -> dict[str, Any]:
    """Score the answers: rates by relation, over relations (macro) and over all items (micro)."""
    counts: dict[str, Counts] = {}
    rows: dict[str, dict[str, Any]] = {}
    for relation in read.relations:
        of_relation = answers[relation.name]
        gold_I = np.asarray([item.cloze.gold for item in relation.items], np.int64)
        counts[relation.name] = count(of_relation, gold_I, len(relation.candidates))
        by_pattern = (of_relation.rank_PI == 1).mean(1).tolist()
        rows[relation.name] = {
            "n": len(relation.items),
            "patterns": len(relation.patterns),
            "candidates": len(relation.candidates),
            **counts[relation.name].rates(),
            "accuracy_by_pattern": dict(zip(relation.patterns, by_pattern, strict=True)),
        }

    return {
        "macro": macro(list(counts.values())) if counts else None,
        "micro": micro(counts.values()) if counts else None,
        "num_items": sum(row["n"] for row in rows.values()),
        "num_questions": sum(row["n"] * row["patterns"] for row in rows.values()),
        "num_relations": len(rows),
        "relations": rows,
        "relations_with_one_pattern": [name for name, row in rows.items() if row["patterns"] == 1],
        "relations_without_items": read.without_items,
        "relations_without_patterns": read.without_patterns,
        "relations_without_facts": read.without_facts,
        "excluded": dict(sorted(read.excluded.items())),
    }


def readable(result: dict[str, Any]) -> str:
    """Return the result as a few lines of text."""
    lines = [
        f"{name:8} n {row['n']:5}  patterns {row['patterns']:2}  {_rates(row)}"
        for name, row in result["relations"].items()
    ]
    for name in ("macro", "micro"):
        if result[name]:
            lines.append(f"{name:8} n {result['num_items']:5}  {'':11}  {_rates(result[name])}")

    if result["excluded"]:
        reasons = [f"{number} {reason}" for reason, number in result["excluded"].items()]
        lines.append("excluded: " + ", ".join(reasons))
    for title, key in (
        ("with one pattern, so without pairs", "relations_with_one_pattern"),
        ("without an item", "relations_without_items"),
        ("without a file of patterns", "relations_without_patterns"),
        ("without a file of facts", "relations_without_facts"),
    ):
        if result[key]:
            lines.append(f"relations {title}: {', '.join(result[key])}")
    return "\n".join(lines)


def _rates(row: dict[str, Any]) -> str:
    shown = (
        ("base", "accuracy_base"),
        ("mean", "accuracy_mean"),
        ("all patterns", "consistent_accuracy"),
        ("consistency", "consistency"),
        ("chance", "chance"),
        ("majority", "majority"),
    )
    return "  ".join(
        f"{title} {'none ' if row[key] is None else format(row[key], '.3f')}"
        for title, key in shown
    )
