"""Mention detection: the recogniser's spans, gold links, dictionary probes, short forms of names seen before.

Goes in: tokens of a document, the recogniser's spans, and tests of what is a name. Comes out: spans that do not overlap, with
what found them. Probes: n-grams that begin and end with a capital or a digit, and names of several words in lower case.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.core.aliases import normalise
from pipeline.core.entity_types import NUMERIC_LABELS
from pipeline.core.words import (
    ALPHA,
    EDGED,
    EMPTY,
    INNER,
    JOINS,
    LOWER,
    OPENS,
    OWNS,
    SHORT,
    STOP,
    STOP_WORDS,
    UPPER,
    WordTable,
)

Array = np.ndarray[Any, Any]
_LEADING_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)
_TRAILING_POSSESSIVE = re.compile(r"\s*['’]s?$")
_SEVERAL = re.compile(r",? and |, |/|\n")
_EDGE = ' \t\n"“”„«»()[]{}.,;:!?-–—/'
PERSON_LABELS = ("PERSON", "PER")
CASELESS_SHARE = 0.02  # of capitalised words: below it capitals say nothing
SHOUTED_SHARE = 0.8  # of words in capitals in a sentence: above it too
MIN_SHOUTED = 3
MIN_CASELESS_CHARACTERS = 4
MIN_ACRONYM = 2
MIN_COMMON = 3  # times in lower case in a document: then its capital at the beginning of a sentence says nothing
AGREED = 1.5


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of a document that are no white space, parallel arrays of shape (n,)."""

    starts: Array  # int64, code points
    ends: Array
    words: Array  # int64, numbers in the word table
    opens_sentence: Array  # bool

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.starts)


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


