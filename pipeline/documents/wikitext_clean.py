"""Remove from wikitext what shows no running text.

That is comments, references, formulas, most templates, tables, bold and italics.

Goes in: wikitext. Comes out: wikitext that a parser reads three times as fast, with a mark wherever
something stood between two words (`GAP`) or between parts of one (`SEAM`): what is deleted decides
about words too. The time is linear: one pass per kind of markup, no matter how it is nested.
"""

from __future__ import annotations

import re
from collections import Counter

from pipeline.documents.wikitext_templates import GAP, SEAM, expand_templates

DROPPED_TAGS = (
    "ref|references|math|chem|ce|gallery|score|timeline|syntaxhighlight|source|imagemap|hiero|"
    "graph|mapframe|maplink|templatedata|templatestyles|includeonly|section|categorytree|inputbox|"
    "indicator"
)
_DROPPED = re.compile(rf"<(/?)({DROPPED_TAGS})\b[^<>]*?(/?)>", re.IGNORECASE)
_BRACES = re.compile(r"\{{2,}|\}{2,}")
_TABLE_EDGE = re.compile(r"^[ \t:*#]*(\{\|)|^[ \t]*(\|\})", re.MULTILINE)
# Where a comment, or text that is shown as it is, begins.
_AS_WRITTEN = re.compile(r"<!--|<(nowiki|pre)\b[^<>]*?(/?)>", re.IGNORECASE)
_STRAY_NOWIKI = re.compile(r"</?nowiki\b[^<>]*>", re.IGNORECASE)
# Signs that would be markup, and character references, which are none.
_MARKUP = re.compile(r"&(?:#\d+|#x[0-9a-f]+|\w+);|[\[\]{}<>|'=*#:;~_!/-]", re.IGNORECASE)
# Behaviour switches, such as __NOTOC__.
_SWITCH = re.compile(r"__[A-Z]{3,}__")
_QUOTES = re.compile(r"('{2,})")
_POSSESSIVE = re.compile(r"s\b")
# How many quotes mark what.
ITALIC, BOLD, BOTH = 2, 3, 5
_MARKS = re.compile(f"[{GAP}{SEAM}]+")
# Templates with pronunciations leave parentheses with nothing, or only separators, in them.
_EMPTY_PARENTHESES = re.compile(rf"\([\s;,{GAP}{SEAM}]*\)")
_PARENTHESIS_START = re.compile(rf"\([\s{GAP}{SEAM}]*(?:[;,][\s{GAP}{SEAM}]*)+")


def drop_ranges(text: str, ranges: list[tuple[int, int]], mark: str = "") -> str:
    """Return the text with a mark in place of each range; ranges may nest or overlap."""
    pieces, position = [], 0
    for start, end in sorted(ranges):
        if start >= position:
            pieces += [text[position:start], mark]
        position = max(position, end)
    return "".join([*pieces, text[position:]])


def tag_ranges(text: str) -> list[tuple[int, int]]:
    """Return the ranges of dropped elements.

    An element goes from its start tag through the next end tag of that name; a tag without a
    partner goes alone.
    """
    tags = [
        (tag.start(), tag.end(), tag.group(1), tag.group(2).lower(), tag.group(3))
        for tag in _DROPPED.finditer(text)
    ]
    # A start tag after the last end tag of its name has no partner: without this look, it would
    # hide the rest of the text.
    last_end = {name: start for start, _, slash, name, _ in tags if slash}

    ranges, awaited_name, opened = [], "", 0
    for start, end, slash, name, closed in tags:
        if awaited_name:
            if slash and name == awaited_name:
                ranges.append((opened, end))
                awaited_name = ""
        elif not slash and not closed and last_end.get(name, -1) > start:
            awaited_name, opened = name, start
        else:
            ranges.append((start, end))
    return ranges


def table_ranges(text: str) -> list[tuple[int, int]]:
    """Return the ranges of balanced `{|` and `|}` at the starts of lines."""
    opened: list[int] = []
    ranges = []
    for edge in _TABLE_EDGE.finditer(text):
        if edge.group(1):
            opened.append(edge.start(1))
        elif opened:
            ranges.append((opened.pop(), edge.end()))
    return ranges


def as_written(text: str) -> str:
    """Remove comments; protect what is shown as it is, in `nowiki` and `pre`.

    Markup inside becomes character references, which the parser turns into characters. A start
    without an end is text.
    """
    lower = text.lower()
    pieces, position = [], 0
    # Names whose end does not come any more: looking for it again and again would be quadratic.
    without_end: set[str] = set()
    while match := _AS_WRITTEN.search(text, position):
        name = (match.group(1) or "").lower()
        pieces.append(text[position : match.start()])
        position = match.end()
        if match.group(2):
            pieces.append(SEAM)
            continue
        closing = f"</{name}" if name else "-->"
        end = -1 if name in without_end else lower.find(closing, position)
        if end < 0 and name:
            without_end.add(name)
            pieces.append(GAP)
            continue
        if not name:
            # A comment leaves nothing: a link trail goes on behind it. One without an end hides the rest.
            position = end + len(closing) if end >= 0 else len(text)
            continue
        shown = _MARKUP.sub(_escaped, text[position:end])
        pieces.append(f"{SEAM}{shown}{SEAM}" if name == "nowiki" else f"\n\n{shown}\n\n")
        after = text.find(">", end)
        position = after + 1 if after >= 0 else len(text)
    return _STRAY_NOWIKI.sub(SEAM, "".join([*pieces, text[position:]]))


