"""Turn mentions and links into rows of the tables `sentences` and `links`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.link.candidates import MATCHES
from pipeline.link.document_mentions import DocumentMentions
from pipeline.link.linker import Links
from schemas import LINKS, SENTENCES
from schemas.link import CANDIDATE, PARTS

PART_DECIMALS = 4


def sentence_rows(documents: Sequence[DocumentMentions]) -> pa.Table:
    """Return the rows of `sentences`."""
    rows: list[tuple[object, ...]] = [
        (document.doc_id, start, end)
        for document in documents
        for start, end in document.annotated.sentences
    ]
    return SENTENCES.from_rows(rows)


def link_rows(documents: Sequence[DocumentMentions], links: Links) -> pa.Table:
    """Return the rows of `links`."""
    spans = [(document, span) for document in documents for span in document.spans]

    # A mention before the first sentence counts to it.
    sentence_starts: list[int] = []
    for document in documents:
        starts = [start for start, _ in document.annotated.sentences]
        for span in document.spans:
            sentence_starts.append(
                starts[max(bisect_right(starts, span.start) - 1, 0)] if starts else 0
            )

    columns = {
        "doc_id": [document.doc_id for document, _ in spans],
        "start": [span.start for _, span in spans],
        "end": [span.end for _, span in spans],
        "sentence_start": sentence_starts,
        "surface": [document.text[span.start : span.end] for document, span in spans],
        "detector": [span.detector for _, span in spans],
        "ner_type": [span.ner_type for _, span in spans],
        "qid": pa.array(links.qids, mask=links.qids == 0),
        "confidence": links.confidence,
        "candidates": _candidate_lists(links),
    }
    return LINKS.from_columns(columns)


def _candidate_lists(links: Links) -> pa.Array:
    """Return the column `candidates`: a list of candidates per mention."""
    best = links.candidates
    matches = pa.DictionaryArray.from_arrays(
        pa.array(best.matches, pa.uint8()), pa.array(MATCHES)
    ).cast(pa.string())
    part_columns = [
        pa.array(np.round(links.parts[name], PART_DECIMALS).astype(np.float32)) for name in PARTS
    ]

    # One struct per candidate of the batch; the offsets say which belong to each mention.
    structs = pa.StructArray.from_arrays(
        [best.qids, links.probability, matches, *part_columns], fields=list(CANDIDATE)
    )
    offsets = pa.array(links.offsets.astype(np.int32))
    return pa.ListArray.from_arrays(offsets, structs, type=LINKS.schema.field("candidates").type)
