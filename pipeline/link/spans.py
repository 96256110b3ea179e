"""Trim spans of mentions, cut unknown spans into names, and choose between overlapping spans. Pure.

A span is a mention that a detector found: the recogniser ("ner"), the dictionary, a link of the
corpus ("anchor"), or several of them, joined by "+".
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.index.name_keys import normalise
from pipeline.index.words import STOP_WORDS

_TRAILING_POSSESSIVE = re.compile(r"\s*['’]s?$")
# What separates the names of an enumeration.
_SEPARATOR = re.compile(r",? and |, |/|\n")
# Characters that are cut off at both ends of a span.
_EDGE = ' \t\n"“”„«»()[]{}.,;:!?-–—/'
PERSON_LABELS = ("PERSON", "PER")
# The detector of names that the index lists.
DICTIONARY = "dictionary"
# A span counts this much longer where the recogniser agrees.
AGREED = 1.5


@dataclass(frozen=True, slots=True)
class Span:
    """Hold a mention: half-open code points, and what is known of it before linking."""

    start: int
    end: int
    # What found it; several joined by "+".
    detector: str
    # The recogniser's label.
    ner_type: str | None
    # Whether the index lists its text.
    known: bool
    # The longer name that it opens and that is no mention itself: "Columbus, Ohio".
    full_name: str = ""


class NameTests(Protocol):
    """Say what is a name, in a document. Keys are normalised."""

    def is_name(self, key: str) -> bool:
        """Say whether the index lists a key, or a close form of it."""

    def is_proper(self, key: str) -> bool:
        """Say whether a key is a proper name."""


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Cut quotes, brackets, end punctuation and a possessive off a span.

    An abbreviation keeps its full stop.
    """
    while start < end and text[start] in _EDGE:
        start += 1
    while start < end and text[end - 1] in _EDGE and not _is_abbreviation(text[start:end]):
        end -= 1

    # The pattern also matches a bare apostrophe, which may belong to the name.
    possessive = _TRAILING_POSSESSIVE.search(text[start:end])
    if possessive and possessive.group().strip() in ("'s", "’s"):
        end = start + possessive.start()
    return start, end


def _is_abbreviation(text: str) -> bool:
    last_word = text.split()[-1] if text.split() else ""
    return last_word.endswith(".") and (last_word.count(".") > 1 or len(last_word) <= 4)


def cut_unknown_spans(text: str, spans: list[Span], names: NameTests) -> list[Span]:
    """Return the spans, after cutting unknown spans of the recogniser into the names in them.

    Three ways are tried in this order:

    1. A name of several words at its end takes its place and its label: "British East India
       Company". The end of an English noun phrase says what it is.
    2. An enumeration is cut at its commas and its "and"; its unknown names stay: "Gibraltar and
       Minorca".
    3. Proper names side by side: "Golden Horde Tokhtamysh"; but not those of persons.
    """
    unknown = {span for span in spans if not span.known}
    unknown_by_end = {span.end: span for span in unknown}
    dictionary_spans = sorted(
        (span for span in spans if span.detector == DICTIONARY),
        key=lambda span: (span.start, -span.end),
    )
    starts = [span.start for span in dictionary_spans]

    # Sorted by start, longest first: the first name that fits the end of a span is the longest.
    pieces_of: dict[Span, list[Span]] = {}
    for span in dictionary_spans:
        outer = unknown_by_end.get(span.end)
        if outer is not None and outer not in pieces_of and _is_head(text, span, outer, names):
            head = Span(span.start, span.end, "ner+dictionary", outer.ner_type, known=True)
            pieces_of[outer] = [head]

    for outer in unknown - pieces_of.keys():
        inside = dictionary_spans[bisect_left(starts, outer.start) : bisect_left(starts, outer.end)]
        pieces = _enumerated(text, outer, names) or _side_by_side(text, outer, inside, names)
        if pieces:
            pieces_of[outer] = pieces

    # A piece replaces a dictionary span at the same place: it has a label.
    by_range = {(span.start, span.end): span for span in spans if span not in pieces_of}
    by_range.update(
        {(piece.start, piece.end): piece for pieces in pieces_of.values() for piece in pieces}
    )
    return list(by_range.values())


def _is_head(text: str, span: Span, outer: Span, names: NameTests) -> bool:
    """Say whether a proper name of several words at the end of an unknown span can stand for it.

    Not after a function word: in "University of New York" the name is no head.
    """
    surface = text[span.start : span.end]
    if span.start <= outer.start or " " not in surface or not names.is_proper(normalise(surface)):
        return False
    return not any(word in STOP_WORDS for word in text[outer.start : span.start].split())