def _escaped(markup: re.Match[str]) -> str:
    sign = markup.group()
    return sign if sign[0] == "&" else f"&#{ord(sign)};"


def without_quotes(line: str) -> str:
    """Return a line without the quotes that mark bold and italics; each leaves a seam.

    Two quotes mark italics, three bold, five both; one of four is text, and so are those over
    five. Where bold and italics are both left open, one bold mark is an apostrophe and italics:
    the first behind a word of one letter, else behind a longer word, else behind a space
    (MediaWiki's rule). Before that, three quotes that close italics before an "s" are an apostrophe
    too, though other marks of the line may hide it from that rule: "''Time'''s" reads "Time's".
    """
    parts = _QUOTES.split(line)
    runs = range(1, len(parts), 2)
    for number in runs:
        length = len(parts[number])
        num_apostrophes = {2: 0, 3: 0, 4: 1}.get(length, length - 5)
        parts[number - 1] += "'" * num_apostrophes
        parts[number] = "'" * (length - num_apostrophes)

    _mark_possessives(parts, runs)
    lengths = [len(parts[number]) for number in runs]
    num_bold = sum(length in (BOLD, BOTH) for length in lengths)
    num_italic = sum(length in (ITALIC, BOTH) for length in lengths)
    if num_bold % 2 and num_italic % 2:
        bold = [number for number in runs if len(parts[number]) == BOLD]
        if bold:
            chosen = min(bold, key=lambda number: _rank_as_apostrophe(parts[number - 1]))
            parts[chosen - 1] += "'"
    for number in runs:
        parts[number] = SEAM
    return "".join(parts)


def _mark_possessives(parts: list[str], runs: range) -> None:
    """Turn three quotes into an apostrophe and two where they close italics before an "s"."""
    is_italic = is_bold = False
    for number in runs:
        length = len(parts[number])
        is_behind_word = bool(parts[number - 1][-1:].strip())
        closes_italics = length == BOLD and is_italic and not is_bold and is_behind_word
        if closes_italics and _POSSESSIVE.match(parts[number + 1]):
            parts[number - 1] += "'"
            parts[number], length = "''", ITALIC
        is_italic ^= length in (ITALIC, BOTH)
        is_bold ^= length in (BOLD, BOTH)


def _rank_as_apostrophe(before: str) -> int:
    """Return how well an apostrophe fits behind a text; the lowest is taken."""
    if before[-1:] == " ":
        return 2
    return 0 if before[-2:-1] == " " else 1


def clean_wikitext(wikitext: str, dropped: Counter[str] | None = None) -> str:
    """Return the wikitext of the running text, links, headings and lists alone, with marks.

    Args:
        wikitext: of an article.
        dropped: gets the names of templates that were dropped.

    >>> text = clean_wikitext(
    ...     "'''Paris''' ({{IPA|pa.ʁi}}) is <!-- the --> a [[city]].<ref>{{cite}}</ref>"
    ... )
    >>> text.replace(GAP, "").replace(SEAM, "")
    'Paris  is  a [[city]].'
    """
    text = wikitext.replace(GAP, "\N{REPLACEMENT CHARACTER}").replace(
        SEAM, "\N{REPLACEMENT CHARACTER}"
    )
    # First of all: comments and `nowiki` may hide one half of a pair of tags or braces.
    text = as_written(text)
    text = drop_ranges(text, tag_ranges(text), GAP)
    text = expand_templates(text, Counter() if dropped is None else dropped)
    text = drop_ranges(text, table_ranges(text), GAP)

    # Braces without a partner would only slow the parser down; readers see them between words.
    text = _BRACES.sub(GAP, text.replace("{|", GAP))
    text = _SWITCH.sub("", text)
    text = "\n".join(without_quotes(line) if "''" in line else line for line in text.split("\n"))
    text = _PARENTHESIS_START.sub("(", _EMPTY_PARENTHESES.sub(GAP, text))
    return _MARKS.sub(_needed_marks, text)


def _needed_marks(marks: re.Match[str]) -> str:
    """Return a run of marks; nothing beside white space, where nothing has to be kept apart."""
    text, start, end = marks.string, marks.start(), marks.end()
    is_edge = start == 0 or end == len(text)
    return "" if is_edge or text[start - 1].isspace() or text[end].isspace() else marks.group()