class Names(Protocol):
    """What is a name. Keys are normalised."""

    def is_name(self, key: str) -> bool:
        """Whether the index lists a key, or its singular."""

    def is_proper(self, key: str) -> bool:
        """Whether what a key most likely names is written with a capital."""

    def is_linked(self, key: str) -> bool:
        """Whether the corpus's own links use a key often."""

    def opens_name(self, first: Array, second: Array) -> Array:
        """Whether two words (hashes) may begin a name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """What detection reads of a document."""

    text: str
    tokens: Tokens
    table: WordTable
    max_ngram: int = 10


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


def detect(
    document: Document, named: Iterable[NamedEntity], anchors: Iterable[tuple[int, int]], names: Names
) -> list[Span]:
    """Mentions of a document, in order, none overlapping.

    A gold link goes first. A name that the index knows goes before one that it does not, except inside a span of the
    recogniser that is longer: "Paris" is no mention in an unknown "Paris Fishing Club". Then longer before shorter, then the
    recogniser's. What is left is searched for short forms of the names found.
    """
    text = document.text
    found = {(span.start, span.end): span for span in _recognised(text, named, names)}
    probe = _Probes(document, names)
    # A name may come from two probes: "Isle of Man" has capitals at its ends and a word in lower case.
    for start, end in dict.fromkeys((*probe.capitalised(), *probe.lower_case(), *probe.common_words())):
        twin = found.get((start, end))
        detector = "ner+dictionary" if twin else "dictionary"
        found[start, end] = Span(start, end, detector, twin.ner_type if twin else None, known=True)
    for start, end in anchors:
        twin = found.get((start, end))
        detector = f"anchor+{twin.detector}" if twin else "anchor"
        found[start, end] = Span(start, end, detector, twin.ner_type if twin else None, known=True)
    spans = _without_overlap(_opened(text, list(found.values()), probe))
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


class _Probes:
    """Dictionary probes of one document."""

    def __init__(self, document: Document, names: Names) -> None:
        self.names = names
        self._text, self._reach = document.text, document.max_ngram
        tokens, table = document.tokens, document.table
        self._flags_of = table.flags[tokens.words] if len(tokens) else np.empty(0, np.uint16)
        self._hashes = [hashes[tokens.words] if len(tokens) else np.empty(0, np.uint32) for hashes in table.hashes]
        self._tokens = tokens
        self._words: list[int] = tokens.words.tolist()
        self._keys = table.keys
        self._flags: list[int] = self._flags_of.tolist()
        self._opens: list[bool] = tokens.opens_sentence.tolist()
        lower, counts = np.unique(tokens.words[self._flags_of & LOWER > 0], return_counts=True)
        self._lower_keys = {self._keys[word] for word in lower[counts >= MIN_COMMON].tolist()}
        self._strict = self._caseless()

    def _caseless(self) -> Array:
        """Tokens whose case says nothing: of a document in lower case, of a sentence in capitals."""
        alpha = self._flags_of & ALPHA > 0
        num_alpha = int(alpha.sum())
        capitals = int((alpha & (self._flags_of & OPENS > 0)).sum())
        if num_alpha and capitals < CASELESS_SHARE * num_alpha:
            return np.ones(len(alpha), bool)
        sentence = np.cumsum(self._tokens.opens_sentence)
        words = np.bincount(sentence[alpha], minlength=int(sentence.max(initial=0)) + 1)
        upper = np.bincount(sentence[alpha & (self._flags_of & UPPER > 0)], minlength=len(words))
        shouted = (words >= MIN_SHOUTED) & (upper >= SHOUTED_SHARE * words)
        return shouted[sentence]

    def capitalised(self) -> Iterator[tuple[int, int]]:
        """Names whose first and last token begin with a capital or a digit, with only name words inside."""
        flags, opens, strict = self._flags, self._opens, self._strict.tolist()
        starts = np.flatnonzero((self._flags_of & OPENS > 0) | (self._strict & (self._flags_of & LOWER > 0)))
        for first in starts.tolist():
            if self._is_lone_name(first, strict=strict[first]):
                yield self._range(first, first)
            if not flags[first] & OPENS:
                continue
            for last in range(first + 1, min(first + self._reach, len(flags))):
                flag = flags[last]
                if opens[last]:
                    break
                if flag & (OPENS | OWNS):
                    if self._is_long_name(first, last):
                        yield self._range(first, last)
                elif not flag & INNER:
                    break

    def lower_case(self) -> Iterator[tuple[int, int]]:
        """Names of several words, at least one of them in lower case; pairs that begin no name are passed over at once."""
        flags = self._flags_of
        places = np.flatnonzero(flags & EMPTY == 0)
        if len(places) < 2:
            return
        gaps = np.diff(places)
        joined = (gaps == 1) | ((gaps == 2) & (flags[places[:-1] + 1] & JOINS > 0))
        joined &= ~self._tokens.opens_sentence[places[1:]]
        words, singulars = (hashes[places] for hashes in self._hashes)
        may = joined & (flags[places[:-1]] & (STOP | OWNS) == 0)
        at = np.flatnonzero(may)
        opening = self.names.opens_name(words[at], words[at + 1]) | self.names.opens_name(words[at], singulars[at + 1])
        where, linked = places.tolist(), joined.tolist()
        for place in at[opening].tolist():
            for last in range(place + 1, min(place + self._reach, len(where))):
                if not linked[last - 1]:
                    break
                if self._is_lower_name(where[place], where[last]):
                    yield self._range(where[place], where[last])

    def common_words(self) -> Iterator[tuple[int, int]]:
        """Words in lower case that the corpus's own links use often."""
        flags = self._flags_of
        places = np.flatnonzero((flags & (LOWER | ALPHA) == LOWER | ALPHA) & (flags & (STOP | SHORT | OWNS) == 0))
        numbers, inverse = np.unique(self._tokens.words[places], return_inverse=True)
        linked = np.fromiter((self.names.is_linked(self._keys[word]) for word in numbers.tolist()), bool, len(numbers))
        for place in places[linked[inverse]].tolist():
            yield self._range(place, place)

    def _range(self, first: int, last: int) -> tuple[int, int]:
        start, end = int(self._tokens.starts[first]), int(self._tokens.ends[last])
        is_clean = self._text[start].isalnum() and not self._flags[last] & EDGED
        return (start, end) if is_clean else trim(self._text, start, end)

    def is_proper(self, key: str) -> bool:
        """Whether a name is a proper one, and no common word of the document."""
        return key not in self._lower_keys and self.names.is_proper(key)

    def _is_whole_line(self, place: int) -> bool:
        """Whether a token is a sentence of its own: a heading, an item of a list."""
        return place + 1 == len(self._opens) or self._opens[place + 1]

    def _is_lone_name(self, place: int, *, strict: bool) -> bool:
        """A name of one token, unless it is a function word, a number, a letter, or a common word that opens a sentence."""
        flag = self._flags[place]
        if flag & (STOP | SHORT | OWNS) or not flag & ALPHA:
            return False
        key = self._keys[self._words[place]]
        if strict:
            return len(key) >= MIN_CASELESS_CHARACTERS and self.names.is_name(key) and self.names.is_proper(key)
        if self._opens[place] and key in self._lower_keys and not self._is_whole_line(place):
            return self.names.is_linked(key)
        return self.names.is_name(key)

    def _is_long_name(self, first: int, last: int) -> bool:
        flags = self._flags[first : last + 1]
        if all(flag & STOP or not flag & ALPHA for flag in flags):
            return False
        return self.names.is_name(self._key(first, last))

    def _is_lower_name(self, first: int, last: int) -> bool:
        flags = self._flags[first : last + 1]
        if flags[-1] & (STOP | OWNS) or not any(flag & LOWER for flag in flags):
            return False
        if all(flag & STOP or not flag & ALPHA for flag in flags):
            return False
        return self.names.is_name(self._key(first, last))

    def _key(self, first: int, last: int) -> str:
        keys = self._keys
        return " ".join([key for word in self._words[first : last + 1] if (key := keys[word])])


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