def _enumerated(text: str, outer: Span, names: NameTests) -> list[Span]:
    """Return the names of an enumeration.

    None where it may be something else: "Bill and Melinda Gates Foundation".
    """
    separators = [
        (match.start(), match.end()) for match in _SEPARATOR.finditer(text, outer.start, outer.end)
    ]
    if not separators or re.search(r" (?:of|for) ", text[outer.start : outer.end]):
        return []

    edges = [outer.start, *(edge for ends in separators for edge in ends), outer.end]
    ranges = [trim(text, low, high) for low, high in zip(edges[::2], edges[1::2], strict=True)]
    are_names = [names.is_name(normalise(text[low:high])) for low, high in ranges]

    # It is an enumeration if its last name is known, or if any is and all are single words.
    are_single = all(" " not in text[low:high] for low, high in ranges)
    is_sure = are_names[-1] or (any(are_names) and are_single)
    if not is_sure or any(low >= high for low, high in ranges):
        return []
    return [
        Span(low, high, "ner+dictionary" if is_name else "ner", outer.ner_type, known=is_name)
        for (low, high), is_name in zip(ranges, are_names, strict=True)
    ]


def _side_by_side(text: str, outer: Span, inside: Sequence[Span], names: NameTests) -> list[Span]:
    """Return the proper names that fill a span side by side; none where some text is left over.

    Args:
        text: of the document.
        outer: the span.
        inside: the dictionary's spans in it, by start, the longest first.
        names: tests of names.
    """
    if outer.ner_type in PERSON_LABELS:
        return []

    pieces: list[Span] = []
    end = outer.start
    for span in inside:
        # Names inside the last one, or that cross the end, are passed over.
        if span.start >= end and span.end <= outer.end:
            has_gap = text[end : span.start].strip()
            if has_gap or not names.is_proper(normalise(text[span.start : span.end])):
                return []
            pieces.append(span)
            end = span.end
    return pieces if len(pieces) > 1 and not text[end : outer.end].strip() else []


def without_overlap(spans: list[Span]) -> list[Span]:
    """Return the spans that stay where some overlap, in the order of the text.

    Links of the corpus stay first, then known names, then the longer span.
    """
    nested = _nested(spans)
    survivors: list[Span] = []
    # A group holds spans that overlap, directly or through others. Groups are short, so a book
    # takes no longer per span than a sentence.
    group: list[Span] = []
    end = 0
    for span in sorted(visible(spans), key=lambda span: span.start):
        if group and span.start >= end:
            survivors += _best(group, nested)
            group = []
        group.append(span)
        end = max(end, span.end)
    return [*survivors, *_best(group, nested)]


def _best(group: Sequence[Span], nested: set[Span]) -> list[Span]:
    """Return the spans of a group that stay, taken by rank, none overlapping another."""
    ranked = sorted(
        group,
        key=lambda span: (
            not span.detector.startswith("anchor"),
            not span.known,
            -_weight(span, nested),
            span.start,
        ),
    )

    # Starts and ends of the survivors, ascending. They do not overlap, so a new span overlaps one
    # of them only if it overlaps the last one that starts before its end.
    starts: list[int] = []
    ends: list[int] = []
    survivors = []
    for span in ranked:
        position = bisect_left(starts, span.end)
        if position == 0 or ends[position - 1] <= span.start:
            starts.insert(position, span.start)
            ends.insert(position, span.end)
            survivors.append(span)
    return sorted(survivors, key=lambda span: span.start)


def _nested(spans: Sequence[Span]) -> set[Span]:
    """Return the spans that are within a longer one that is known."""
    inner: set[Span] = set()
    end, longest = 0, None
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if longest is not None and span.end <= end:
            inner.add(span)
        elif span.known and span.end > end:
            end, longest = span.end, span
    return inner


def _weight(span: Span, nested: set[Span]) -> float:
    """Return the length of a span, which counts more where the recogniser agrees.

    So "Jefferson Davis" stays rather than "President Jefferson".
    """
    return (span.end - span.start) * (AGREED if span.ner_type and span not in nested else 1.0)


def visible(spans: list[Span]) -> list[Span]:
    """Return the spans without the dictionary's names inside an unknown span of the recogniser."""
    # The recogniser's spans do not overlap, so only the last one that starts before can hold a
    # span.
    unknown = sorted((span.start, span.end) for span in spans if not span.known)
    starts = [start for start, _ in unknown]

    def is_hidden(span: Span) -> bool:
        row = bisect_right(starts, span.start) - 1
        return span.detector == DICTIONARY and row >= 0 and span.end <= unknown[row][1]

    return [span for span in spans if not is_hidden(span)]
