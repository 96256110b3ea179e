"""Gold links: JSONL, one document a line: `{"doc_id", "text", "mentions": [{"start", "end", "qid"}]}`.

Offsets are code points of `text`, half-open. `qid` is "Q42", 42, or null for NIL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.engine import files
from pipeline.engine.errors import StageError


@dataclass(frozen=True, slots=True)
class GoldMention:
    """One gold mention; qid None is NIL."""

    start: int
    end: int
    qid: int | None


@dataclass(frozen=True, slots=True)
class GoldDocument:
    """One gold document."""

    doc_id: str
    text: str
    mentions: tuple[GoldMention, ...]


def read_gold(path: str) -> Iterator[GoldDocument]:
    """Read a gold file.

    Raises:
        StageError: a line that is not such a document; names file and line.
    """
    with files.open_read(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _document(line, f"{path}:{number}")


def load_gold(path: str) -> dict[str, GoldDocument]:
    """A gold file by document. Lines of the same document and text are united, equal mentions count once.

    Raises:
        StageError: two texts for one document, or two items for one span.
    """
    documents: dict[str, GoldDocument] = {}
    for document in read_gold(path):
        known = documents.get(document.doc_id)
        if known is not None and known.text != document.text:
            raise StageError(
                f"{path}: document {document.doc_id!r} occurs twice, with different texts"
            )
        united = {
            **_spans(known.mentions if known else (), path),
            **_spans(document.mentions, path),
        }
        for mention in known.mentions if known else ():
            _same(united[mention.start, mention.end], mention, path)
        documents[document.doc_id] = GoldDocument(
            document.doc_id, document.text, tuple(united.values())
        )
    return documents


def _spans(mentions: tuple[GoldMention, ...], path: str) -> dict[tuple[int, int], GoldMention]:
    spans: dict[tuple[int, int], GoldMention] = {}
    for mention in mentions:
        _same(spans.setdefault((mention.start, mention.end), mention), mention, path)
    return spans


def _same(one: GoldMention, other: GoldMention, path: str) -> None:
    if one.qid != other.qid:
        raise StageError(
            f"{path}: mention {one.start}–{one.end} has two items, Q{one.qid} and Q{other.qid}"
        )


def _document(line: bytes, where: str) -> GoldDocument:
    try:
        raw = json.loads(line)
        text = raw["text"]
        if not isinstance(text, str):
            raise TypeError("text is not a string")
        mentions = tuple(
            GoldMention(int(mention["start"]), int(mention["end"]), parse_qid(mention["qid"]))
            for mention in raw["mentions"]
        )
        document = GoldDocument(str(raw["doc_id"]), text, mentions)
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(
            f"{where}: not a gold document ({type(error).__name__}: {error}); wanted "
            '{"doc_id": "1", "text": "…", "mentions": [{"start": 0, "end": 5, "qid": "Q90"}]}'
        ) from error
    for mention in mentions:
        if not 0 <= mention.start < mention.end <= len(text):
            raise StageError(
                f"{where}: mention {mention.start}–{mention.end} lies outside the text of {len(text)} code points"
            )
    return document


def parse_qid(value: Any) -> int | None:  # noqa: ANN401
    """`"Q42"`, `42` or None."""
    if value is None:
        return None
    return int(str(value).removeprefix("Q"))
