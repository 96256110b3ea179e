"""Turn wikitext into plain text and its links, as anchors with exact offsets.

Goes in: the wikitext of an article. Comes out: `PlainText`: text (single spaces, lines as in the
source, headings on lines of their own) and anchors, half-open ranges of code points with the title
that each leads to. Dropped: tables, references, files, categories, links to other languages, and
templates but those that stand inside sentences (`wikitext_templates`). A link trail belongs to its
link, as MediaWiki shows it: "[[bus]]es" reads "buses" and is one anchor; what was dropped between
two words keeps them apart. Costs about 0.25 s per MB (mwparserfromhell on cleaned wikitext).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from html import unescape

import mwparserfromhell
from mwparserfromhell.nodes import ExternalLink, Heading, HTMLEntity, Node, Tag, Text, Wikilink
from mwparserfromhell.parser import ParserError

from pipeline.documents.wikitext_clean import DROPPED_TAGS, clean_wikitext
from pipeline.documents.wikitext_templates import GAP, SEAM
from pipeline.documents.wikitext_titles import link_kind, link_target

_TRAIL = re.compile(r"[a-z]+")
_SPACE_RUN = re.compile(r"[ \t\r\f\v\u00a0\u2000-\u200a\u202f\u3000]+")
_LINE_END = re.compile(r" ?\n ?")
_BLANK_LINES = re.compile(r"\n{3,}")
_MARKS = re.compile(rf"[{GAP}{SEAM}][ \n{GAP}{SEAM}]*")
# Signs behind which a new word begins.
_ENDS = ".,;:!?)”»"
_SUPERSCRIPTS = str.maketrans("0123456789+-−n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ")
_HIDDEN_TAGS = frozenset((*DROPPED_TAGS.split("|"), "table", "style", "script"))
# Signs of a raised number: longer ones are no powers.
MAX_POWER = 4
# Tags whose text begins a new line.
_LINE_TAGS = frozenset((
    "br", "hr", "p", "div", "blockquote", "li", "dt", "dd", "ul", "ol", "dl", "poem", "center",
    "h1", "h2", "h3", "h4", "h5", "h6", "table", "caption", "tr", "td", "th", "address", "article",
    "aside", "details", "summary", "figure", "figcaption", "footer", "header", "main", "nav",
))  # fmt: skip


class WikitextError(ValueError):
    """Report wikitext that the parser cannot read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """Hold a link: code points start to end of the text, and the title it leads to."""

    start: int
    end: int
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainText:
    """Hold the text of an article and its links, in order."""

    text: str
    anchors: tuple[Anchor, ...]
    # How often each template was dropped, by its name in lower case.
    dropped: Counter[str]


def plain_text(wikitext: str) -> PlainText:
    """Return the text and the anchors of an article.

    Raises:
        WikitextError: the parser gave up.
    """
    dropped: Counter[str] = Counter()
    try:
        cleaned = clean_wikitext(wikitext, dropped)
        nodes = mwparserfromhell.parse(cleaned, skip_style_tags=True).nodes
    # Deeply nested markup exhausts the stack of the parser.
    except (ParserError, RecursionError) as error:
        raise WikitextError("wikitext that the parser cannot read") from error

    writer = _TextWriter()
    writer.write_nodes(nodes)
    text, anchors = without_marks("".join(writer.pieces), writer.anchors)
    return PlainText(text=text, anchors=tuple(anchors), dropped=dropped)


def without_marks(text: str, anchors: list[Anchor]) -> tuple[str, list[Anchor]]:
    """Return a text without the marks of `clean_wikitext`, and its anchors, moved with it."""
    pieces: list[str] = []
    # Where kept parts of the text begin, before and after.
    old_starts, new_starts = [0], [0]
    position, length, last = 0, 0, ""
    for run in _MARKS.finditer(text):
        kept = text[position : run.start()]
        bare = kept.rstrip(" \n")
        before = bare[-1:] or last
        kept = bare + _instead_of(
            before, kept[len(bare) :] + run.group(), text[run.end() : run.end() + 1]
        )
        last = kept[-1:] or last
        pieces.append(kept)
        length += len(kept)
        position = run.end()
        old_starts.append(position)
        new_starts.append(length)
    if not pieces:
        return text, anchors

    whole = "".join([*pieces, text[position:]])
    moved = []
    for anchor in anchors:
        start, end = (_moved(place, old_starts, new_starts) for place in (anchor.start, anchor.end))
        # A space that now stands for a mark may lie at an edge.
        surface = whole[start:end]
        start += len(surface) - len(surface.lstrip())
        end -= len(surface) - len(surface.rstrip())
        if start < end:
            moved.append(Anchor(start=start, end=end, title=anchor.title))
    return whole, moved


def _moved(place: int, old_starts: list[int], new_starts: list[int]) -> int:
    """Return where a place of the text with marks lies without them."""
    number = bisect_right(old_starts, place) - 1
    moved = new_starts[number] + place - old_starts[number]
    # A place inside a run of marks is where the run ends.
    return min(moved, new_starts[number + 1]) if number + 1 < len(new_starts) else moved


def _instead_of(before: str, run: str, after: str) -> str:
    """Return what stands in place of marks and the white space around them.

    Args:
        before: the sign before them; empty at the start of the text.
        run: marks and white space.
        after: the sign after them; empty at the end.
    """
    if not before or not after:
        return ""
    num_lines = run.count("\n")
    if num_lines or " " in run:
        return "\n" * min(num_lines, 2) or " "
    is_apart = GAP in run and after.isalnum()
    return " " if is_apart and (before.isalnum() or before in _ENDS) else ""


