"""Disambiguation: a linear score per candidate, a softmax over the candidates of a mention and NIL.

Goes in: features of candidates, flat. Comes out: probabilities, and what each group of features contributed. A conditional
logit (McFadden 1974): the probabilities are those under which the gold links are likeliest, so they are calibrated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.link.features import FEATURES, GROUPS
from schemas.array_types import Array

ROUND_DECIMALS = 5  # model floats are rounded before they select anything
FORMAT = "trelm linker weights 1"


@dataclass(frozen=True, slots=True)
class Model:
    """Weights of the features, and the bias of every candidate; NIL has score 0."""

    bias: float
    weights: Mapping[str, float]
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The file's text."""
        content = {
            "format": FORMAT,
            "bias": self.bias,
            "weights": dict(self.weights),
            "about": dict(self.about),
        }
        return json.dumps(content, indent=1, sort_keys=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Model:
        """Back from a file's text.

        Raises:
            ValueError: not such a file, or a feature that this program does not know; names the file.
        """
        try:
            raw = json.loads(text)
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']!r}, wanted {FORMAT!r}")
            weights = {str(name): float(value) for name, value in raw["weights"].items()}
            unknown = sorted(set(weights) - set(FEATURES))
            if unknown:
                raise ValueError(f"unknown feature(s) {', '.join(unknown)}")
            model = cls(float(raw["bias"]), weights, dict(raw.get("about", {})))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"{where}: no weights of a linker ({type(error).__name__}: {error})"
            ) from error
        if not all(np.isfinite([model.bias, *model.weights.values()])):
            raise ValueError(f"{where}: a weight is not finite")
        return model


# Set by hand, for a knowledge base and a language that nothing was trained for: see docs/linking.md.
BY_HAND = Model(
    -7.0,
    {
        "prior": 0.5, "primary": 0.5, "variant": -0.3, "inflected": -1.0, "reused": -1.0, "partial": -2.0,
        "fuzzy": -1.0, "inexact": 0.5, "similarity": 5.0, "label": 2.0, "title": 0.5, "near": 0.3, "window": 0.3,
        "document": 3.0, "neighbours": 1.0, "shared": 0.3, "mentioned": 0.5, "type": 2.0,
        "semantic": 2.0,
    },
)  # fmt: skip


def contributions(features: Mapping[str, Array], model: Model) -> dict[str, Array]:
    """Per group of features, what it adds to the score of each candidate; score = bias + their sum."""
    length = len(features["prior"])
    found = {}
    for group, names in GROUPS.items():
        total = np.zeros(length, np.float64)
        for name in names:
            if name in features and model.weights.get(name):
                total += model.weights[name] * features[name]
        found[group] = total
    return found


def probabilities(scores: Array, mentions: Array, num_mentions: int) -> Array:
    """P(candidate) of a softmax over the candidates of each mention and NIL, whose score is 0. Shape (c,) in and out.

    `mentions` is the number of each candidate's mention, ascending.
    """
    top = np.zeros(num_mentions)
    np.maximum.at(top, mentions, scores)
    exponents = np.exp(scores - top[mentions])
    total = np.exp(-top) + np.bincount(mentions, exponents, num_mentions)
    return np.round(exponents / total[mentions], ROUND_DECIMALS).astype(np.float32)


def ranked(mentions: Array, probability: Array, popularity: Array, qids: Array) -> Array:
    """Order of the candidates: by mention, most probable first, then most popular, then the lower id."""
    return np.lexsort((qids, -popularity.astype(np.int64), -probability, mentions))
