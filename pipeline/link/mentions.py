"""Detect mentions: the recogniser's spans, links of the corpus, dictionary probes, short forms.

Goes in: tokens of a document, the recogniser's spans, and tests of what is a name. Comes out: spans
that do not overlap, with what found them. Probes are n-grams that begin and end with a capital or a
digit, and names of several words in lower case.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.index.entity_types import NUMERIC_LABELS
from pipeline.index.name_keys import normalise
from pipeline.index.words import CALENDAR_WORDS, OPENS, SHORT, STOP, STOP_WORDS
from pipeline.link.plausible import plausible_spans
from pipeline.link.probes import Document, Names, Probes
from pipeline.link.spans import (
    DICTIONARY,
    PERSON_LABELS,
    Span,
    cut_unknown_spans,
    trim,
    without_overlap,
)

_LEADING_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)
# Letters of a name after a comma: "Inc." and "Jr." are none.
MIN_PART = 4
_FIRST_WORD = re.compile(r"(\S+)\s+")
# Before the name of a person; in lower case.
TITLES = frozenset(
    "president king queen prince princess sir dame lord lady pope emperor empress sultan senator "
    "governor general colonel captain major admiral dr doctor prof professor mr mrs ms minister "
    "chancellor bishop archbishop cardinal judge justice mayor sheikh imam ayatollah count countess duke "
    "duchess baron baroness saint tsar secretary".split()
)
# Letters that initials must have to stand for a name: "UN".
MIN_ACRONYM = 2


@dataclass(frozen=True, slots=True)
class NamedEntity:
    """Hold a span of the recogniser."""

    start: int
    end: int
    label: str
    # Whether its last word is an abbreviation with its full stop: "Calif."
    has_stop: bool = False


def detect(
    document: Document,
    named: Iterable[NamedEntity],
    anchors: Iterable[tuple[int, int]],
    names: Names,
) -> list[Span]:
    """Return the mentions of a document, in order, none overlapping.

    A link of the corpus stays first. A name that the index knows stays before one that it does not,
    except inside a longer span of the recogniser: "Paris" is no mention in an unknown "Paris
    Fishing Club". Then longer before shorter, then the recogniser's. The rest of the text is
    searched for short forms of these names.

    Args:
        document: text and tokens.
        named: spans of the recogniser.
        anchors: half-open code points of the corpus's own links.
        names: tests of what is a name.
    """
    text, named = document.text, list(named)
    recognised = {(span.start, span.end): span for span in recognised_spans(text, named, names)}
    by_range = dict(recognised)

    # A name may come from two probes: "Isle of Man" has capitals at its ends and a word in lower
    # case.
    probe = Probes(document, names)
    probed = dict.fromkeys((*probe.capitalised(), *probe.lower_case(), *probe.common_words()))
    numbers = _Numbers(text, named)
    full_names: dict[tuple[int, int], str] = {}
    sentence_starts = set(document.tokens.starts[document.tokens.opens_sentence].tolist())
    for start, end in probed:
        if numbers.rule_out(start, end):
            continue
        # Within a sentence a capital says that the article belongs to the name.
        article = _LEADING_ARTICLE.match(text[start:end]) if start in sentence_starts else None
        if article and not names.needs_article(text[start:end], text[start + article.end() : end]):
            start += article.end()
        start += end_of_title(text[start:end], names)
        part_end = end_of_first_name(text[start:end], names)
        if part_end:
            full_names[start, start + part_end] = text[start:end]
            continue
        agreeing = recognised.get((start, end))
        detector = f"ner+{DICTIONARY}" if agreeing else DICTIONARY
        ner_type = agreeing.ner_type if agreeing else None
        by_range[start, end] = Span(start, end, detector, ner_type, known=True)

    for start, end in anchors:
        # A link may have no text: "[[Paris| ]]".
        if not text[start:end].strip():
            continue
        detected = by_range.get((start, end))
        detector = f"anchor+{detected.detector}" if detected else "anchor"
        ner_type = detected.ner_type if detected else None
        by_range[start, end] = Span(start, end, detector, ner_type, known=True)

    # Unknown spans are cut first, since the names in them compete with other spans.
    spans = without_overlap(cut_unknown_spans(text, list(by_range.values()), probe))
    spans = [replace(span, full_name=full_names.get((span.start, span.end), "")) for span in spans]
    return _with_short_forms(document, plausible_spans(document, spans, names))


def end_of_title(surface: str, names: Names) -> int:
    """Return where the name begins after a person's title, as in "President Barack Obama".

    0 where there is none, where an item is called so with its title ("King Arthur"), and where what
    follows is no label of several words.
    """
    match = _FIRST_WORD.match(surface)
    if match is None or match.group(1).removesuffix(".").lower() not in TITLES:
        return 0
    name = surface[match.end() :]
    is_called_so = names.is_label(surface) or not names.is_label(name)
    return match.end() if " " in name and not is_called_so else 0


def end_of_first_name(surface: str, names: Names) -> int:
    """Return where the first of several names side by side ends, as in "Columbus, Ohio".

    They are two mentions; the whole says which Columbus it is. 0 where the surface is one name: it
    has no comma, a part of it is no name, or an item is called so with its comma.
    """
    if ", " not in surface and " , " not in surface:
        return 0
    parts = [part.strip() for part in surface.split(",")]
    are_names = all(
        (len(part) >= MIN_PART or part.isupper()) and names.is_name(normalise(part))
        for part in parts
    )
    if not are_names or names.is_label(surface):
        return 0
    return len(parts[0])


class _Numbers:
    """Hold the spans that the recogniser calls dates, times, numbers and amounts.

    Inside them no name is looked up: "November" in "November 30, 2013" is no mention. A name that
    is all of such a span stays, if it is no number and no day of the calendar: "Middle Ages".
    """

    def __init__(self, text: str, named: Iterable[NamedEntity]) -> None:
        ranges = sorted(
            (entity.start, entity.end) for entity in named if entity.label in NUMERIC_LABELS
        )
        self._text = text
        self._starts = [start for start, _ in ranges]
        self._ends = [end for _, end in ranges]

    def rule_out(self, start: int, end: int) -> bool:
        """Say whether a range is no name; a longer name may contain a date."""
        position = bisect_right(self._starts, start) - 1
        if position < 0 or end > self._ends[position]:
            return False
        words = self._text[start:end].split()
        if not any(word[0].isupper() and word.lower() not in CALENDAR_WORDS for word in words):
            return True
        others = self._text[self._starts[position] : start], self._text[end : self._ends[position]]
        return any(word not in STOP_WORDS for text in others for word in normalise(text).split())


def anchor_spans(text: str, anchors: Iterable[tuple[int, int]]) -> list[Span]:
    """Return the corpus's own links as the only mentions, in order, none overlapping."""
    spans = [Span(start, end, "anchor", None, known=True) for start, end in anchors]
    return without_overlap([span for span in spans if text[span.start : span.end].strip()])


