"""A sentence as training examples: windows of whole words, spans and facts as token positions.

Goes in: a sentence's tokens and its linked mentions. Comes out: one example, or several where the sentence is long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.core.aliases import hash64


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """A linked mention as half-open token positions of the sentence (no special tokens)."""

    start: int
    end: int
    mention: int  # number of the mention


@dataclass(slots=True)
class Window:
    """A run of tokens of a sentence, whole words and whole spans, with the spans inside it."""

    start: int
    end: int
    spans: list[TokenSpan] = field(default_factory=list)


def cut_windows(num_tokens: int, words: np.ndarray, spans: Sequence[TokenSpan], width: int) -> tuple[list[Window], int]:
    """Consecutive windows of at most `width` tokens, about equal, that cut no span, and no word where it can be helped.

    Args:
        num_tokens: tokens of the sentence.
        words: word number of each token, shape (num_tokens,).
        spans: in order, none overlapping.
        width: tokens that fit, special tokens not counted.

    Returns:
        The windows, and how many spans are longer than a window and are lost.
    """
    whole = [span for span in spans if span.end - span.start <= width]
    windows: list[Window] = []
    start = 0
    while start < num_tokens:
        left = num_tokens - start
        step = math.ceil(left / math.ceil(left / width))
        end = num_tokens if left <= width else _cut(start, step, width, words, whole)
        inside = [span for span in whole if start <= span.start and span.end <= end]
        windows.append(Window(start, end, inside))
        start = end
    return windows, len(spans) - sum(len(window.spans) for window in windows)


def _cut(start: int, step: int, width: int, words: np.ndarray, spans: Sequence[TokenSpan]) -> int:
    """The place nearest to start + step (earlier ones first) that is inside no span and, if one is there, starts a word."""
    inside = {place for span in spans for place in range(span.start + 1, span.end)}
    places = [*range(start + step, start, -1), *range(start + step + 1, start + width + 1)]
    free = [place for place in places if place not in inside]
    at_words = [place for place in free if words[place] != words[place - 1]]
    return (at_words or free)[0]  # a span fits into a window: its start or its end is free


def word_starts(words: np.ndarray) -> np.ndarray:
    """Positions where a word starts. A token without a word (-1) is a word of its own."""
    if len(words) == 0:
        return np.empty(0, np.int64)
    return np.flatnonzero((np.diff(words, prepend=-2) != 0) | (words < 0))


def facts_between(
    rows: Sequence[int], tails: Mapping[int, Sequence[tuple[int, int]]]
) -> tuple[list[int], list[int], list[int]]:
    """Facts among the entities of a window: head span, relation row, tail span. First mention stands for an entity.

    Args:
        rows: knowledge row of each span's entity.
        tails: head row -> its (relation row, tail row).
    """
    first: dict[int, int] = {}
    for span, row in enumerate(rows):
        first.setdefault(row, span)
    heads, relations, tail_spans = [], [], []
    for row, span in first.items():
        for relation, tail in tails.get(row, ()):
            if tail in first and tail != row:
                heads.append(span)
                relations.append(relation)
                tail_spans.append(first[tail])
    return heads, relations, tail_spans


def split_of(doc_id: str, seed: int, validation_share: float) -> str:
    """Whole documents go to one split, by a hash: the same on every machine, and nothing moves when documents are added."""
    place = hash64(f"split:{seed}:{doc_id}") / 2**64
    return "validation" if place < validation_share else "train"


def shuffle_key(doc_id: str, start: int, seed: int) -> int:
    """Where a row goes in the shuffled order."""
    return hash64(f"order:{seed}:{doc_id}:{start}")
