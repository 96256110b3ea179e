"""Corpora of four kinds as one stream of documents: plain text files, JSONL, Parquet, MediaWiki exports.

Each reader yields `RawDocument`s: a document, or one that is skipped or faulty and says why. Nothing is lost unsaid.
Text is UTF-8, anything else is a fault. Memory: one record, or 1,000 rows of Parquet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import DocumentsConfig
from pipeline.documents.wikitext import Anchor, WikitextError, plain_text
from pipeline.engine import files
from pipeline.sources.chunks import (
    HEAD_BYTES,
    ByteSpan,
    LossHandler,
    StoredHandler,
    sniff,
    source_error,
)
from pipeline.sources.lines import read_lines
from pipeline.sources.opening import read_chunks
from pipeline.sources.pages import RawPage, parse_page, read_pages
from pipeline.sources.ranges import peek

PARQUET_BATCH_ROWS = 1000
MAX_TEXT_FILE_BYTES = 64 << 20
_REDIRECT_TEXT = re.compile(r"\s*#redirect\s*:?\s*\[\[([^\]|\n]+)", re.IGNORECASE)
_MEDIAWIKI = re.compile(rb"<mediawiki\b|<page>|<siteinfo>")


@dataclass(frozen=True, kw_only=True, slots=True)
class RawDocument:
    """A document as read; `skipped` or `problem` say why it is none."""

    position: str  # in its file
    doc_id: str = ""
    title: str = ""
    text: str = ""
    anchors: tuple[Anchor, ...] = ()
    links: tuple[tuple[int, int, int], ...] = ()  # start, end, QID
    skipped: str = ""  # counter that it adds to
    problem: str = ""
    payload: str = ""


def kind_of(path: str, wanted: str = "auto") -> str:
    """Kind of a corpus file: text, jsonl, parquet or wiki-xml; by its content, unless one is wanted.

    Raises:
        SourceError: empty, unreadable, HTML, or not what was wanted.
    """
    if wanted in ("auto", "text") and files.size_of(path) == 0:
        return "text"  # one file of many may be empty: it becomes a reject
    with files.open_read(path) as file:
        is_parquet = sniff(file.read(HEAD_BYTES)) == "parquet"
    head = b"" if is_parquet else peek(path, 1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    found = "parquet" if is_parquet else _text_kind(head)
    if wanted == "text" and found in ("jsonl", "text", "html"):
        return "text"
    if found == "html":
        raise source_error(
            path,
            0,
            "this is HTML or XML, not a MediaWiki export",
            'convert it, or set format = "text"',
        )
    if wanted not in ("auto", found):
        raise source_error(
            path,
            0,
            f"this looks like {found}, not {wanted}",
            'mend documents.format or set it "auto"',
        )
    return found


def _text_kind(head: bytes) -> str:
    if _MEDIAWIKI.search(head[:4096]) and head[:1] == b"<":
        return "wiki-xml"
    if re.match(rb"<(?:!doctype|html|\?xml|head|body)\b", head, re.IGNORECASE):
        return "html"
    return "jsonl" if re.match(rb'\{\s*"', head) else "text"


def read_text_file(path: str, doc_id: str) -> RawDocument:
    """A whole text file (gz, bz2 and zst too) as one document, without a byte-order mark.

    Raises:
        SourceError: corrupt, or over 64 MB.
    """
    parts, total = [], 0
    if files.size_of(path) == 0:
        return RawDocument(position="0", doc_id=doc_id)
    for chunk in read_chunks(ByteSpan(path=path, start=0, end=files.size_of(path))):
        parts.append(chunk.data)
        total += len(chunk.data)
        if total > MAX_TEXT_FILE_BYTES:
            problem = f"one document of more than {MAX_TEXT_FILE_BYTES >> 20} MB"
            raise source_error(
                path, 0, problem, "a text file is one document: split it, or write JSONL"
            )
    content = b"".join(parts)
    try:
        return RawDocument(position="0", doc_id=doc_id, text=content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        shown = content[:500].decode("utf-8", "replace")
        return RawDocument(position=str(error.start), problem="not UTF-8", payload=shown)


def read_jsonl(
    span: ByteSpan,
    label: str,
    config: DocumentsConfig,
    on_loss: LossHandler | None,
    on_stored: StoredHandler | None = None,
) -> Iterator[RawDocument]:
    """One document per line; its id is the id field, or label and position where there is none."""
    decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
    for position, line in read_lines(span, on_loss, on_stored):
        stripped = line.removeprefix(b"\xef\xbb\xbf").strip()
        if stripped:
            yield _json_document(decoder, stripped, f"{label}:{position}", config)


def _json_document(
    decoder: msgspec.json.Decoder[dict[str, msgspec.Raw]],
    line: bytes,
    place: str,
    config: DocumentsConfig,
) -> RawDocument:
    position, payload = place.rpartition(":")[2], line[:2000].decode("utf-8", "replace")
    try:
        row = decoder.decode(line)
        text, title, doc_id = (
            _json_field(row, name)
            for name in (config.text_field, config.title_field, config.id_field)
        )
    except (msgspec.MsgspecError, UnicodeError):
        return RawDocument(
            position=position, problem="not a JSON object of UTF-8 strings", payload=payload
        )
    if text is None:
        return RawDocument(
            position=position, problem=f"no field {config.text_field!r}", payload=payload
        )
    try:
        links = _json_links(row, config.links_field, len(text))
    except ValueError as error:
        return RawDocument(
            position=position, problem=f"field {config.links_field!r}: {error}", payload=payload
        )
    doc_id = place if doc_id is None else doc_id
    return RawDocument(position=position, doc_id=doc_id, title=title or "", text=text, links=links)


class _Link(msgspec.Struct):
    """A known link; qid is "Q42", 42, or null where the item is not known."""

    start: int
    end: int
    qid: str | int | None = None


_LINKS = msgspec.json.Decoder(list[_Link])


def _json_links(
    row: dict[str, msgspec.Raw], name: str, length: int
) -> tuple[tuple[int, int, int], ...]:
    """Links of a document, each span once; those without an item are left out.

    Raises:
        ValueError: they are not such a list, or lie outside the text; says which.
    """
    if not name or name not in row:
        return ()
    try:
        links = _LINKS.decode(row[name])
    except msgspec.MsgspecError as error:
        raise ValueError('no list of {"start", "end", "qid"}') from error
    found = {}
    for link in links:
        if not 0 <= link.start < link.end <= length:
            raise ValueError(
                f"{link.start}-{link.end} lies outside the text of {length} code points"
            )
        if link.qid is not None:
            number = str(link.qid).removeprefix("Q")
            if not (number.isascii() and number.isdigit() and 0 < int(number) < 1 << 32):
                raise ValueError(f"{link.qid!r} is no item")
            found[link.start, link.end] = int(number)
    return tuple((start, end, qid) for (start, end), qid in found.items())


def _json_field(row: dict[str, msgspec.Raw], name: str) -> str | None:
    value = msgspec.json.decode(row[name], type=str | int | None) if name in row else None
    if value is None:
        return None
    text = str(value)
    text.encode()  # lone surrogates are no text
    return text


def parquet_ranges(
    path: str, unit_bytes: int, config: DocumentsConfig
) -> list[tuple[str, int, int]]:
    """Row ranges of about so many stored bytes; they follow row groups.

    Raises:
        SourceError: not Parquet, or without the text column.
    """
    try:
        with files.open_read(path) as file, pq.ParquetFile(file) as parquet:
            names, metadata = parquet.schema_arrow.names, parquet.metadata
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            sizes = [(group.num_rows, group.total_byte_size) for group in groups]
    except pa.ArrowInvalid as error:
        raise source_error(
            path, 0, f"not a readable Parquet file ({error})", "write it again"
        ) from error
    if config.text_field not in names:
        problem = f"no column {config.text_field!r} among {', '.join(names)}"
        raise source_error(path, 0, problem, "name the text column with documents.text_field")
    ranges, start, row, num_bytes = [], 0, 0, 0
    for rows, size in sizes:
        row, num_bytes = row + rows, num_bytes + size
        if num_bytes >= unit_bytes:
            ranges.append((path, start, row))
            start, num_bytes = row, 0
    return [*ranges, (path, start, row)] if row > start or not ranges else ranges


def read_parquet(
    path: str, rows: range, label: str, config: DocumentsConfig
) -> Iterator[RawDocument]:
    """One document per row; its id is the id column, or label and row number where there is none."""
    with files.open_read(path) as file, pq.ParquetFile(file) as parquet:
        wanted = (config.text_field, config.title_field, config.id_field)
        columns = [name for name in dict.fromkeys(wanted) if name in parquet.schema_arrow.names]
        first, groups = 0, []
        for group in range(parquet.metadata.num_row_groups):
            if rows.start <= first < rows.stop:
                groups.append(group)
            first += parquet.metadata.row_group(group).num_rows
        number = rows.start
        for batch in parquet.iter_batches(
            batch_size=PARQUET_BATCH_ROWS, row_groups=groups, columns=columns
        ):
            for row in batch.to_pylist():
                yield _row_document(row, number, label, config)
                number += 1


def _row_document(
    row: dict[str, object], number: int, label: str, config: DocumentsConfig
) -> RawDocument:
    text, title, doc_id = (
        row.get(name) for name in (config.text_field, config.title_field, config.id_field)
    )
    if not isinstance(text, str):
        return RawDocument(
            position=str(number),
            problem=f"{config.text_field!r} is not a string",
            payload=str(text),
        )
    return RawDocument(
        position=str(number),
        doc_id=f"{label}:{number}" if doc_id is None else str(doc_id),
        title="" if title is None else str(title),
        text=text,
    )


def redirect_target(page: RawPage) -> str | None:
    """Title that a page redirects to; old exports say it only in the text."""
    if page.redirect is not None:
        return page.redirect
    found = _REDIRECT_TEXT.match(page.text[:1000])
    return found.group(1) if found else None


def read_articles(
    span: ByteSpan, on_loss: LossHandler | None, on_stored: StoredHandler | None = None
) -> Iterator[RawDocument]:
    """Articles of a MediaWiki export as plain text with anchors; other namespaces and redirects are skipped."""
    for position, xml in read_pages(span, on_loss, on_stored):
        try:
            page = parse_page(xml)
        except ValueError as error:
            problem = str(error).partition(":")[0]
            yield RawDocument(
                position=position, problem=problem, payload=xml[:2000].decode("utf-8", "replace")
            )
            continue
        yield _article(page, position)


def _article(page: RawPage, position: str) -> RawDocument:
    if page.namespace != 0:
        return RawDocument(position=position, skipped="skipped_namespace")
    if redirect_target(page) is not None:
        return RawDocument(position=position, skipped="skipped_redirect")
    if page.model != "wikitext":
        return RawDocument(position=position, skipped="skipped_model")
    doc_id = str(page.page_id)
    try:
        plain = plain_text(page.text)
    except WikitextError as error:
        return RawDocument(
            position=position, doc_id=doc_id, problem=str(error), payload=page.text[:2000]
        )
    return RawDocument(
        position=position, doc_id=doc_id, title=page.title, text=plain.text, anchors=plain.anchors
    )
