"""Drop names of the dictionary that the text around speaks against.

Goes in: the mentions of a document, none overlapping, and its tokens. Comes out: those that stay.
Only mentions that the dictionary alone found are judged: where the recogniser, the corpus or an
annotator vouches for a span, it stays. Costs a few look-ups per judged mention.

The evidence, in this order:

1. Letter case against the label. A common noun with capitals is a title, a part of a name, or the
   first word of a sentence: "[Director] of the Institute", "[Prime Minister] Medvedev".
2. The capitalised words around. A single name inside a longer run of them is a part of a name that
   nobody knows: "MIT [Radiation] Laboratory". Words that other mentions or titles explain do not
   count.
3. The beginning of a sentence. A capital there says nothing: the word must be a name elsewhere in
   the document.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np

from pipeline.index.name_keys import normalise
from pipeline.index.words import ALPHA, JOINS, LOWER, OPENS, STOP
from pipeline.link.probes import Document, Names
from pipeline.link.spans import DICTIONARY, PERSON_LABELS, Span

# A sentence with a larger share of capitalised words, function words aside, is a headline.
HEADLINE_SHARE = 0.6
ROMAN_DIGITS = frozenset("IVXLCDM.")


def plausible_spans(document: Document, spans: Sequence[Span], names: Names) -> list[Span]:
    """Return the spans that the text does not speak against, in order.

    Args:
        document: text and tokens.
        spans: in the order of the text, none overlapping.
        names: tests of names.
    """
    if not any(span.detector == DICTIONARY for span in spans):
        return list(spans)
    judge = _Judge(document, spans, names)
    return [span for span in spans if span.detector != DICTIONARY or judge.is_plausible(span)]


class _Judge:
    """Judge the dictionary's names in one document."""

    def __init__(self, document: Document, spans: Sequence[Span], names: Names) -> None:
        tokens, table = document.tokens, document.table
        self._text, self._names = document.text, names
        self._has_recogniser = document.has_recogniser
        self._starts, self._ends = tokens.starts.tolist(), tokens.ends.tolist()
        self._opens: list[bool] = tokens.opens_sentence.tolist()
        self._words: list[int] = tokens.words.tolist()
        flags = table.flags[tokens.words]
        self._flags: list[int] = flags.tolist()
        self._keys = table.keys
        self._spans = spans
        self._span_starts = [span.start for span in spans]

        # Words that the document writes with a capital within a sentence, and those in lower case.
        within = (flags & OPENS > 0) & ~tokens.opens_sentence
        self._capital_within = {
            self._keys[word] for word in np.unique(tokens.words[within]).tolist()
        }
        lower = np.unique(tokens.words[flags & LOWER > 0])
        self._lower = {self._keys[word] for word in lower.tolist()}

    def is_plausible(self, span: Span) -> bool:
        """Say whether a name of the dictionary stays a mention."""
        surface = self._text[span.start : span.end]
        # The tokens of the span, first and last.
        low = bisect_right(self._ends, span.start)
        high = bisect_left(self._starts, span.end) - 1
        if not surface[:1].isupper() or self._is_caseless(low, high):
            return True

        key = normalise(surface)
        is_single = low == high
        # What the corpus links in lower case, it links with a capital too.
        if is_single and self._names.is_linked(key):
            return True
        is_line = self._is_whole_sentence(low, high)
        if not self._names.is_proper(key):
            # "Colorectal cancer" at the beginning of a sentence is written as the label is.
            has_inner_capital = any(
                self._flags[token] & OPENS for token in range(low + 1, high + 1)
            )
            if is_line or not (is_single or has_inner_capital):
                return True
            return is_single and not self._opens[low] and self._stands_alone(low, key)
        if self._is_part_of_run(low, high) or (is_single and self._is_title(span)):
            return False
        if not is_single:
            return True
        return not self._opens[low] or is_line or self._is_name_elsewhere(key)

    def _is_caseless(self, low: int, high: int) -> bool:
        """Say whether the case of a span says nothing, as in a sentence in capitals."""
        return all(
            self._text[self._starts[t] : self._ends[t]].isupper() for t in range(low, high + 1)
        )

    def _is_whole_sentence(self, low: int, high: int) -> bool:
        """Say whether a span is all of a sentence: a heading, an item of a list."""
        is_end = high + 1 == len(self._opens) or self._opens[high + 1]
        return self._opens[low] and is_end

    def _is_name_elsewhere(self, key: str) -> bool:
        """Say whether a word at the beginning of a sentence is a name elsewhere in the document.

        Without a recogniser it is enough that it is nowhere in lower case.
        """
        if key in self._lower:
            return False
        return not self._has_recogniser or key in self._capital_within

    def _is_title(self, span: Span) -> bool:
        """Say whether a person's name follows a word directly: "Sen. Charles Schumer"."""
        position = bisect_right(self._span_starts, span.start)
        if position == len(self._spans):
            return False
        following = self._spans[position]
        gap = self._text[span.end : following.start]
        return following.ner_type in PERSON_LABELS and not gap.strip(" .\u00a0")

    def _stands_alone(self, token: int, key: str) -> bool:
        """Say whether a common word has its capital as a word: "Expressionism, Cubism".

        So it is nowhere in lower case, and no capitalised word is near, function words passed over.
        """
        if key in self._lower:
            return False
        for step in (-1, 1):
            beside = token + step
            while self._in_sentence(beside - step, beside) and self._flags[beside] & STOP:
                beside += step
            if self._in_sentence(beside - step, beside) and self._flags[beside] & OPENS:
                return False
        return True

    def _is_part_of_run(self, low: int, high: int) -> bool:
        """Say whether capitalised words beside a name make it a part of an unknown one.

        A name of several words may follow any word; a headline writes all words with capitals.
        """
        after = self._beside(high, 1)
        if after is not None and not self._is_in_sure_mention(after):
            return low == high or not self._is_headline(high)
        before = self._beside(low, -1) if low == high else None
        return before is not None and not self._is_explained(before)

    def _beside(self, token: int, step: int) -> int | None:
        """Return the capitalised word directly before or after a token; a hyphen may be between."""
        beside = token + step
        if self._in_sentence(token, beside) and self._flags[beside] & JOINS:
            token, beside = beside, beside + step
        if not self._in_sentence(token, beside):
            return None
        flag = self._flags[beside]
        word = self._text[self._starts[beside] : self._ends[beside]]
        # "The Histories III" and "Boeing 747b" are followed by numbers, not by names.
        is_number = word[0].isdigit() or not set(word) - ROMAN_DIGITS
        return beside if flag & OPENS and not flag & STOP and not is_number else None

    def _in_sentence(self, token: int, beside: int) -> bool:
        """Say whether a token and the one beside it are in one sentence."""
        return 0 <= beside < len(self._opens) and not self._opens[max(token, beside)]

    def _is_explained(self, token: int) -> bool:
        """Say whether a capitalised word before a name belongs to something else.

        So it is in a sure mention, at the beginning of a sentence, and if it is a common word, such
        as a title.
        """
        if self._opens[token] or self._is_in_sure_mention(token):
            return True
        key = self._keys[self._words[token]]
        return self._names.is_name(key) and not self._names.is_proper(key)

    def _is_in_sure_mention(self, token: int) -> bool:
        """Say whether a token is in a mention that is no single word of the dictionary alone."""
        position = bisect_right(self._span_starts, self._starts[token]) - 1
        if position < 0 or self._ends[token] > self._spans[position].end:
            return False
        span = self._spans[position]
        surface = self._text[span.start : span.end]
        if span.detector != DICTIONARY:
            return True
        # "Winnipeg [Police Service]": a phrase says what the run is, and is no name beside it.
        return " " in surface and self._names.is_proper(normalise(surface))

    def _is_headline(self, token: int) -> bool:
        """Say whether most words of a token's sentence have a capital."""
        low = high = token
        while low > 0 and not self._opens[low]:
            low -= 1
        while high + 1 < len(self._opens) and not self._opens[high + 1]:
            high += 1
        words = [flag for flag in self._flags[low : high + 1] if flag & ALPHA and not flag & STOP]
        return sum(flag & OPENS > 0 for flag in words) > HEADLINE_SHARE * len(words)
