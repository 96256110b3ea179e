"""Say whether two number formats choose the same: ranks of 1 - cosine, decisions of injection
policies.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc
from scipy.stats import spearmanr

from benchmarks.harness import ratio
from pipeline.engine.tables import RunPaths, read_table
from pipeline.shards.policies import DISTANCE_DECIMALS, PolicyLimits, policy_bits
from pipeline.stats.rare_entities import default_r_freq
from schemas import LINKS
from schemas.array_types import Bools
from schemas.shards import POLICY_BITS

POLICIES = ("importance", "long-tail-important", "klt")  # those that look at the cosine
Rows = dict[str, list[Any]]


def agreement(run: str, full: Rows, half: Rows) -> dict[str, Any]:
    """Compare the rows of two runs of the stage over the same mentions.

    Every entity counts as one with a usable triple: those without are never chosen, so they would
    agree for nothing.
    """
    sentences, frequency, limits = _corpus(run, full)
    cosines = [np.array(rows["cosine"], np.float32) for rows in (full, half)]
    reach = np.ones(len(sentences))
    bits = [
        policy_bits(sentences, cosine, frequency, reach, _with_median(limits, cosine))
        for cosine in cosines
    ]
    # NaN where one side has the same distance for every mention: then there is no rank.
    spearman = float(spearmanr(1 - cosines[0], 1 - cosines[1]).statistic)
    difference = np.abs(cosines[0] - cosines[1])
    return {
        "spearman": spearman if math.isfinite(spearman) else None,
        "max_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "median_distance": float(np.median(1 - cosines[0])),
        "policies": {
            name: _decisions(*((one & POLICY_BITS[name]) > 0 for one in bits)) for name in POLICIES
        },
    }


def _decisions(left: Bools, right: Bools) -> dict[str, float | None]:
    """Return how often two formats decide alike; the share of what either chose is None if nothing
    was chosen.
    """
    num_both, num_either = int(np.sum(left & right)), int(np.sum(left | right))
    return {
        "agreement": float(np.mean(left == right)),
        "chosen": float(np.mean(left)),
        "chosen_by_both_of_either": ratio(num_both, num_either),
    }


def _corpus(run: str, rows: Rows) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Return sentence and frequency of each mention; and how many linked mentions and entities
    there are.
    """
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
