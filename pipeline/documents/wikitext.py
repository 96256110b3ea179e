"""Wikitext to plain text and its links as anchors, with exact offsets.

Goes in: the wikitext of an article. Comes out: `PlainText`: text (single spaces, lines as in the source, headings on
lines of their own) and anchors, half-open ranges of code points with the title that each leads to. Dropped: templates,
tables, references, files, categories, links to other languages. A link trail belongs to its link, as MediaWiki shows
it: "[[bus]]es" reads "buses" and is one anchor. Costs about 0.25 s per MB (mwparserfromhell on cleaned wikitext).
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
_LINE_TAGS = frozenset(("br", "hr", "p", "div", "blockquote", "li", "dt", "dd"))


class WikitextError(ValueError):
    """Wikitext that the parser cannot read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """A link: code points start to end of the text, and the title it leads to."""

    start: int
    end: int
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainText:
    """Text of an article and its links, in order."""

    text: str
    anchors: tuple[Anchor, ...]


def plain_text(wikitext: str) -> PlainText:
    """Text and anchors of an article.

    Raises:
        WikitextError: the parser gave up.
    """
    try:
        nodes = mwparserfromhell.parse(clean_wikitext(wikitext), skip_style_tags=True).nodes
    except (ParserError, RecursionError) as error:
        raise WikitextError("wikitext that the parser cannot read") from error
    writer = _Writer()
    writer.nodes(nodes)
    return PlainText(text="".join(writer.parts), anchors=tuple(writer.anchors))


class _Writer:
    """Text written so far; white space waits until more text follows, so that offsets never change."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.anchors: list[Anchor] = []
        self._length = 0
        self._gap = ""  # white space before the next text
        self._open_anchor: Anchor | None = None  # the last one written, while a trail may follow

    def nodes(self, nodes: Iterable[Node]) -> None:
        """Write parsed nodes in order."""
        for node in nodes:
            if isinstance(node, Text):
                self._text(str(node.value))
                continue
            self._open_anchor = None
            if isinstance(node, Wikilink):
                self._link(node)
            elif isinstance(node, Heading):
                self._own_line(node.title.nodes)
            elif isinstance(node, HTMLEntity):
                self._text(_character(node))
            elif isinstance(node, ExternalLink):
                self._external(node)
            elif isinstance(node, Tag):
                self._tag(node)

    def _text(self, text: str) -> None:
        if self._open_anchor is not None and text:
            trail = _TRAIL.match(text)
            if trail:
                self._put(trail.group())
                anchor = self._open_anchor
                self.anchors[-1] = Anchor(start=anchor.start, end=self._length, title=anchor.title)
                text = text[trail.end() :]
            self._open_anchor = None
        text = _BLANK_LINES.sub("\n\n", _LINE_END.sub("\n", _SPACE_RUN.sub(" ", text)))
        body = text.strip(" \n")
        if not body:
            self._space(text)
            return
        start = text.index(body)
        self._space(text[:start])
        self._put(body)
        self._space(text[start + len(body) :])

    def _space(self, space: str) -> None:
        lines = min(self._gap.count("\n") + space.count("\n"), 2)
        self._gap = "\n" * lines if lines else (self._gap or space)[:1]

    def _put(self, body: str) -> None:
        """Write text that starts and ends with something to read."""
        gap = self._gap if self._length else ""
        self.parts.append(gap + body)
        self._length += len(gap) + len(body)
        self._gap = ""

    def _link(self, link: Wikilink) -> None:
        target = str(link.title)
        kind = link_kind(target)
        if kind == "hidden":
            return
        inner = _Writer()
        bare = unescape(target).strip().removeprefix(":").replace("_", " ")
        inner.nodes([Text(bare)] if link.text is None else link.text.nodes)
        display = " ".join("".join(inner.parts).split())
        if not display:
            return
        shown = str(link.text) if link.text is not None else ""
        if shown[:1].isspace():
            self._space(" ")
        self._put(display)
        title = link_target(target)
        if title:
            anchor = Anchor(start=self._length - len(display), end=self._length, title=title)
            self.anchors.append(anchor)
            self._open_anchor = None if shown[-1:].isspace() else anchor
        if shown[-1:].isspace():
            self._space(" ")

    def _own_line(self, nodes: Iterable[Node]) -> None:
        self._space("\n\n")
        self.nodes(nodes)
        self._space("\n")

    def _external(self, link: ExternalLink) -> None:
        if link.title is not None:
            self.nodes(link.title.nodes)
        elif not link.brackets:
            self._text(str(link.url))

    def _tag(self, tag: Tag) -> None:
        name = str(tag.tag).strip().lower()
        if name in _HIDDEN_TAGS:
            return
        line_end = "\n" if name in _LINE_TAGS and not tag.wiki_markup else ""
        self._space(line_end)
        if tag.contents is not None and tag.contents.nodes:
            self.nodes(tag.contents.nodes)
            self._space(line_end)


def _character(entity: HTMLEntity) -> str:
    """What an entity stands for; as written if it stands for nothing, or for a control character."""
    try:
        character = str(entity.normalize())
    except (ValueError, OverflowError):
        return str(entity)
    return character if character.isprintable() or character.isspace() else ""
