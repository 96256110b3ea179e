"""Score candidates by a linear model, and turn scores into probabilities by a softmax with NIL.

Goes in: features of candidates, flat. Comes out: probabilities, and what each group of features
added. It is a conditional logit (McFadden 1974): its weights are those under which the gold links
are most likely, so the probabilities are calibrated.

Legend: c candidates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.link.features import FEATURES, GROUPS
from schemas.array_types import F32, F64, I64, U32, Array

# Probabilities are rounded before they select anything, so that the last bits decide nothing.
ROUND_DECIMALS = 5
FORMAT = "trelm linker weights 2"


@dataclass(frozen=True, slots=True)
class Model:
    """Hold the weights of the features, and the bias of every candidate; NIL has score 0."""

    bias: float
    weights: Mapping[str, float]
    # How the weights were made, for readers of the file.
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of a weights file."""
        content = {
            "format": FORMAT,
            "bias": self.bias,
            "weights": dict(self.weights),
            "about": dict(self.about),
        }
        return json.dumps(content, indent=1, sort_keys=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Model:
        """Return the model that the text of a weights file describes.

        Args:
            text: of the file.
            source: the file's name, for errors.

        Raises:
            ValueError: it is no such file, or has a feature that this program does not know.
        """
        try:
            raw = json.loads(text)
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']!r}, but must be {FORMAT!r}")
            weights = {str(name): float(value) for name, value in raw["weights"].items()}
            unknown = sorted(set(weights) - set(FEATURES))
            if unknown:
                raise ValueError(f"unknown feature(s) {', '.join(unknown)}")
            model = cls(float(raw["bias"]), weights, dict(raw.get("about", {})))
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise ValueError(
                f"{source}: no weights of a linker ({type(error).__name__}: {error})"
            ) from error

        # JSON as Python reads it may hold NaN and Infinity.
        if not all(np.isfinite([model.bias, *model.weights.values()])):
            raise ValueError(f"{source}: a weight is not finite")
        return model


# For a knowledge base and a language for which nothing was trained, and where training starts: see
# docs/linking.md.
BY_HAND = Model(
    -2.5,
    {
        "prior": 0.6, "linked": 0.8, "age": 0.3, "variant": -1.0, "inflected": -0.5, "reused": 1.0,
        "orphan": -1.5, "partial": -1.5, "fuzzy": -2.5, "similarity": 2.0, "label": 1.3, "same": 1.0,
        "ending": 0.2, "opening": 0.3, "common": -2.0, "proper": -1.0, "initials": 1.5, "code": -1.0,
        "near": 0.4, "window": 0.1, "document": 1.5, "others": 1.3, "others_near": 0.8,
        "neighbours": 1.0, "shared": 0.5, "mentioned": 0.7, "kin": 1.5, "type": 2.0, "mononym": -1.0,
        "sole": 1.0, "phrase": -4.0, "word": -4.0, "noun_word": -3.0, "semantic": 2.0,
    },
)  # fmt: skip


def contributions(features: Mapping[str, Array], model: Model) -> dict[str, F64]:
    """Return what each group of features adds to the score of each candidate, shape (c,) each.

    A score is the bias + their sum.
    """
    num_candidates = len(features["prior"])
    added = {}
    for group, names in GROUPS.items():
        total = np.zeros(num_candidates, np.float64)
        for name in names:
            # A feature without a weight costs nothing, and `semantic` may not be computed at all.
            if name in features and model.weights.get(name):
                total += model.weights[name] * features[name]
        added[group] = total
    return added


def probabilities(scores: F64, mentions: I64, num_mentions: int) -> F32:
    """Return P(candidate): a softmax over the candidates of each mention and NIL, whose score is 0.

    Args:
        scores: shape (c,).
        mentions: number of each candidate's mention, ascending, shape (c,).
        num_mentions: how many mentions there are.
    """
    # Less the highest score of the mention (NIL included), so that no exponent overflows.
    # NIL adds exp(0 - top) to the total.
    top = np.zeros(num_mentions)
    np.maximum.at(top, mentions, scores)
    exponents = np.exp(scores - top[mentions])
    total = np.exp(-top) + np.bincount(mentions, exponents, num_mentions)
    return np.round(exponents / total[mentions], ROUND_DECIMALS).astype(np.float32)


def ranked(mentions: I64, probability: F32, popularity: U32, qids: U32) -> I64:
    """Return the order of the candidates, as positions.

    By mention, then the most probable first, then the most popular, then the lower id.
    """
    return np.lexsort((qids, -popularity.astype(np.int64), -probability, mentions))