def recognised_spans(text: str, named: Iterable[NamedEntity], names: Names) -> Iterator[Span]:
    """Yield the spans of the recogniser, trimmed; no dates and numbers."""
    for entity in named:
        if entity.label in NUMERIC_LABELS:
            continue
        start, end = trim(text, entity.start, _real_end(text, entity.start, entity.end))
        if entity.has_stop and end == entity.end - 1:
            end = entity.end
        if start >= end or not any(char.isalnum() for char in text[start:end]):
            continue

        # The article goes off "the Soviet Union", but not off "The Hague".
        is_name = names.is_name(normalise(text[start:end]))
        article = _LEADING_ARTICLE.match(text[start:end])
        if article and (
            not is_name
            or text[start].islower()
            or not names.needs_article(text[start:end], text[start + article.end() : end])
        ):
            start, end = trim(text, start + article.end(), end)
            is_name = names.is_name(normalise(text[start:end]))
        title_length = end_of_title(text[start:end], names)
        if title_length:
            start, is_name = start + title_length, True
        yield Span(start, end, "ner", entity.label, known=is_name)


def _real_end(text: str, start: int, end: int) -> int:
    """Return where a span of the recogniser really ends.

    That is before a line end, and before a bracket that is not closed.
    """
    # A line end before the first character of the name does not count.
    name_start = text.find(text[start:end].strip()[:1], start)
    line_end = text.find("\n", name_start, end)
    end = line_end if line_end > start else end
    bracket = text.find("(", start + 1, end)
    return bracket if bracket > 0 and text.find(")", bracket, end) < 0 else end


def _with_short_forms(document: Document, spans: list[Span]) -> list[Span]:
    """Return the spans, and single tokens that are short for a longer name before them.

    Such a token is the surname or the initials of the name.
    """
    end_of_long_form = _short_forms(document, spans)
    if not end_of_long_form:
        return spans

    tokens, table = document.tokens, document.table
    flags = table.flags[tokens.words]
    starts = [span.start for span in spans]
    short_spans = []
    may_be_short = (flags & OPENS > 0) & (flags & (STOP | SHORT) == 0)
    for token in np.flatnonzero(may_be_short).tolist():
        long_form_end = end_of_long_form.get(table.keys[int(tokens.words[token])])
        start, end = int(tokens.starts[token]), int(tokens.ends[token])
        if long_form_end is None or long_form_end >= start:
            continue

        # The spans do not overlap: only the one before and the one after can touch the token.
        previous = bisect_right(starts, start) - 1
        is_free_before = previous < 0 or spans[previous].end <= start
        is_free_after = previous + 1 >= len(spans) or end <= spans[previous + 1].start
        if is_free_before and is_free_after:
            short_spans.append(Span(*trim(document.text, start, end), "reuse", None, known=False))
    return sorted([*spans, *short_spans], key=lambda span: span.start)


def _short_forms(document: Document, spans: Sequence[Span]) -> dict[str, int]:
    """Return the keys of surnames and initials, and where the first longer name of each ends."""
    end_of_long_form: dict[str, int] = {}
    for span in spans:
        surface = document.text[span.start : span.end]
        words = surface.split()
        if len(words) < 2 or not words[-1][:1].isupper():
            continue

        # Without a label only a name of two or three words may be a person's.
        if span.ner_type in PERSON_LABELS or (span.ner_type is None and len(words) <= 3):
            end_of_long_form.setdefault(normalise(words[-1]), span.end)
        if len(initials := initials_of(surface)) >= MIN_ACRONYM:
            end_of_long_form.setdefault(initials, span.end)
    return end_of_long_form


def initials_of(surface: str) -> str:
    """Return the first letters of the capitalised words of a name, as a key.

    >>> initials_of("National Basketball Association of Canada")
    'nbac'
    """
    return "".join(word[0] for word in surface.split() if word[:1].isupper()).lower()
