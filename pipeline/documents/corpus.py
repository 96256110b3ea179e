"""Read corpora of four kinds as one stream of documents.

The kinds are plain text files, JSONL, Parquet and MediaWiki exports.

Each reader yields `RawDocument`s: a document, or a record that is skipped or faulty, with the
reason. No record is lost without a count. Text is UTF-8, anything else is a fault. Memory: one
record, or 1,000 rows of Parquet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import DocumentsConfig
from pipeline.documents.other_formats import OTHER_FORMATS, other_format
from pipeline.documents.wikitext import Anchor, WikitextError, plain_text
from pipeline.documents.wikitext_templates import is_disambiguation
from pipeline.engine import files
from pipeline.engine.kept_listings import once
from pipeline.engine.local_listing import FileEntry
from pipeline.engine.tasks import ByteRange
from pipeline.sources.chunks import (
    HEAD_BYTES,
    LossHandler,
    StoredHandler,
    format_of,
    sniff,
    source_error,
)
from pipeline.sources.lines import LongHandler, read_lines
from pipeline.sources.opening import read_chunks
from pipeline.sources.pages import RawPage, parse_page, read_pages
from pipeline.sources.ranges import peek
from schemas.bounded_lines import MAX_LINE_BYTES
from schemas.ids import parse_item_id
from schemas.listing import a_few

PARQUET_BATCH_ROWS = 1000
# Characters that are encoded at once, to see whether they can be.
ENCODED_CHARACTERS = 1 << 20
# By this much of a file's beginning its kind is told.
LOOKED_AT_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"
# How much of a faulty record is kept with its reject.
PAYLOAD_LENGTH = 2000
_REDIRECT_TEXT = re.compile(r"\s*#redirect\s*:?\s*\[\[([^\]|\n]+)", re.IGNORECASE)
# Any of these near the start of an XML file makes it a MediaWiki export.
_MEDIAWIKI = re.compile(rb"<mediawiki\b|<page>|<siteinfo>")


@dataclass(frozen=True, kw_only=True, slots=True)
class RawDocument:
    """Hold a document as read; `skipped` or `problem` give the reason why a record is none."""

    # Where the record starts in its file.
    position: str
    doc_id: str = ""
    title: str = ""
    text: str = ""
    anchors: tuple[Anchor, ...] = ()
    # Known links: start, end, QID.
    links: tuple[tuple[int, int, int], ...] = ()
    # How often each template was dropped, by name.
    dropped: Counter[str] = field(default_factory=Counter)
    # The counter that a skipped record adds to.
    skipped: str = ""
    problem: str = ""
    payload: str = ""


def kind_of(path: str, requested: str = "auto", text_field: str = "text") -> str:
    """Return the kind of a corpus file: text, jsonl, parquet or wiki-xml.

    The content decides, unless a kind is requested. A table of CSV is known by a column `text_field`.

    Raises:
        SourceError: empty, unreadable, of another format, or not of the requested kind.
    """
    # Opened once: there may be a million files.
    with files.open_read(path) as file:
        head = file.read(LOOKED_AT_BYTES)
        # One of many files may be empty: it becomes a reject.
        if not head and requested in ("auto", "text"):
            return "text"
        is_parquet = sniff(head[:HEAD_BYTES]) == "parquet"
        is_compressed = not is_parquet and format_of(path, file) != "plain"
    if is_compressed:
        head = peek(path, LOOKED_AT_BYTES)
    kind = "parquet" if is_parquet else _text_kind(path, head, text_field)

    # Any text may be read as text files: each file is then one document.
    if requested == "text" and kind in ("jsonl", "text", "html", *OTHER_FORMATS):
        return "text"
    if kind in OTHER_FORMATS:
        problem, advice = OTHER_FORMATS[kind]
        raise source_error(path, 0, problem, advice.format(path=path))
    if kind == "html":
        problem = "this is HTML or XML, not a MediaWiki export"
        raise source_error(path, 0, problem, 'convert it, or set format = "text"')
    # A wrong kind would fail on every record: one error at once says more.
    if requested not in ("auto", kind):
        problem = f"this looks like {kind}, not {requested}"
        raise source_error(path, 0, problem, 'correct documents.format, or set it to "auto"')
    return kind


def files_of(config: DocumentsConfig) -> dict[FileEntry, str]:
    """Return the files of the corpus, each with its kind.

    Costs one listing and one look into each file, inside `kept_listings` once for a command.

    Raises:
        SourceError: a file that is none of a corpus.
    """
    entries = files.find(config.inputs)
    return once(
        ("kinds", config.inputs, config.format, config.text_field),
        lambda: {entry: kind_of(entry.path, config.format, config.text_field) for entry in entries},
    )


def _text_kind(path: str, head: bytes, text_field: str) -> str:
    """Return the kind of a file that is not Parquet, by its first decoded bytes and its name."""
    is_whole = len(head) < LOOKED_AT_BYTES
    head = head.removeprefix(_BOM)
    text = head.lstrip()
    if _MEDIAWIKI.search(text[:4096]) and text[:1] == b"<":
        return "wiki-xml"
    if re.match(rb"<(?:!doctype\s+html|html|\?xml|head|body)\b", text, re.IGNORECASE):
        return "html"
    other = other_format(path, head, text_field, is_whole=is_whole)
    if other:
        return other
    return "jsonl" if re.match(rb'\{\s*"', text) else "text"


def read_text_file(path: str, doc_id: str) -> RawDocument:
    """Read a whole text file (gz, bz2 and zst too) as one document, without a byte-order mark.

    One over 64 MB is a fault.

    Raises:
        SourceError: corrupt.
    """
    num_bytes = files.size_of(path)
    if num_bytes == 0:
        return RawDocument(position="0", doc_id=doc_id)

    # Count while reading: a compressed file may be much longer than its size on disk.
    pieces, total = [], 0
    for chunk in read_chunks(ByteRange(path=path, start=0, end=num_bytes)):
        pieces.append(chunk.data)
        total += len(chunk.data)
        if total > MAX_LINE_BYTES:
            problem = (
                f"one document of more than {MAX_LINE_BYTES >> 20} MB: a text file is one document; "
                "split it, or write JSONL"
            )
            start_bytes = b"".join(pieces)[:PAYLOAD_LENGTH]
            payload = start_bytes.decode("utf-8", "replace")
            return RawDocument(position="0", doc_id=doc_id, problem=problem, payload=payload)

    # Decoded as a whole: a character may lie across two chunks.
    content = b"".join(pieces)
    try:
        return RawDocument(position="0", doc_id=doc_id, text=content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        start = content[:500].decode("utf-8", "replace")
        return RawDocument(position=str(error.start), problem="not UTF-8", payload=start)


def read_jsonl(
    span: ByteRange,
    label: str,
    config: DocumentsConfig,
    on_loss: LossHandler | None,
    on_stored: StoredHandler | None = None,
    on_long: LongHandler | None = None,
) -> Iterator[RawDocument]:
    """Yield one document per line; blank lines are passed over.

    Args:
        span: the bytes to read.
        label: a short name of the file. Without an id field, label and position are the id.
        config: the names of the fields.
        on_loss: receives each block or member that is lost; without it, a loss raises.
        on_stored: receives the byte of the file that the reader has reached.
        on_long: receives each line that is too long; without it, such a line raises.
    """
    # Fields stay raw JSON: only those that the settings name are decoded.
    decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
    for position, line in read_lines(span, on_loss, on_stored, on_long):
        # One of 250 MB is not held twice: neither here nor while the consumer has its document.
        line = line.removeprefix(_BOM).strip()
        if line:
            document = _json_document(decoder, line, f"{label}:{position}", config)
            del line
            yield document
            del document


def _json_document(
    decoder: msgspec.json.Decoder[dict[str, msgspec.Raw]],
    line: bytes,
    fallback_id: str,
    config: DocumentsConfig,
) -> RawDocument:
    """Return the document of a line.

    `fallback_id` is label and position: the id of a line without an id field.
    """
    position = fallback_id.rpartition(":")[2]

    def faulty(problem: str) -> RawDocument:
        payload = line[:PAYLOAD_LENGTH].decode("utf-8", "replace")
        return RawDocument(position=position, problem=problem, payload=payload)

    try:
        row = decoder.decode(line)
        text = _json_field(row, config.text_field)
        title = _json_field(row, config.title_field)
        doc_id = _json_field(row, config.id_field)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return faulty("not a JSON object of UTF-8 strings")
    if text is None:
        return faulty(f"no field {config.text_field!r}")

    try:
        links = _json_links(row, config.links_field, len(text))
    except ValueError as error:
        return faulty(f"field {config.links_field!r}: {error}")
    return RawDocument(
        position=position,
        doc_id=fallback_id if doc_id is None else doc_id,
        title=title or "",
        text=text,
        links=links,
    )


class _KnownLink(msgspec.Struct):
    """Hold a known link; qid is "Q42", 42, "U7", or null where the item is unknown."""

    start: int
    end: int
    qid: str | int | None = None


_LINKS_DECODER = msgspec.json.Decoder(list[_KnownLink])


def _json_links(
    row: dict[str, msgspec.Raw], name: str, length: int
) -> tuple[tuple[int, int, int], ...]:
    """Return the links of a document: start, end and QID, each span once.

    Links without an item are left out; of two links with one span the later counts.

    Raises:
        ValueError: the field is no list of links, or a link lies outside the text; the message
            names it.
    """
    # An empty name in the settings means that no field holds links.
    if not name or name not in row:
        return ()
    try:
        links = _LINKS_DECODER.decode(row[name])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError('no list of {"start", "end", "qid"}') from error

    # Two spans with the same ends would count one mention twice.
    qid_by_span = {}
    for link in links:
        if not 0 <= link.start < link.end <= length:
            span = f"{link.start}-{link.end}"
            raise ValueError(f"{span} lies outside the text of {length} code points")
        if link.qid is None:
            continue
        text = str(link.qid)
        # A bare number is that of an item of Wikidata.
        number = parse_item_id(f"Q{text}" if text[:1].isdigit() else text)
        if number is None:
            raise ValueError(f"{link.qid!r} is no item")
        qid_by_span[link.start, link.end] = number
    return tuple((start, end, qid) for (start, end), qid in qid_by_span.items())


def _json_field(row: dict[str, msgspec.Raw], name: str) -> str | None:
    """Return a field as text; None if it is missing or null.

    Raises:
        msgspec.MsgspecError: neither a string nor an integer.
        UnicodeError: a lone surrogate, which is no text.
    """
    value = msgspec.json.decode(row[name], type=str | int | None) if name in row else None
    if value is None:
        return None

    # Encoding fails for a lone surrogate, which JSON allows. Piece by piece: a text may be long.
    text = str(value)
    for start in range(0, 0 if text.isascii() else len(text), ENCODED_CHARACTERS):
        text[start : start + ENCODED_CHARACTERS].encode()
    return text


def parquet_ranges(
    path: str, unit_bytes: int, config: DocumentsConfig
) -> list[tuple[str, int, int]]:
    """Return row ranges (path, first row, row after the last) of about `unit_bytes` stored bytes.

    The ranges follow row groups, because a row group is read as a whole.

    Raises:
        SourceError: not Parquet, or without the text column.
    """
    try:
        with files.open_read(path) as file, pq.ParquetFile(file) as parquet:
            names, metadata = parquet.schema_arrow.names, parquet.metadata
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            sizes = [(group.num_rows, group.total_byte_size) for group in groups]
    except pa.ArrowInvalid as error:
        problem = f"not a readable Parquet file ({error})"
        raise source_error(path, 0, problem, "write it again") from error
    if config.text_field not in names:
        problem = f"no column {config.text_field!r} among {a_few(names, shown=20)}"
        raise source_error(path, 0, problem, "name the text column with documents.text_field")

    ranges, start, row, num_bytes = [], 0, 0, 0
    for num_rows, size in sizes:
        row, num_bytes = row + num_rows, num_bytes + size
        if num_bytes >= unit_bytes:
            ranges.append((path, start, row))
            start, num_bytes = row, 0

    # A file without rows still has one range: its unit counts no row.
    return [*ranges, (path, start, row)] if row > start or not ranges else ranges


def read_parquet(
    path: str, rows: range, label: str, config: DocumentsConfig
) -> Iterator[RawDocument]:
    """Yield one document per row.

    Args:
        path: the file.
        rows: a range from `parquet_ranges`: it covers whole row groups.
        label: a short name of the file. Without an id column, label and row number are the id.
        config: the names of the columns.
    """
    with files.open_read(path) as file, pq.ParquetFile(file) as parquet:
        # One column may serve as two fields: it is read once.
        names = dict.fromkeys((config.text_field, config.title_field, config.id_field))
        columns = [name for name in names if name in parquet.schema_arrow.names]

        # A row group belongs to the range that holds its first row.
        groups, group_start = [], 0
        for group in range(parquet.metadata.num_row_groups):
            if rows.start <= group_start < rows.stop:
                groups.append(group)
            group_start += parquet.metadata.row_group(group).num_rows

        number = rows.start
        batches = parquet.iter_batches(
            batch_size=PARQUET_BATCH_ROWS, row_groups=groups, columns=columns
        )
        # Rows are numbered within the file, so that ids do not depend on the ranges.
        for batch in batches:
            for row in batch.to_pylist():
                yield _row_document(row, number, label, config)
                number += 1


def _row_document(
    row: dict[str, object], number: int, label: str, config: DocumentsConfig
) -> RawDocument:
    """Return the document of a row of Parquet."""
    text = row.get(config.text_field)
    title = row.get(config.title_field)
    doc_id = row.get(config.id_field)
    # A null or a number in the text column is a fault of one row, not of the file.
    if not isinstance(text, str):
        problem = f"{config.text_field!r} is not a string"
        return RawDocument(position=str(number), problem=problem, payload=str(text))

    return RawDocument(
        position=str(number),
        doc_id=f"{label}:{number}" if doc_id is None else str(doc_id),
        title="" if title is None else str(title),
        text=text,
    )


def redirect_target(page: RawPage) -> str | None:
    """Return the title that a page redirects to; None if it does not redirect."""
    if page.redirect is not None:
        return page.redirect
    # Old exports have the redirect only in the text.
    match = _REDIRECT_TEXT.match(page.text[:1000])
    return match.group(1) if match else None


def read_articles(
    span: ByteRange,
    on_loss: LossHandler | None,
    on_stored: StoredHandler | None = None,
    on_long: LongHandler | None = None,
) -> Iterator[RawDocument]:
    """Yield the articles of a MediaWiki export as plain text with anchors.

    Pages of other namespaces, redirects and disambiguation pages are skipped.

    Args:
        span: the bytes to read.
        on_loss: receives each block or member that is lost; without it, a loss raises.
        on_stored: receives the byte of the file that the reader has reached.
        on_long: receives each page that is too long; without it, such a page raises.
    """
    for position, xml in read_pages(span, on_loss, on_stored, on_long):
        try:
            page = parse_page(xml)
        except ValueError as error:
            # Without the details after the colon, so that equal faults have equal reasons.
            problem = str(error).partition(":")[0]
            payload = xml[:PAYLOAD_LENGTH].decode("utf-8", "replace")
            yield RawDocument(position=position, problem=problem, payload=payload)
            continue
        yield _article(page, position)


def _article(page: RawPage, position: str) -> RawDocument:
    """Return the document of a page."""
    if page.namespace != 0:
        return RawDocument(position=position, skipped="skipped_namespace")
    if redirect_target(page) is not None:
        return RawDocument(position=position, skipped="skipped_redirect")
    # Other models, such as Lua modules and JSON, hold no running text.
    if page.model != "wikitext":
        return RawDocument(position=position, skipped="skipped_model")
    # A list of articles with one name: no running text.
    if is_disambiguation(page.text):
        return RawDocument(position=position, skipped="skipped_disambiguation")

    doc_id = str(page.page_id)
    try:
        plain = plain_text(page.text)
    except WikitextError as error:
        payload = page.text[:PAYLOAD_LENGTH]
        return RawDocument(position=position, doc_id=doc_id, problem=str(error), payload=payload)
    return RawDocument(
        position=position,
        doc_id=doc_id,
        title=page.title,
        text=plain.text,
        anchors=plain.anchors,
        dropped=plain.dropped,
    )
