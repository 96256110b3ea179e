"""Declare the table of stage `importance`: the semantic importance of every linked mention (TRELM
section 2.1).
"""

import pyarrow as pa

from schemas.table import Column, Table

IMPORTANCE = Table(
    name="importance",
    version=3,
    row="linked mention",
    key=("doc_id", "start", "end"),
    columns=(
        Column(name="doc_id", type=pa.string(), meaning="document"),
        Column(name="start", type=pa.uint32(), meaning="first code point in documents.text"),
        Column(name="end", type=pa.uint32(), meaning="one past the last code point"),
        Column(
            name="cosine",
            type=pa.float32(),
            meaning=(
                "cosine of the sentence and of the sentence with its entity replaced; round "
                "it before selecting by it"
            ),
        ),
        Column(name="si", type=pa.float32(), meaning="semantic importance, 1 / max(cosine, 1e-4)"),
        Column(
            name="is_sampled",
            type=pa.bool_(),
            meaning="whether its sentence is in the random sample, from which the corpus median comes",
        ),
    ),
)
