"""Turn wikitext into plain text and its links, as anchors with exact offsets.

Goes in: the wikitext of an article. Comes out: `PlainText`: text (single spaces, lines as in the
source, headings on lines of their own) and anchors, half-open ranges of code points with the title
that each leads to. Dropped: templates, tables, references, files, categories, links to other
languages. A link trail belongs to its link, as MediaWiki shows
it: "[[bus]]es" reads "buses" and is one anchor. Costs about 0.25 s per MB (mwparserfromhell on
cleaned wikitext).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import unescape

import mwparserfromhell
from mwparserfromhell.nodes import ExternalLink, Heading, HTMLEntity, Node, Tag, Text, Wikilink
from mwparserfromhell.parser import ParserError

from pipeline.documents.wikitext_clean import DROPPED_TAGS, clean_wikitext
from pipeline.documents.wikitext_titles import link_kind, link_target

_TRAIL = re.compile(r"[a-z]+")
_SPACE_RUN = re.compile(r"[ \t\r\f\v\u00a0\u2000-\u200a\u202f\u3000]+")
_LINE_END = re.compile(r" ?\n ?")
_BLANK_LINES = re.compile(r"\n{3,}")
_HIDDEN_TAGS = frozenset((*DROPPED_TAGS.split("|"), "table", "style", "script"))
# Tags whose text begins a new line.
_LINE_TAGS = frozenset(("br", "hr", "p", "div", "blockquote", "li", "dt", "dd"))


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


def plain_text(wikitext: str) -> PlainText:
    """Return the text and the anchors of an article.

    Raises:
        WikitextError: the parser gave up.
    """
    try:
        nodes = mwparserfromhell.parse(clean_wikitext(wikitext), skip_style_tags=True).nodes
    # Deeply nested markup exhausts the stack of the parser.
    except (ParserError, RecursionError) as error:
        raise WikitextError("wikitext that the parser cannot read") from error

    writer = _TextWriter()
    writer.write_nodes(nodes)
    return PlainText(text="".join(writer.pieces), anchors=tuple(writer.anchors))


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
        target = str(link.title)
        if link_kind(target) == "hidden":
            return

        # What the link shows is written apart: its text becomes one line, and links inside it are
        # no anchors.
        inner = _TextWriter()
        bare_target = unescape(target).strip().removeprefix(":").replace("_", " ")
        inner.write_nodes([Text(bare_target)] if link.text is None else link.text.nodes)
        display = " ".join("".join(inner.pieces).split())
        if not display:
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
        if name in _HIDDEN_TAGS:
            return

        # Wiki markup, such as the asterisk of a list, stands at the start of a line already.
        line_end = "\n" if name in _LINE_TAGS and not tag.wiki_markup else ""
        self._add_space(line_end)
        if tag.contents is not None and tag.contents.nodes:
            self.write_nodes(tag.contents.nodes)
            self._add_space(line_end)


def _character(entity: HTMLEntity) -> str:
    """Return the character of an HTML entity.

    An entity that stands for nothing stays as written; a control character is dropped.
    """
    try:
        character = str(entity.normalize())
    except (ValueError, OverflowError):
        return str(entity)
    return character if character.isprintable() or character.isspace() else ""
