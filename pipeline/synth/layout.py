"""Lay sentences and paragraphs out as documents, and write them as JSONL. Pure.

Every sentence and every paragraph is a line of its document, so that no sentence can run into the
next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.synth.choices import generator
from pipeline.synth.corpus import Sentence
from pipeline.synth.settings import SynthConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthDocument:
    """Hold a document: sentences about entities, or paragraphs of general text."""

    doc_id: str
    sentences: tuple[Sentence, ...] = ()
    paragraphs: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Return the text, a sentence or paragraph per line."""
        return "\n".join((*(sentence.text for sentence in self.sentences), *self.paragraphs))

    def placed(self) -> Iterator[tuple[int, Sentence]]:
        """Yield the code point at which each sentence starts, and the sentence."""
        start = 0
        for sentence in self.sentences:
            yield start, sentence
            # One more for the line break.
            start += len(sentence.text) + 1

    def mentions(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield start, end, true item and linked item of every mention, in order."""
        for start, sentence in self.placed():
            for span, true_qid, linked_qid in sentence.mentions:
                yield start + span[0], start + span[1], true_qid, linked_qid


def lay_out(
    sentences: Sequence[Sentence], paragraphs: Sequence[str], config: SynthConfig
) -> list[SynthDocument]:
    """Return the documents of a corpus, those of general text among the others."""
    size = config.document_sentences
    documents = [
        SynthDocument(doc_id=f"synth-{number:07d}", sentences=tuple(sentences[low : low + size]))
        for number, low in enumerate(range(0, len(sentences), size))
    ]
    # General text has documents of its own: there, nothing is linked and nothing scored.
    documents += [
        SynthDocument(
            doc_id=f"general-{number:07d}", paragraphs=tuple(paragraphs[low : low + size])
        )
        for number, low in enumerate(range(0, len(paragraphs), size))
    ]
    # Among each other: a reader of the first part of the corpus gets both.
    generator(config.seed, "order of documents").shuffle(documents)
    return documents


def document_line(document: SynthDocument) -> bytes:
    """Return a line of documents.jsonl: the links are those that the corpus states."""
    links = [
        {"start": start, "end": end, "qid": f"Q{linked}"}
        for start, end, _, linked in document.mentions()
    ]
    return _line({"id": document.doc_id, "text": document.text, "links": links})


def gold_line(document: SynthDocument) -> bytes:
    """Return a line of gold.jsonl: the links are the true ones."""
    mentions = [
        {"start": start, "end": end, "qid": f"Q{true}"}
        for start, end, true, _ in document.mentions()
    ]
    return _line({"doc_id": document.doc_id, "text": document.text, "mentions": mentions})


def _line(row: dict[str, object]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()
