"""Read gold links: JSONL, one document a line.

`{"doc_id", "text", "mentions": [{"start", "end", "qid"}]}`. Offsets are code points of `text`,
half-open. `qid` is "Q42", 42, "U7" (an item that a user
added), or null for NIL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.engine import files
from pipeline.engine.errors import StageError
from schemas.bounded_lines import bounded_lines
from schemas.ids import item_id, parse_item_id


@dataclass(frozen=True, slots=True)
class GoldMention:
    """Hold one gold mention; qid None is NIL."""

    start: int
    end: int
    qid: int | None


@dataclass(frozen=True, slots=True)
class GoldDocument:
    """Hold one gold document."""

    doc_id: str
    text: str
    mentions: tuple[GoldMention, ...]


def read_gold(path: str) -> Iterator[GoldDocument]:
    """Yield the documents of a gold file.

    Raises:
        StageError: a line is no such document; the message names file and line.
    """
    with files.open_read(path) as file:
        for number, line in bounded_lines(file, path):
            yield _document(line, f"{path}:{number}")


def load_gold(path: str) -> dict[str, GoldDocument]:
    """Return the documents of a gold file by id.

    Lines of the same document and text are united; equal mentions count once.

    Raises:
        StageError: a document has two texts, or a span has two items.
    """
    documents: dict[str, GoldDocument] = {}
    for document in read_gold(path):
        earlier = documents.get(document.doc_id)
        if earlier is not None and earlier.text != document.text:
            raise StageError(
                f"{path}: document {document.doc_id!r} occurs twice, with different texts; "
                "give each document a doc_id of its own"
            )

        # Each side is checked for itself, then both against each other.
        earlier_mentions = earlier.mentions if earlier else ()
        united = {**_by_span(earlier_mentions, path), **_by_span(document.mentions, path)}
        for mention in earlier_mentions:
            _check_same_item(united[mention.start, mention.end], mention, path)
        documents[document.doc_id] = GoldDocument(
            document.doc_id, document.text, tuple(united.values())
        )
    return documents


def _by_span(mentions: tuple[GoldMention, ...], path: str) -> dict[tuple[int, int], GoldMention]:
    spans: dict[tuple[int, int], GoldMention] = {}
    for mention in mentions:
        _check_same_item(spans.setdefault((mention.start, mention.end), mention), mention, path)
    return spans


def _check_same_item(mention: GoldMention, repeat: GoldMention, path: str) -> None:
    if mention.qid != repeat.qid:
        raise StageError(
            f"{path}: mention {mention.start}–{mention.end} has two items, "
            f"{_named(mention)} and {_named(repeat)}; keep one of them"
        )


def _named(mention: GoldMention) -> str:
    return "NIL" if mention.qid is None else item_id(mention.qid)


def _document(line: bytes, position: str) -> GoldDocument:
    """Return the document of one line; `position` is file and line, for errors."""
    try:
        raw = json.loads(line)
        text = raw["text"]
        if not isinstance(text, str):
            raise TypeError("text is not a string")
        mentions = tuple(
            GoldMention(
                _offset(mention["start"]), _offset(mention["end"]), parse_qid(mention["qid"])
            )
            for mention in raw["mentions"]
        )
        document = GoldDocument(str(raw["doc_id"]), text, mentions)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise StageError(
            f"{position}: not a gold document ({type(error).__name__}: {error}); "
            "each line must look like "
            '{"doc_id": "1", "text": "…", "mentions": [{"start": 0, "end": 5, "qid": "Q90"}]}'
        ) from error

    # Offsets in bytes or UTF-16 would often fall outside the text, or point to other words.
    for mention in mentions:
        if not 0 <= mention.start < mention.end <= len(text):
            raise StageError(
                f"{position}: mention {mention.start}–{mention.end} lies outside "
                f"the text of {len(text)} code points; offsets must count code points"
            )
    return document


def _offset(value: object) -> int:
    """Return a whole number; a fraction is none.

    Raises:
        ValueError: it is something else.
    """
    number = int(str(value)) if not isinstance(value, float) else int(value)
    if number != value and str(number) != str(value):
        raise ValueError(f"{value!r} is not a whole number")
    return number


def parse_qid(value: object) -> int | None:
    """Return the number in `"Q42"`, `"U7"` or `42`; None for None.

    Raises:
        ValueError: it is no number, or none that an item can have.
    """
    if value is None:
        return None
    if (number := parse_item_id(str(value))) is not None:
        return number
    # The text of a whole number is the same with or without quotes in JSON.
    number = int(str(value).removeprefix("Q"))
    # One above all items is one that the knowledge base lacks.
    if number <= 0:
        raise ValueError(f"{value!r} is the number of no item")
    return number
