"""List every table of the two programs, and find one of a run by its name."""

from __future__ import annotations

from schemas.documents import ANCHORS, DOCUMENTS
from schemas.importance import IMPORTANCE
from schemas.kb import ALIASES, ENTITIES, PROPERTIES, REDIRECTS, STATEMENTS, TRIPLES
from schemas.link import LINKS, SENTENCES
from schemas.probes import BEAR_ITEMS, LAMA_ITEMS, MLM_ITEMS, PARAPHRASE_ITEMS
from schemas.rejects import REJECTS
from schemas.shards import EXAMPLES, KNOWLEDGE
from schemas.stats import (
    COOCCURRENCE,
    ENTITY_FREQUENCY,
    FACT_SUPPORT,
    SURFACE_FREQUENCY,
    TAIL_SUMMARY,
)
from schemas.table import Column, SchemaError, Table

# Tables of a run.
TABLES: tuple[Table, ...] = (
    ENTITIES,
    ALIASES,
    PROPERTIES,
    TRIPLES,
    REDIRECTS,
    STATEMENTS,
    DOCUMENTS,
    ANCHORS,
    SENTENCES,
    LINKS,
    ENTITY_FREQUENCY,
    SURFACE_FREQUENCY,
    COOCCURRENCE,
    FACT_SUPPORT,
    TAIL_SUMMARY,
    IMPORTANCE,
    EXAMPLES,
    KNOWLEDGE,
    REJECTS,
)
# Written by `trelm-train evaluate`, to a file that the user names: no stage of a run has them.
PROBE_TABLES: tuple[Table, ...] = (LAMA_ITEMS, MLM_ITEMS, PARAPHRASE_ITEMS, BEAR_ITEMS)
BY_NAME: dict[str, Table] = {table.name: table for table in TABLES}

__all__ = [
    "ALIASES",
    "ANCHORS",
    "BEAR_ITEMS",
    "BY_NAME",
    "COOCCURRENCE",
    "DOCUMENTS",
    "ENTITIES",
    "ENTITY_FREQUENCY",
    "EXAMPLES",
    "FACT_SUPPORT",
    "IMPORTANCE",
    "KNOWLEDGE",
    "LAMA_ITEMS",
    "LINKS",
    "MLM_ITEMS",
    "PARAPHRASE_ITEMS",
    "PROBE_TABLES",
    "PROPERTIES",
    "REDIRECTS",
    "REJECTS",
    "SENTENCES",
    "STATEMENTS",
    "SURFACE_FREQUENCY",
    "TABLES",
    "TAIL_SUMMARY",
    "TRIPLES",
    "Column",
    "SchemaError",
    "Table",
]
