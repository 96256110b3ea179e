"""Declare the table written by every stage: what could not be used, and why."""

import pyarrow as pa

from schemas.table import Column, Table

REJECTS = Table(
    name="rejects",
    version=1,
    row="rejected input",
    key=("stage", "key"),
    columns=(
        Column(name="stage", type=pa.string(), meaning="stage that rejected it"),
        Column(name="key", type=pa.string(), meaning="id of the input, or file and byte offset"),
        Column(
            name="reason",
            type=pa.string(),
            meaning="short reason, the same words for the same fault",
        ),
        Column(name="payload", type=pa.string(), meaning="the first 500 characters of the input"),
    ),
)
