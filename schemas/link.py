"""Declare the tables of stage `link`: sentences and mentions, each with its candidates and every
partial score.
"""

import pyarrow as pa

from schemas.table import Column, Table, list_of

DETECTORS = ("ner", "dictionary", "anchor", "reuse", "gold")
PARTS = ("prior", "string", "context", "coherence", "type", "mention", "semantic")

CANDIDATE = pa.struct(
    [
        pa.field("qid", pa.uint32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("match", pa.string(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in PARTS),
    ]
)

SENTENCES = Table(
    name="sentences",
    version=1,
    row="sentence",
    key=("doc_id", "start"),
    columns=(
        Column(name="doc_id", type=pa.string(), meaning="document"),
        Column(name="start", type=pa.uint32(), meaning="first code point in documents.text"),
        Column(
            name="end",
            type=pa.uint32(),
            meaning="one past the last code point, surrounding space left out",
        ),
    ),
)

LINKS = Table(
    name="links",
    version=3,
    row="mention",
    key=("doc_id", "start", "end"),
    columns=(
        Column(name="doc_id", type=pa.string(), meaning="document"),
        Column(name="start", type=pa.uint32(), meaning="first code point in documents.text"),
        Column(name="end", type=pa.uint32(), meaning="one past the last code point"),
        Column(name="sentence_start", type=pa.uint32(), meaning="start of its sentence"),
        Column(name="surface", type=pa.string(), meaning="the text between start and end"),
        Column(
            name="detector",
            type=pa.string(),
            meaning=f"what found it, several joined by +: {', '.join(DETECTORS)}",
        ),
        Column(
            name="ner_type",
            type=pa.string(),
            meaning="label of the named-entity recogniser",
            null_means="not found by it",
        ),
        Column(
            name="qid",
            type=pa.uint32(),
            meaning="linked item",
            null_means="NIL: no candidate, or none good enough",
        ),
        Column(
            name="confidence",
            type=pa.float32(),
            meaning=(
                "probability of the best candidate, 0 to 1; 0 without candidates, 1 where an "
                "anchor says it"
            ),
        ),
        Column(
            name="candidates",
            type=list_of(CANDIDATE),
            meaning=(
                "best first: item, probability (score), how it was found (exact, variant, "
                "inflected, reused, partial, "
                "fuzzy), and what each group of features adds to the logit"
            ),
        ),
    ),
)
