"""Mention detection: the recogniser's spans, gold links, dictionary probes, short forms of names seen before.

Goes in: tokens of a document, the recogniser's spans, and tests of what is a name. Comes out: spans that do not overlap, with
what found them. Probes: n-grams that begin and end with a capital or a digit, and names of several words in lower case.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.index.entity_types import NUMERIC_LABELS
from pipeline.index.name_keys import normalise
from pipeline.index.words import OPENS, SHORT, STOP
from pipeline.link.probes import Document, Names, Probes
from pipeline.link.spans import PERSON_LABELS, Span, opened, trim, without_overlap

_LEADING_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)
MIN_ACRONYM = 2


@dataclass(frozen=True, slots=True)
class NamedEntity:
    """A span of the recogniser."""

    start: int
    end: int
    label: str


def detect(
    document: Document,
    named: Iterable[NamedEntity],
    anchors: Iterable[tuple[int, int]],
    names: Names,
) -> list[Span]:
    """Mentions of a document, in order, none overlapping.

    A gold link goes first. A name that the index knows goes before one that it does not, except inside a span of the
    recogniser that is longer: "Paris" is no mention in an unknown "Paris Fishing Club". Then longer before shorter, then the
    recogniser's. What is left is searched for short forms of the names found.
    """
    text = document.text
    found = {(span.start, span.end): span for span in _recognised(text, named, names)}
    probe = Probes(document, names)
    # A name may come from two probes: "Isle of Man" has capitals at its ends and a word in lower case.
    for start, end in dict.fromkeys(
        (*probe.capitalised(), *probe.lower_case(), *probe.common_words())
    ):
        twin = found.get((start, end))
        detector = "ner+dictionary" if twin else "dictionary"
        found[start, end] = Span(start, end, detector, twin.ner_type if twin else None, known=True)
    for start, end in anchors:
        if not text[start:end].strip():  # "[[Paris| ]]"
            continue
        twin = found.get((start, end))
        detector = f"anchor+{twin.detector}" if twin else "anchor"
        found[start, end] = Span(start, end, detector, twin.ner_type if twin else None, known=True)
    spans = without_overlap(opened(text, list(found.values()), probe))
    return _with_short_forms(document, spans)


def _recognised(text: str, named: Iterable[NamedEntity], names: Names) -> Iterator[Span]:
    for entity in named:
        if entity.label in NUMERIC_LABELS:
            continue
        stop = _cut_short(text, entity.start, entity.end)
        start, end = trim(text, entity.start, stop)
        if start >= end or not any(char.isalnum() for char in text[start:end]):
            continue
        known = names.is_name(normalise(text[start:end]))
        article = _LEADING_ARTICLE.match(text[start:end])
        if article and (not known or text[start].islower()):  # "the Soviet Union", but "The Hague"
            start, end = trim(text, start + article.end(), end)
            known = names.is_name(normalise(text[start:end]))
        yield Span(start, end, "ner", entity.label, known=known)


def _cut_short(text: str, start: int, end: int) -> int:
    """Where a span of the recogniser really ends: before a line end, and before a bracket that is not closed."""
    line = text.find("\n", text.find(text[start:end].strip()[:1], start), end)
    end = line if line > start else end
    bracket = text.find("(", start + 1, end)
    return bracket if bracket > 0 and text.find(")", bracket, end) < 0 else end


def _with_short_forms(document: Document, spans: list[Span]) -> list[Span]:
    """The spans, and later single tokens that are the surname or the initials of a longer name among them."""
    shorts = _short_forms(document, spans)
    if not shorts:
        return spans
    tokens, table = document.tokens, document.table
    flags = table.flags[tokens.words]
    starts = [span.start for span in spans]
    more = []
    for place in np.flatnonzero((flags & OPENS > 0) & (flags & (STOP | SHORT) == 0)).tolist():
        since = shorts.get(table.keys[int(tokens.words[place])])
        start, end = int(tokens.starts[place]), int(tokens.ends[place])
        if since is None or since >= start:
            continue
        before = bisect_right(starts, start) - 1
        after = spans[before + 1] if before + 1 < len(spans) else None
        if (before < 0 or spans[before].end <= start) and (after is None or end <= after.start):
            more.append(Span(*trim(document.text, start, end), "reuse", None, known=False))
    return sorted([*spans, *more], key=lambda span: span.start)


def _short_forms(document: Document, spans: Sequence[Span]) -> dict[str, int]:
    """Surnames and initials, and where the longer name first ends."""
    found: dict[str, int] = {}
    for span in spans:
        surface = document.text[span.start : span.end]
        words = surface.split()
        if len(words) < 2 or not words[-1][:1].isupper():
            continue
        if span.ner_type in PERSON_LABELS or (span.ner_type is None and len(words) <= 3):
            found.setdefault(normalise(words[-1]), span.end)
        if len(initials := initials_of(surface)) >= MIN_ACRONYM:
            found.setdefault(initials, span.end)
    return found


def initials_of(surface: str) -> str:
    """First letters of the capitalised words of a name, as a key.

    >>> initials_of("National Basketball Association of Canada")
    'nbac'
    """
    return "".join(word[0] for word in surface.split() if word[:1].isupper()).lower()
