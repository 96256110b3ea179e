"""Mention detection: spans of the recogniser united with dictionary probes, longest first.

Goes in: tokens of a document with offsets, the recogniser's spans, and a test of whether a span's text is a known name.
Comes out: spans that do not overlap, with what found them.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.core.entity_types import NUMERIC_LABELS

INNER_WORDS = frozenset("of the and de la le du des van von der den di da del el al y e on in for at & - ' ’ .".split())
_LEADING_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)
_TRAILING_POSSESSIVE = re.compile(r"\s*['’]s?$")
_EDGE = ' \t\n"“”„«»()[]{}.,;:!?'


@dataclass(frozen=True, slots=True)
class Token:
    """A token and its code points in the document."""

    text: str
    start: int
    end: int
    is_stop: bool
    starts_sentence: bool


@dataclass(frozen=True, slots=True)
class Span:
    """A mention: half-open code points, what found it, the recogniser's label, whether the index knows its text."""

    start: int
    end: int
    detector: str
    ner_type: str | None
    known: bool


@dataclass(frozen=True, slots=True)
class NamedEntity:
    """A span of the recogniser."""

    start: int
    end: int
    label: str


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Cut quotes, brackets, end punctuation and a possessive from a span; an abbreviation keeps its full stop."""
    while start < end and text[start] in _EDGE:
        start += 1
    while start < end and text[end - 1] in _EDGE and not _is_abbreviation(text[start:end]):
        end -= 1
    possessive = _TRAILING_POSSESSIVE.search(text[start:end])
    if possessive and possessive.group().strip() in ("'s", "’s"):
        end = start + possessive.start()
    return start, end


def _is_abbreviation(text: str) -> bool:
    return text.endswith(".") and (text.count(".") > 1 or len(text) <= 4)


def probes(tokens: Sequence[Token], max_ngram: int) -> Iterator[tuple[int, int]]:
    """Ranges of tokens worth a look-up: first and last start with a capital or a digit, only name words inside."""
    for first, token in enumerate(tokens):
        if not _opens(token):
            continue
        for last in range(first, min(first + max_ngram, len(tokens))):
            word = tokens[last]
            if last > first and word.starts_sentence:
                break
            if _opens(word):
                if not _is_noise(tokens, first, last):
                    yield first, last + 1
            elif word.text.lower() not in INNER_WORDS:
                break


def _opens(token: Token) -> bool:
    return token.text[:1].isupper() or token.text[:1].isdigit()


def _is_noise(tokens: Sequence[Token], first: int, last: int) -> bool:
    """A lone function word ("The"), a lone number, a lone letter: a name in some index, never a mention."""
    if first != last:
        return all(token.is_stop or token.text.isdigit() for token in tokens[first : last + 1])
    word = tokens[first]
    return word.is_stop or not any(char.isalpha() for char in word.text) or len(word.text) < 2


def detect(
    text: str,
    tokens: Sequence[Token],
    named: Iterable[NamedEntity],
    is_name: Callable[[str], bool],
    max_ngram: int,
) -> list[Span]:
    """Mentions of a document, in order, none overlapping.

    A name that the index knows goes before one that it does not, except inside a span of the recogniser that is longer:
    "Paris" is no mention in an unknown "Paris Fishing Club". Then longer before shorter, then the recogniser's.
    """
    found = {(span.start, span.end): span for span in _recognised(text, named, is_name)}
    for first, stop in probes(tokens, max_ngram):
        start, end = trim(text, tokens[first].start, tokens[stop - 1].end)
        if start >= end or not is_name(text[start:end]):
            continue
        twin = found.get((start, end))
        ner_type = twin.ner_type if twin else None
        found[start, end] = Span(start, end, "ner+dictionary" if twin else "dictionary", ner_type, known=True)
    return _without_overlap(list(found.values()))


def _recognised(text: str, named: Iterable[NamedEntity], is_name: Callable[[str], bool]) -> Iterator[Span]:
    for entity in named:
        if entity.label in NUMERIC_LABELS:
            continue
        start, end = trim(text, entity.start, entity.end)
        if start >= end or not any(char.isalnum() for char in text[start:end]):
            continue
        article = _LEADING_ARTICLE.match(text[start:end])
        if article and not is_name(text[start:end]):
            start += article.end()
        yield Span(start, end, "ner", entity.label, known=is_name(text[start:end]))


def _without_overlap(spans: list[Span]) -> list[Span]:
    ranked = sorted(
        _visible(spans), key=lambda span: (not span.known, span.start - span.end, span.ner_type is None, span.start)
    )
    starts: list[int] = []  # of the spans taken, ascending, and their ends: a neighbour look-up finds any overlap
    ends: list[int] = []
    taken = []
    for span in ranked:
        place = bisect_left(starts, span.end)
        if place == 0 or ends[place - 1] <= span.start:
            starts.insert(place, span.start)
            ends.insert(place, span.end)
            taken.append(span)
    return sorted(taken, key=lambda span: span.start)


def _visible(spans: list[Span]) -> list[Span]:
    """Without the dictionary's names inside a span of the recogniser that no index knows (its spans do not overlap)."""
    unknown = sorted((span.start, span.end) for span in spans if not span.known)
    starts = [start for start, _ in unknown]

    def is_hidden(span: Span) -> bool:
        place = bisect_right(starts, span.start) - 1
        return span.detector == "dictionary" and place >= 0 and span.end <= unknown[place][1]

    return [span for span in spans if not is_hidden(span)]
