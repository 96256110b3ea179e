"""Score ranks as LAMA does: per relation, mean over relations (macro), mean over items (micro).

Goes in: ranks by relation. Comes out: plain values for JSON, and lines of text. The published score
is the macro P@1: relations count alike, however many items they have. A relation without an item has
no score, and is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from schemas.array_types import I64
from schemas.stats import BANDS

# Legend: M items of a relation.

MEASURES = ("p_at_1", "p_at_10", "mrr")
# Groups in the order of this list, then those with other names.
ORDER = (*BANDS, "never linked", "no QID", "stated", "not stated", "no triple")
# Labels of the items of each relation, in their order.
Labels = Mapping[str, Sequence[str]]


def scores(rank_M: I64) -> dict[str, float]:
    """Compute P@1, P@10 and mean reciprocal rank of at least one rank."""
    return {
        "p_at_1": float((rank_M <= 1).mean()),
        "p_at_10": float((rank_M <= 10).mean()),
        "mrr": float((1 / rank_M).mean()),
    }


def means(ranks: Mapping[str, I64]) -> dict[str, Any]:
    """Compute macro and micro scores of ranks by relation; null where there is no item."""
    of_relations = [rank_M for rank_M in ranks.values() if len(rank_M)]
    if not of_relations:
        return {"macro": None, "micro": None, "num_items": 0, "num_relations": 0}
    each = [scores(rank_M) for rank_M in of_relations]
    every = np.concatenate(of_relations)
    return {
        "macro": {name: float(np.mean([row[name] for row in each])) for name in MEASURES},
        "micro": scores(every),
        "num_items": len(every),
        "num_relations": len(of_relations),
    }


def grouped(ranks: Mapping[str, I64], labels: Labels) -> dict[str, Any]:
    """Compute the means of the items of each label; in a group a relation has its items there."""
    names = {label for of_relation in labels.values() for label in of_relation}
    return {
        name: means(
            {
                relation: rank_M[
                    np.asarray([label == name for label in labels[relation]], np.bool_)
                ]
                for relation, rank_M in ranks.items()
            }
        )
        for name in sorted(names, key=_place)
    }


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def filtered_means(
    filtered_ranks: Mapping[str, I64], num_others: Mapping[str, Sequence[int]]
) -> dict[str, Any] | None:
    """Compute the means of filtered ranks; None where no item has another right answer."""
    num_items = sum(1 for counts in num_others.values() for count in counts if count)
    if not num_items:
        return None
    whole = means(filtered_ranks)
    return {
        "macro": whole["macro"],
        "micro": whole["micro"],
        "num_items_with_other_answers": num_items,
    }


def readable(result: dict[str, Any]) -> str:
    """Return the result as lines of text."""
    lines = [_score_line(name, row["n"], row) for name, row in result["relations"].items()]
    for name, corpus in result["corpora"].items():
        lines += _mean_lines(f"{name} ", corpus)
    lines += _mean_lines("all " if result["corpora"] else "", result)
    lines += _filtered_lines(result["filtered"])
    for title, groups in result["groups"].items():
        lines += [_group_line(f"{title} {name}", group) for name, group in groups.items()]
    lines.append(f"ranked over {result['candidates']} tokens; UHN: {result['uhn']}")
    lines += _left_out_lines(result)
    if result.get("multi_token"):
        lines += _multi_token_lines(result["multi_token"])
    return "\n".join(lines)


def _mean_lines(title: str, result: dict[str, Any]) -> list[str]:
    return [
        _score_line(f"{title}{name}", result["num_items"], result[name])
        for name in ("macro", "micro")
        if result[name]
    ]


def _filtered_lines(filtered: dict[str, Any] | None) -> list[str]:
    if filtered is None:
        return []
    num_items = filtered["num_items_with_other_answers"]
    heading = f"without the other right answers, which {num_items} items have:"
    return [heading] + [
        _score_line(f"  {name}", None, filtered[name]) for name in ("macro", "micro")
    ]


def _left_out_lines(result: dict[str, Any]) -> list[str]:
    """Say what was left out, and name what is missing."""
    lines = []
    for title in ("excluded", "notes"):
        if counts := [f"{count} {name}" for name, count in result[title].items()]:
            lines.append(f"{title}: " + ", ".join(counts))
    for title, key in (
        ("relations without a probe file", "missing_relations"),
        ("relations without an item", "relations_without_items"),
        ("probe files without a template, not asked", "files_without_template"),
        ("corpora of LAMA that are not there", "missing_corpora"),
        ("relations to which UHN does not apply", "relations_without_uhn"),
    ):
        if result[key]:
            lines.append(f"{title}: {', '.join(result[key])}")
    return lines


def _multi_token_lines(result: dict[str, Any]) -> list[str]:
    """Show the other protocol under a heading of its own."""
    lines = [
        "",
        f"another protocol: objects of any number of tokens ({result['method']}), ranked among the "
        f"objects of their relation by {result['score']}",
        *(
            _score_line(name, row["n"], row) + f"  of {row['num_candidates']}"
            for name, row in result["relations"].items()
        ),
        *_mean_lines("", result),
        *_filtered_lines(result["filtered"]),
        *(
            _group_line(f"tokens {name}", group)
            for name, group in result["groups"]["tokens"].items()
        ),
    ]
    if result["chance_p_at_1"] is not None:
        lines.append(f"chance: macro P@1 {result['chance_p_at_1']:.3f}")
    if counts := [f"{count} {name}" for name, count in result["excluded"].items()]:
        lines.append("excluded: " + ", ".join(counts))
    return lines


def _score_line(name: str, num_items: int | None, row: dict[str, Any]) -> str:
    count = " " * 8 if num_items is None else f" n {num_items:5}"
    return (
        f"{name:14}{count}  P@1 {row['p_at_1']:.3f}  P@10 {row['p_at_10']:.3f}  "
        f"MRR {row['mrr']:.3f}"
    )


def _group_line(name: str, group: dict[str, Any]) -> str:
    """Show a group: its size first, since a small group says little."""
    line = f"{name:26} n {group['num_items']:5} in {group['num_relations']:2} relations"
    for title in ("macro", "micro"):
        if group[title]:
            line += f"  {title} P@1 {group[title]['p_at_1']:.3f} MRR {group[title]['mrr']:.3f}"
    return line
