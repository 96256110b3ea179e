"""Rows of `examples` the plain way: one sentence, mention and token after another.

What the stage must write, up to order.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.arrays.hashing import hash64
from pipeline.encoder.tokenizer import Encoding, TextTokenizer
from pipeline.shards.policies import PolicyLimits, policy_bits
from tests.pipeline.cases import Row, rows_of


@dataclass
class Mention:
    start: int
    end: int
    qid: int


@dataclass
class Sentence:
    doc_id: str
    start: int
    end: int
    mentions: list[Mention] = field(default_factory=list)


@dataclass
class Window:
    start: int
    end: int
    spans: list[tuple[int, int, Mention]]


def keep_apart(spans: list[tuple[int, int]]) -> list[bool]:
    """Each that begins after all that stay before it."""
    kept: list[bool] = []
    end = -1
    for low, high in spans:
        kept.append(low >= end)
        end = high if kept[-1] else end
    return kept


def touching(encoding: Encoding, start: int, end: int) -> list[int]:
    """Tokens that touch the code points [start, end)."""
    return [
        place
        for place, (low, high) in enumerate(
            zip(encoding.starts.tolist(), encoding.ends.tolist(), strict=True)
        )
        if high > start and low < end
    ]


def cut_windows(words: list[int], spans: list[tuple[int, int, Any]], width: int) -> list[Window]:
    """Consecutive windows, about equal, each cut at the nearest place that is in no span, and
    starts a word if one does.
    """
    whole = [span for span in spans if span[1] - span[0] <= width]
    inside = {place for low, high, _ in whole for place in range(low + 1, high)}
    windows, start = [], 0
    while start < len(words):
        left = len(words) - start
        step = math.ceil(left / math.ceil(left / width))
        end = len(words)
        if left > width:
            places = [*range(start + step, start, -1), *range(start + step + 1, start + width + 1)]
            free = [place for place in places if place not in inside]
            end = ([place for place in free if words[place] != words[place - 1]] or free)[0]
        windows.append(
            Window(start, end, [span for span in whole if start <= span[0] and span[1] <= end])
        )
        start = end
    return windows


def facts_between(
    rows: list[int], tails: dict[int, list[tuple[int, int]]]
) -> tuple[list[int], list[int], list[int]]:
    """Head span, relation row, tail span of the facts among some spans; an entity's first mention
    stands for it.
    """
    first: dict[int, int] = {}
    for span, row in enumerate(rows):
        first.setdefault(row, span)
    found = [
        (span, relation, first[tail])
        for row, span in first.items()
        for relation, tail in tails.get(row, ())
        if tail in first and tail != row
    ]
    heads, relations, ends = zip(*found, strict=True) if found else ((), (), ())
    return list(heads), list(relations), list(ends)


def sentences_of(run: Path) -> list[Sentence]:
    """Sentences with the linked mentions that lie in them, longer ones first where they overlap."""
    by_document: dict[str, list[Sentence]] = defaultdict(list)
    for doc_id, start, end in sorted(rows_of(run, "sentences")):
        by_document[doc_id].append(Sentence(doc_id, start, end))
    links = sorted(
        (row[0], row[1], -row[2], row[7]) for row in rows_of(run, "links") if row[7] is not None
    )
    for doc_id, start, minus_end, qid in links:
        for sentence in by_document[doc_id]:
            taken = sentence.mentions
            fits = sentence.start <= start and -minus_end <= sentence.end
            if fits and (not taken or start >= taken[-1].end):
                taken.append(Mention(start, -minus_end, qid))
    return [sentence for sentences in by_document.values() for sentence in sentences]


class NaiveShards:
    """Everything that rows are made of, as dictionaries."""

    def __init__(self, run: Path, tokenizer: TextTokenizer, max_tokens: int) -> None:
        self.run, self.tokenizer, self.width = run, tokenizer, max_tokens - 2
        self.texts = {row[0]: row[2] for row in rows_of(run, "documents")}
        self.cosines = {row[:3]: row[3] for row in rows_of(run, "importance")}
        knowledge = [row for row in rows_of(run, "knowledge") if row[1] == "entity" and row[5]]
        self.rows = {row[2]: row[0] for row in knowledge}
        self.frequency = {row[0]: row[5] for row in knowledge}
        self.tails = {row[0]: list(zip(row[11], row[12], strict=True)) for row in knowledge}
        self.counters: Counter[str] = Counter()

    def examples(self, reach: dict[int, int], limits: PolicyLimits) -> list[Row]:
        """All rows of `examples`, sorted."""
        rows = []
        for sentence in sentences_of(self.run):
            text = self.texts[sentence.doc_id][sentence.start : sentence.end]
            encoding = self.tokenizer.encode([text])[0]
            bits = self._bits(sentence, reach, limits)
            for window in cut_windows(
                encoding.words.tolist(), self._spans(sentence, encoding), self.width
            ):
                rows.append(self._row(sentence, encoding, window, bits))
        return sorted(rows, key=repr)

    def _bits(
        self, sentence: Sentence, reach: dict[int, int], limits: PolicyLimits
    ) -> dict[int, int]:
        mentions = sentence.mentions
        rows = [self.rows.get(mention.qid, -1) for mention in mentions]
        found = policy_bits(
            np.zeros(len(rows), np.int64),
            np.array([self._cosine(sentence, mention) for mention in mentions], np.float32),
            np.array([self.frequency.get(row, 0) for row in rows], np.int64),
            np.array([reach.get(row, 0) for row in rows], np.int64),
            limits,
        )
        return {mention.start: int(bits) for mention, bits in zip(mentions, found, strict=True)}

    def _cosine(self, sentence: Sentence, mention: Mention) -> float:
        return self.cosines.get((sentence.doc_id, mention.start, mention.end), float("nan"))

    def _spans(self, sentence: Sentence, encoding: Encoding) -> list[tuple[int, int, Mention]]:
        spans: list[tuple[int, int, Mention]] = []
        for mention in sentence.mentions:
            tokens = touching(
                encoding, mention.start - sentence.start, mention.end - sentence.start
            )
            if not tokens or mention.qid not in self.rows:
                self.counters["no token" if not tokens else "no row"] += 1
            elif spans and tokens[0] < spans[-1][1]:
                self.counters["shared token"] += 1
            else:
                spans.append((tokens[0], tokens[-1] + 1, mention))
        return spans

    def _row(
        self, sentence: Sentence, encoding: Encoding, window: Window, bits: dict[int, int]
    ) -> Row:
        opening, closing = self.tokenizer.frame
        tokens, words = (
            part[window.start : window.end].tolist() for part in (encoding.ids, encoding.words)
        )
        mentions = [mention for _, _, mention in window.spans]
        rows = [self.rows[mention.qid] for mention in mentions]
        shift = 1 - window.start
        place = hash64(f"split:0:{sentence.doc_id}") / 2**64
        return (
            sentence.doc_id,
            sentence.start + (int(encoding.starts[window.start]) if window.start else 0),
            [opening, *tokens, closing],
            [
                place + 1
                for place, word in enumerate(words)
                if place == 0 or word != words[place - 1]
            ],
            len(tokens) + 2,
            "validation" if place < 0.1 else "train",
            [low + shift for low, _, _ in window.spans],
            [high + shift for _, high, _ in window.spans],
            rows,
            [self.frequency[row] for row in rows],
            [self._cosine(sentence, mention) for mention in mentions],
            [bits[mention.start] for mention in mentions],
            *facts_between(rows, self.tails),
            False,
        )
