"""Read the pages of a span of a MediaWiki XML export.

A page belongs to the span that holds the `<` of its `<page>`. Text inside is escaped, so `<page>`
is never anything else. Each page is parsed by itself: it has no document type, so no entity can be
declared and none expands. Memory: one chunk and one page; a page that is too long is passed over.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.engine.tasks import ByteRange
from pipeline.sources.chunks import Chunk, LossHandler, StoredHandler, source_error
from pipeline.sources.lines import START_BYTES, LongHandler
from pipeline.sources.opening import read_chunks
from schemas import bounded_lines

OPEN, CLOSE = b"<page>", b"</page>"


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
    span: ByteRange,
    on_loss: LossHandler | None = None,
    on_stored: StoredHandler | None = None,
    on_long: LongHandler | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Yield the position and the XML of each page of the span.

    A position is the byte of the page's `<page>` in a plain file; in a compressed one it is "A+B":
    byte B of what the block or member at byte A decodes to. It does not depend on how the file is
    cut.

    Args:
        span: the bytes to read.
        on_loss: receives each block or member that is lost; without it, a loss raises.
        on_stored: receives, chunk by chunk, the byte of the file up to which pages have come out.
        on_long: receives each page of more than 64 MB; without it, such a page raises.

    Raises:
        SourceError: corrupt input (unless `on_loss` takes it), a file that ends inside a page, or a
            page that is too long (unless `on_long` takes it).
    """
    scanner = _PageScanner(span, on_long)
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
    """Find pages in chunks; what is beyond the bound of a page is passed over, not held."""

    def __init__(self, span: ByteRange, on_long: LongHandler | None) -> None:
        self._path = span.path
        self._on_long = on_long
        self._max_bytes = bounded_lines.MAX_LINE_BYTES
        self._buffer = bytearray()
        # Where the chunks in the buffer begin there, and what they call their first bytes.
        self._chunks: list[tuple[int, str, int]] = []
        # How many bytes of the buffer belong to the span.
        self._owned = 0
        # How many bytes of the buffer have been searched for the end of a page.
        self._cursor = 0
        # Of the page that has begun: its position, how many bytes of it were passed over because it
        # is too long, and what is kept of such a page.
        self._position = ""
        self._passed = 0
        self._start = b""
        self.inside = False
        self.done = False

    def feed(self, chunk: Chunk) -> Iterator[tuple[str, bytes]]:
        """Yield the pages that end in the chunk."""
        # Bytes are lost: the page that had begun before them has no end.
        if chunk.broken:
            self._drop(len(self._buffer))
            self.inside, self._passed = False, 0

        self._chunks.append((len(self._buffer), chunk.prefix, chunk.offset))
        self._buffer += chunk.data
        if chunk.owned:
            self._owned = len(self._buffer)
        while self._find_open() and (page := self._take_page()) is not None:
            # Nothing is left of one that was too long.
            if page:
                yield self._position, page
        self.done = not (chunk.owned or self.inside or self._owned)

    def _drop(self, num_bytes: int) -> None:
        """Remove bytes from the start of the buffer."""
        del self._buffer[:num_bytes]
        # Dropped bytes may reach beyond the owned ones.
        self._owned = max(self._owned - num_bytes, 0)
        self._cursor = 0
        chunks = [(place - num_bytes, prefix, offset) for place, prefix, offset in self._chunks]
        # Those before the one in which the buffer begins now are gone.
        num_begun = sum(place <= 0 for place, _, _ in chunks)
        self._chunks = chunks[max(num_begun - 1, 0) :]

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
        place, prefix, first = self._chunks[0]
        self._position = f"{prefix}{first - place}"
        self.inside = True
        return True

    def _take_page(self) -> bytes | None:
        """Remove the page from the buffer; return None if its end is still to come.

        One that is too long is handed over, and b"" returned.
        """
        offset = self._buffer.find(CLOSE, self._cursor)
        end = offset + len(CLOSE) if offset >= 0 else len(self._buffer)
        is_long = self._passed + end > self._max_bytes
        if is_long and not self._passed:
            self._start = self._start_of_long()
        if offset < 0:
            # An end tag may have begun here. The next search begins there, so that no byte is
            # searched twice.
            searched = max(end - len(CLOSE) + 1, 0)
            self._cursor = searched
            if is_long:
                self._passed += searched
                self._drop(searched)
            return None

        page = b"" if is_long else bytes(self._buffer[:end])
        self._drop(end)
        self.inside, self._passed = False, 0
        if is_long and self._on_long is not None:
            self._on_long(self._position, f"the page is longer than {self._limit}", self._start)
        return page

    @property
    def _limit(self) -> str:
        return f"{self._max_bytes / (1 << 20):g} MB"

    def _start_of_long(self) -> bytes:
        """Return what is kept of a page that is too long.

        Raises:
            SourceError: nobody takes such pages.
        """
        if self._on_long is None:
            offset = int(self._position.partition("+")[0])
            problem = f"the page at {self._position} is longer than {self._limit}"
            raise source_error(self._path, offset, problem, "give an export without it")
        return bytes(self._buffer[:START_BYTES])


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
