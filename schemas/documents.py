"""Declare the tables of stage `documents`: the corpus as text, with the gold links its markup
states.
"""

import pyarrow as pa

from schemas.table import Column, Table

DOCUMENTS = Table(
    name="documents",
    version=1,
    row="document",
    key=("doc_id",),
    columns=(
        Column(name="doc_id", type=pa.string(), meaning="unique id, stable from run to run"),
        Column(name="title", type=pa.string(), meaning="title; empty if none"),
        Column(
            name="text",
            type=pa.string(),
            meaning="plain text; every offset of the run counts its code points",
        ),
        Column(name="source", type=pa.string(), meaning="name of the input file"),
    ),
)

ANCHORS = Table(
    name="anchors",
    version=1,
    row="gold link in wikitext, resolved to an item",
    key=("doc_id", "start", "end"),
    columns=(
        Column(name="doc_id", type=pa.string(), meaning="document"),
        Column(name="start", type=pa.uint32(), meaning="first code point in documents.text"),
        Column(name="end", type=pa.uint32(), meaning="one past the last code point"),
        Column(
            name="qid",
            type=pa.uint32(),
            meaning="item the link leads to, through titles and redirects",
        ),
    ),
)
