"""Whether two number formats choose the same: ranks of 1 - cosine, and the decisions of the
injection policies.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc
from scipy.stats import spearmanr

from pipeline.engine.tables import RunPaths, read_table
from pipeline.shards.policies import DISTANCE_DECIMALS, PolicyLimits, default_r_freq, policy_bits
from schemas import LINKS
from schemas.shards import POLICY_BITS

POLICIES = ("importance", "long-tail-important", "klt")  # those that look at the cosine
Rows = dict[str, list[Any]]


def agreement(run: str, full: Rows, half: Rows) -> dict[str, Any]:
    """Of the rows of two runs of the stage over the same mentions.

    Every entity counts as one with a usable triple: those without are never chosen, so they would
    agree for nothing.
    """
    sentences, frequency, limits = _corpus(run, full)
    found = [np.array(rows["cosine"], np.float32) for rows in (full, half)]
    reach = np.ones(len(sentences))
    bits = [
        policy_bits(sentences, cosine, frequency, reach, _with_median(limits, cosine))
        for cosine in found
    ]
    return {
        "spearman": float(spearmanr(1 - found[0], 1 - found[1]).statistic),
        "max_difference": float(np.abs(found[0] - found[1]).max()),
        "mean_difference": float(np.abs(found[0] - found[1]).mean()),
        "median_distance": float(np.median(1 - found[0])),
        "policies": {
            name: _decisions(*((one & POLICY_BITS[name]) > 0 for one in bits)) for name in POLICIES
        },
    }


def _decisions(left: np.ndarray, right: np.ndarray) -> dict[str, float]:
    either = np.count_nonzero(left | right)
    return {
        "agreement": float(np.mean(left == right)),
        "chosen": float(np.mean(left)),
        "chosen_by_both_of_either": np.count_nonzero(left & right) / max(either, 1),
    }


def _corpus(run: str, rows: Rows) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Sentence and frequency of each mention; linked mentions and entities in all."""
    links = read_table(
        RunPaths(root=run).files("link", LINKS),
        LINKS,
        ["doc_id", "start", "end", "sentence_start", "qid"],
    )
    links = links.filter(pc.is_valid(links["qid"])).to_pydict()
    counts = Counter(links["qid"])
    places = zip(links["doc_id"], links["start"], links["end"], strict=True)
    of_place = dict(
        zip(places, zip(links["sentence_start"], links["qid"], strict=True), strict=True)
    )
    numbers: dict[tuple[str, int], int] = {}
    sentences, frequency = [], []
    for doc_id, start, end in zip(rows["doc_id"], rows["start"], rows["end"], strict=True):
        sentence, qid = of_place[doc_id, start, end]
        sentences.append(numbers.setdefault((doc_id, sentence), len(numbers)))
        frequency.append(counts[qid])
    return np.array(sentences), np.array(frequency), (counts.total(), len(counts))


def _with_median(sizes: tuple[int, int], cosine: np.ndarray) -> PolicyLimits:
    distance = np.round(1 - cosine.astype(np.float64), DISTANCE_DECIMALS)
    return PolicyLimits(
        r_freq=default_r_freq(*sizes),
        median_distance=round(float(np.median(distance)), 4),
        klt_r_min=2,
        klt_r_max=100,
    )
