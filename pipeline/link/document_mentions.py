"""Hold the mentions of one document, between detection and linking."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.link.spacy_annotator import Annotated
from pipeline.link.spans import Span


@dataclass(frozen=True, slots=True)
class DocumentMentions:
    """Hold the mentions of one document."""

    doc_id: str
    text: str
    annotated: Annotated
    # In the order of the text, none overlapping.
    spans: list[Span]