class _TextWriter:
    """Collect the text and the anchors of parsed nodes.

    White space waits until more text follows, so that offsets never change.
    """

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.anchors: list[Anchor] = []
        self._length = 0
        # White space that waits for the next text.
        self._gap = ""
        # The last anchor written, while a trail may follow.
        self._open_anchor: Anchor | None = None

    def write_nodes(self, nodes: Iterable[Node]) -> None:
        """Write parsed nodes in order; nodes of other kinds show no text."""
        for node in nodes:
            if isinstance(node, Text):
                self._write_text(str(node.value))
                continue

            # Only plain text directly after a link can be its trail.
            self._open_anchor = None
            if isinstance(node, Wikilink):
                self._write_link(node)
            elif isinstance(node, Heading):
                self._write_heading(node.title.nodes)
            elif isinstance(node, HTMLEntity):
                self._write_text(_character(node))
            elif isinstance(node, ExternalLink):
                self._write_external_link(node)
            elif isinstance(node, Tag):
                self._write_tag(node)
            # A link inside of markup is followed by the end of that markup first.
            if not isinstance(node, Wikilink):
                self._open_anchor = None

    def _write_text(self, text: str) -> None:
        """Write text; letters right after a link extend its anchor."""
        if self._open_anchor is not None and text:
            trail = _TRAIL.match(text)
            if trail:
                self._append(trail.group())
                anchor = self._open_anchor
                self.anchors[-1] = Anchor(start=anchor.start, end=self._length, title=anchor.title)
                text = text[trail.end() :]
            self._open_anchor = None

        text = _BLANK_LINES.sub("\n\n", _LINE_END.sub("\n", _SPACE_RUN.sub(" ", text)))
        body = text.strip(" \n")
        if not body:
            self._add_space(text)
            return

        start = text.index(body)
        self._add_space(text[:start])
        self._append(body)
        self._add_space(text[start + len(body) :])

    def _add_space(self, space: str) -> None:
        """Add to the waiting white space.

        Line ends win over spaces, and two line ends are the most.
        """
        lines = min(self._gap.count("\n") + space.count("\n"), 2)
        self._gap = "\n" * lines if lines else (self._gap or space)[:1]

    def _append(self, body: str) -> None:
        """Append text that starts and ends with something to read."""
        # White space before the first text of the article is dropped.
        gap = self._gap if self._length else ""
        self.pieces.append(gap + body)
        self._length += len(gap) + len(body)
        self._gap = ""

    def _write_link(self, link: Wikilink) -> None:
        """Write what a link shows, and its anchor if it leads to an article."""
        target = _bare(str(link.title))
        if link_kind(target) == "hidden":
            return

        # What the link shows is written apart: its text becomes one line, and links inside it are
        # no anchors.
        inner = _TextWriter()
        bare_target = unescape(target).strip().removeprefix(":").replace("_", " ")
        inner.write_nodes([Text(bare_target)] if link.text is None else link.text.nodes)
        display = " ".join("".join(inner.pieces).split())
        if not _bare(display).strip():
            return

        source = str(link.text) if link.text is not None else ""
        if source[:1].isspace():
            self._add_space(" ")
        self._append(display)

        # A link to a section of the same page, or elsewhere, is text but no anchor.
        title = link_target(target)
        if title:
            anchor = Anchor(start=self._length - len(display), end=self._length, title=title)
            self.anchors.append(anchor)
            self._open_anchor = None if source[-1:].isspace() else anchor
        if source[-1:].isspace():
            self._add_space(" ")

    def _write_heading(self, nodes: Iterable[Node]) -> None:
        """Write a heading on a line of its own, after an empty line."""
        self._add_space("\n\n")
        self.write_nodes(nodes)
        self._add_space("\n")

    def _write_external_link(self, link: ExternalLink) -> None:
        """Write the title of a link to another site, or a bare address."""
        if link.title is not None:
            self.write_nodes(link.title.nodes)
        # Brackets without a title show only a number.
        elif not link.brackets:
            self._write_text(str(link.url))

    def _write_tag(self, tag: Tag) -> None:
        """Write the contents of an HTML element or a list item."""
        # Authors write tags with capitals and spaces.
        name = str(tag.tag).strip().lower()
        # Wiki markup, such as the asterisk of a list, stands at the start of a line already.
        line_end = "\n" if name in _LINE_TAGS and not tag.wiki_markup else ""
        self._add_space(line_end)
        if name in _HIDDEN_TAGS:
            return

        if tag.contents is not None and tag.contents.nodes:
            # Behind a space it is the number of a note.
            is_behind = bool(self.pieces) and not self._gap and self.pieces[-1][-1:].isalnum()
            if name == "sup" and is_behind and _is_power(str(tag.contents)):
                # "10<sup>6</sup>" would read 106.
                self._write_text(str(tag.contents).translate(_SUPERSCRIPTS))
            else:
                self.write_nodes(tag.contents.nodes)
            self._add_space(line_end)


def _bare(text: str) -> str:
    """Return a text without marks."""
    return text.replace(GAP, "").replace(SEAM, "")


def _is_power(text: str) -> bool:
    """Say whether a raised text is a number that Unicode has raised digits for."""
    return 0 < len(text) <= MAX_POWER and all(ord(sign) in _SUPERSCRIPTS for sign in text)


def _character(entity: HTMLEntity) -> str:
    """Return the character of an HTML entity.

    An entity that stands for nothing stays as written; a control character is dropped.
    """
    try:
        character = str(entity.normalize())
    except (ValueError, OverflowError):
        return str(entity)
    return character if character.isprintable() or character.isspace() else ""
