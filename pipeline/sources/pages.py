"""Read the pages of a span of a MediaWiki XML export.

A page belongs to the span that holds the `<` of its `<page>`. Text inside is escaped, so `<page>`
is never anything else. Each page is parsed by itself: it has no document type, so no entity can be
declared and none expands. Memory: one chunk and one page.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.engine.tasks import ByteRange
from pipeline.sources.chunks import Chunk, LossHandler, StoredHandler, source_error
from pipeline.sources.opening import read_chunks

OPEN, CLOSE = b"<page>", b"</page>"
MAX_PAGE_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class RawPage:
    """Hold a page as exported; `redirect` is the title that it redirects to, if it does."""

    page_id: int
    namespace: int
    title: str
    redirect: str | None
    model: str
    text: str


def read_pages(
    span: ByteRange, on_loss: LossHandler | None = None, on_stored: StoredHandler | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield the position and the XML of each page of the span.

    The position is that of the block or chunk in which the page ends.

    Args:
        span: the bytes to read.
        on_loss: receives each block or member that is lost; without it, a loss raises.
        on_stored: receives, chunk by chunk, the byte of the file up to which pages have come out.

    Raises:
        SourceError: corrupt input (unless `on_loss` takes it), a file that ends inside a page, a
            page over 256 MB.
    """
    scanner = _PageScanner(span)
    for chunk in read_chunks(span, on_loss):
        yield from scanner.feed(chunk)
        if on_stored is not None:
            on_stored(chunk.stored)
        if scanner.done:
            return

    if scanner.inside:
        problem = "the file ends inside a page"
        error = source_error(span.path, span.start, problem, "download it again: it is cut off")
        if on_loss is None:
            raise error
        on_loss(error)


class _PageScanner:
    """Find pages in chunks."""

    def __init__(self, span: ByteRange) -> None:
        self._span = span
        self._buffer = bytearray()
        # How many bytes of the buffer belong to the span.
        self._owned = 0
        # How many bytes of the buffer have been searched for the end of a page.
        self._cursor = 0
        self.inside = False
        self.done = False

    def feed(self, chunk: Chunk) -> Iterator[tuple[str, bytes]]:
        """Yield the pages that end in the chunk."""
        # Bytes are lost: the page that had begun before them has no end.
        if chunk.broken:
            self._drop(len(self._buffer))
            self.inside = False

        self._buffer += chunk.data
        if chunk.owned:
            self._owned = len(self._buffer)
        while self._find_open() and (page := self._take_page()):
            yield f"{chunk.prefix}{chunk.offset}", page
        self.done = not (chunk.owned or self.inside or self._owned)

    def _drop(self, num_bytes: int) -> None:
        """Remove bytes from the start of the buffer."""
        del self._buffer[:num_bytes]
        # Dropped bytes may reach beyond the owned ones.
        self._owned = max(self._owned - num_bytes, 0)
        self._cursor = 0

    def _find_open(self) -> bool:
        """Say whether a page of the span has started; drop the bytes before it."""
        if self.inside:
            return True

        # The tag's first byte decides who owns the page; its other bytes may lie after the span.
        offset = self._buffer.find(OPEN, 0, self._owned + len(OPEN) - 1)
        if offset < 0:
            # Keep a start of the tag that may go on in the next chunk.
            self._drop(max(len(self._buffer) - len(OPEN) + 1, 0))
            return False

        self._drop(offset)
        self.inside = True
        return True

    def _take_page(self) -> bytes:
        """Remove the whole page from the buffer; return b"" if its end is still to come."""
        offset = self._buffer.find(CLOSE, self._cursor)
        if offset < 0:
            # The next search begins where an end tag may have begun, so that no byte is searched
            # twice.
            self._cursor = max(len(self._buffer) - len(CLOSE), 0)
            if len(self._buffer) > MAX_PAGE_BYTES:
                problem = f"a page is longer than {MAX_PAGE_BYTES >> 20} MB"
                advice = "this is no MediaWiki export"
                raise source_error(self._span.path, self._span.start, problem, advice)
            return b""

        page = bytes(self._buffer[: offset + len(CLOSE)])
        self._drop(offset + len(CLOSE))
        self.inside = False
        return page


def parse_page(xml: bytes) -> RawPage:
    """Return the fields of one `<page>` element; of several revisions the last counts.

    Raises:
        ValueError: not well-formed, or without id or title.
    """
    try:
        page = ET.fromstring(xml)
    except ET.ParseError as error:
        raise ValueError(f"page is not well-formed XML: {error}") from error

    title, page_id = page.findtext("title"), page.findtext("id")
    if not title or not page_id or not page_id.isdecimal():
        raise ValueError("page without title or id")

    # A page without a revision normally has no model and no text either.
    revisions = page.findall("revision")
    revision = revisions[-1] if revisions else page
    redirect = page.find("redirect")
    return RawPage(
        page_id=int(page_id),
        namespace=int(page.findtext("ns") or 0),
        title=title,
        redirect=None if redirect is None else redirect.get("title", ""),
        model=revision.findtext("model") or "wikitext",
        text=revision.findtext("text") or "",
    )