def _without_overlap(spans: list[Span]) -> list[Span]:
    nested = _nested(spans)
    ranked = sorted(
        _visible(spans),
        key=lambda span: (not span.detector.startswith("anchor"), not span.known, -_weight(span, nested), span.start),
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


def _opened(text: str, spans: list[Span], probe: _Probes) -> list[Span]:
    """The spans, with those of the recogniser that no index knows cut into the names that they are made of.

    1. A name of several words at its end takes its place and its label: "British East India Company"; the end of an English
       noun phrase says what it is.
    2. An enumeration is cut at its commas and its "and", the unknown among its parts stay: "Gibraltar and Minorca".
    3. Proper names side by side: "Golden Horde Tokhtamysh"; not those of persons.
    """
    outers = {span for span in spans if not span.known}
    by_end = {span.end: span for span in outers}
    inside = sorted((span for span in spans if span.detector == "dictionary"), key=lambda span: (span.start, -span.end))
    starts = [span.start for span in inside]
    cut: dict[Span, list[Span]] = {}
    for span in inside:
        outer = by_end.get(span.end)
        if outer is not None and outer not in cut and _is_head(text, span, outer):
            cut[outer] = [Span(span.start, span.end, "ner+dictionary", outer.ner_type, known=True)]
    for outer in outers - cut.keys():
        own = inside[bisect_left(starts, outer.start) : bisect_left(starts, outer.end)]
        parts = _enumerated(text, outer, probe) or _side_by_side(text, outer, own, probe)
        if parts:
            cut[outer] = parts
    found = {(span.start, span.end): span for span in spans if span not in cut}
    found.update({(part.start, part.end): part for parts in cut.values() for part in parts})
    return list(found.values())


def _is_head(text: str, span: Span, outer: Span) -> bool:
    if span.start <= outer.start or " " not in text[span.start : span.end]:
        return False
    return not any(word in STOP_WORDS for word in text[outer.start : span.start].split())


def _enumerated(text: str, outer: Span, probe: _Probes) -> list[Span]:
    """Parts of an enumeration; none where it is not sure to be one: "Bill and Melinda Gates Foundation"."""
    marks = [(match.start(), match.end()) for match in _SEVERAL.finditer(text, outer.start, outer.end)]
    if not marks or re.search(r" (?:of|for) ", text[outer.start : outer.end]):
        return []
    edges = [outer.start, *(edge for mark in marks for edge in mark), outer.end]
    parts = [trim(text, low, high) for low, high in zip(edges[::2], edges[1::2], strict=True)]
    known = [probe.names.is_name(normalise(text[low:high])) for low, high in parts]
    are_single = all(" " not in text[low:high] for low, high in parts)
    if not (known[-1] or (any(known) and are_single)) or any(low >= high for low, high in parts):
        return []
    return [
        Span(low, high, "ner+dictionary" if is_name else "ner", outer.ner_type, known=is_name)
        for (low, high), is_name in zip(parts, known, strict=True)
    ]


def _side_by_side(text: str, outer: Span, inside: Sequence[Span], probe: _Probes) -> list[Span]:
    """Proper names that make up a span and stand side by side; none where something is left over."""
    if outer.ner_type in PERSON_LABELS:
        return []
    parts: list[Span] = []
    end = outer.start
    for span in inside:  # by start, longest first
        if span.start >= end and span.end <= outer.end:
            if text[end : span.start].strip() or not probe.is_proper(normalise(text[span.start : span.end])):
                return []
            parts.append(span)
            end = span.end
    return parts if len(parts) > 1 and not text[end : outer.end].strip() else []


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


def _visible(spans: list[Span]) -> list[Span]:
    """Without the dictionary's names inside a span of the recogniser that no index knows (its spans do not overlap)."""
    unknown = sorted((span.start, span.end) for span in spans if not span.known)
    starts = [start for start, _ in unknown]

    def is_hidden(span: Span) -> bool:
        place = bisect_right(starts, span.start) - 1
        return span.detector == "dictionary" and place >= 0 and span.end <= unknown[place][1]

    return [span for span in spans if not is_hidden(span)]
