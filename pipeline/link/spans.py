"""Spans of mentions: what is trimmed off, how an unknown span is cut into names, which of two overlapping ones stays. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.index.name_keys import normalise
from pipeline.index.words import STOP_WORDS

_TRAILING_POSSESSIVE = re.compile(r"\s*['’]s?$")
_SEVERAL = re.compile(r",? and |, |/|\n")
_EDGE = ' \t\n"“”„«»()[]{}.,;:!?-–—/'
PERSON_LABELS = ("PERSON", "PER")
AGREED = 1.5


@dataclass(frozen=True, slots=True)
class Span:
    """A mention: half-open code points, what found it, the recogniser's label, whether the index knows its text."""

    start: int
    end: int
    detector: str
    ner_type: str | None
    known: bool


class NameTests(Protocol):
    """What is a name, in a document. Keys are normalised."""

    def is_name(self, key: str) -> bool:
        """Whether a key is listed."""

    def is_proper(self, key: str) -> bool:
        """Whether it is a proper name."""


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
    last = text.split()[-1] if text.split() else ""
    return last.endswith(".") and (last.count(".") > 1 or len(last) <= 4)


def opened(text: str, spans: list[Span], names: NameTests) -> list[Span]:
    """The spans, with those of the recogniser that no index knows cut into the names that they are made of.

    1. A name of several words at its end takes its place and its label: "British East India Company"; the end of an English
       noun phrase says what it is.
    2. An enumeration is cut at its commas and its "and", the unknown among its parts stay: "Gibraltar and Minorca".
    3. Proper names side by side: "Golden Horde Tokhtamysh"; not those of persons.
    """
    outers = {span for span in spans if not span.known}
    by_end = {span.end: span for span in outers}
    inside = sorted(
        (span for span in spans if span.detector == "dictionary"),
        key=lambda span: (span.start, -span.end),
    )
    starts = [span.start for span in inside]
    cut: dict[Span, list[Span]] = {}
    for span in inside:
        outer = by_end.get(span.end)
        if outer is not None and outer not in cut and _is_head(text, span, outer):
            cut[outer] = [Span(span.start, span.end, "ner+dictionary", outer.ner_type, known=True)]
    for outer in outers - cut.keys():
        own = inside[bisect_left(starts, outer.start) : bisect_left(starts, outer.end)]
        parts = _enumerated(text, outer, names) or _side_by_side(text, outer, own, names)
        if parts:
            cut[outer] = parts
    found = {(span.start, span.end): span for span in spans if span not in cut}
    found.update({(part.start, part.end): part for parts in cut.values() for part in parts})
    return list(found.values())


def _is_head(text: str, span: Span, outer: Span) -> bool:
    if span.start <= outer.start or " " not in text[span.start : span.end]:
        return False
    return not any(word in STOP_WORDS for word in text[outer.start : span.start].split())


def _enumerated(text: str, outer: Span, names: NameTests) -> list[Span]:
    """Parts of an enumeration; none where it is not sure to be one: "Bill and Melinda Gates Foundation"."""
    marks = [
        (match.start(), match.end()) for match in _SEVERAL.finditer(text, outer.start, outer.end)
    ]
    if not marks or re.search(r" (?:of|for) ", text[outer.start : outer.end]):
        return []
    edges = [outer.start, *(edge for mark in marks for edge in mark), outer.end]
    parts = [trim(text, low, high) for low, high in zip(edges[::2], edges[1::2], strict=True)]
    known = [names.is_name(normalise(text[low:high])) for low, high in parts]
    are_single = all(" " not in text[low:high] for low, high in parts)
    if not (known[-1] or (any(known) and are_single)) or any(low >= high for low, high in parts):
        return []
    return [
        Span(low, high, "ner+dictionary" if is_name else "ner", outer.ner_type, known=is_name)
        for (low, high), is_name in zip(parts, known, strict=True)
    ]


def _side_by_side(text: str, outer: Span, inside: Sequence[Span], names: NameTests) -> list[Span]:
    """Proper names that make up a span and stand side by side; none where something is left over."""
    if outer.ner_type in PERSON_LABELS:
        return []
    parts: list[Span] = []
    end = outer.start
    for span in inside:  # by start, longest first
        if span.start >= end and span.end <= outer.end:
            if text[end : span.start].strip() or not names.is_proper(
                normalise(text[span.start : span.end])
            ):
                return []
            parts.append(span)
            end = span.end
    return parts if len(parts) > 1 and not text[end : outer.end].strip() else []


def without_overlap(spans: list[Span]) -> list[Span]:
    """What stays of spans that overlap: gold links, then known names, then the longer; in the order of the text."""
    nested = _nested(spans)
    taken: list[Span] = []
    group: list[
        Span
    ] = []  # of spans that overlap, directly or through others: so a book takes no longer per span
    end = 0
    for span in sorted(visible(spans), key=lambda span: span.start):
        if group and span.start >= end:
            taken += _best(group, nested)
            group = []
        group.append(span)
        end = max(end, span.end)
    return [*taken, *_best(group, nested)]


def _best(group: Sequence[Span], nested: set[Span]) -> list[Span]:
    ranked = sorted(
        group,
        key=lambda span: (
            not span.detector.startswith("anchor"),
            not span.known,
            -_weight(span, nested),
            span.start,
        ),
    )
    starts: list[
        int
    ] = []  # of the spans taken, ascending, and their ends: a neighbour look-up finds any overlap
    ends: list[int] = []
    taken = []
    for span in ranked:
        place = bisect_left(starts, span.end)
        if place == 0 or ends[place - 1] <= span.start:
            starts.insert(place, span.start)
            ends.insert(place, span.end)
            taken.append(span)
    return sorted(taken, key=lambda span: span.start)


def _nested(spans: Sequence[Span]) -> set[Span]:
    """Spans within longer ones that are known."""
    inner: set[Span] = set()
    end, longest = 0, None
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if longest is not None and span.end <= end:
            inner.add(span)
        elif span.known and span.end > end:
            end, longest = span.end, span
    return inner


def _weight(span: Span, nested: set[Span]) -> float:
    """Length, more where the recogniser agrees: "Jefferson Davis" rather than "President Jefferson"."""
    return (span.end - span.start) * (AGREED if span.ner_type and span not in nested else 1.0)


def visible(spans: list[Span]) -> list[Span]:
    """Without the dictionary's names inside a span of the recogniser that no index knows (its spans do not overlap)."""
    unknown = sorted((span.start, span.end) for span in spans if not span.known)
    starts = [start for start, _ in unknown]

    def is_hidden(span: Span) -> bool:
        place = bisect_right(starts, span.start) - 1
        return span.detector == "dictionary" and place >= 0 and span.end <= unknown[place][1]

    return [span for span in spans if not is_hidden(span)]
