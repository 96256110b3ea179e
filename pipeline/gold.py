"""Gold links: JSONL, one document a line: `{"doc_id", "text", "mentions": [{"start", "end", "qid"}]}`.

Offsets are code points of `text`, half-open. `qid` is "Q42", 42, or null for NIL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.storage import files
from pipeline.storage.errors import StageError


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


def _document(line: bytes, where: str) -> GoldDocument:
    try:
        raw = json.loads(line)
        text = raw["text"]
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
