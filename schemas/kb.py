"""Declare the tables of stage `kb`: what a Wikidata dump says.

QIDs and PIDs are uint32: Q42 is 42, P31 is 31.
"""

import pyarrow as pa

from schemas.table import Column, Table, list_of

ALIAS_SOURCES = ("label", "alias", "title", "redirect", "anchor", "demonym", "name")
RANKS = ("preferred", "normal", "deprecated")

ENTITIES = Table(
    name="entities",
    version=2,
    row="Wikidata item",
    key=("qid",),
    columns=(
        Column(name="qid", type=pa.uint32(), meaning="item id"),
        Column(
            name="label",
            type=pa.string(),
            meaning="first label found: en, then mul, then the languages asked for; empty if none",
        ),
        Column(
            name="description",
            type=pa.string(),
            meaning="description in the label's order of languages; empty if none",
        ),
        Column(
            name="enwiki_title",
            type=pa.string(),
            meaning="title of its article in the wiki `kb.wiki`: English Wikipedia unless set",
            null_means="no such article",
        ),
        Column(
            name="num_sitelinks",
            type=pa.uint32(),
            meaning="Wikipedia sitelinks (commons, species, meta not counted)",
        ),
        Column(
            name="num_all_sitelinks", type=pa.uint32(), meaning="sitelinks to any Wikimedia site"
        ),
        Column(name="num_statements", type=pa.uint32(), meaning="statements of any rank and type"),
        Column(
            name="instance_of",
            type=list_of(pa.uint32()),
            meaning="QIDs of its best-rank P31 values",
        ),
        Column(
            name="is_meta",
            type=pa.bool_(),
            meaning="disambiguation, category, template, list or other page about pages, by P31",
        ),
        Column(
            name="revision",
            type=pa.uint64(),
            meaning="revision of the item that the dump holds",
            null_means="the dump does not say",
        ),
    ),
)

ALIASES = Table(
    name="aliases",
    version=2,
    row="surface of an entity",
    key=("surface", "qid", "source"),
    columns=(
        Column(name="surface", type=pa.string(), meaning="name as written"),
        Column(name="qid", type=pa.uint32(), meaning="item it names"),
        Column(
            name="source",
            type=pa.string(),
            meaning=f"where it comes from: {', '.join(ALIAS_SOURCES)} (demonym, name: a statement)",
        ),
        Column(name="count", type=pa.uint32(), meaning="times seen (anchors), 1 otherwise"),
    ),
)

PROPERTIES = Table(
    name="properties",
    version=1,
    row="Wikidata property",
    key=("pid",),
    columns=(
        Column(name="pid", type=pa.uint32(), meaning="property id"),
        Column(
            name="label",
            type=pa.string(),
            meaning="label by the same rule as entities; empty if none",
        ),
        Column(name="description", type=pa.string(), meaning="description; empty if none"),
        Column(
            name="datatype",
            type=pa.string(),
            meaning="Wikidata datatype of its values; empty if the dump does not say",
        ),
        Column(
            name="inverse",
            type=list_of(pa.uint32()),
            meaning="PIDs of its best-rank P1696 (inverse property) values",
        ),
    ),
)

TRIPLES = Table(
    name="triples",
    version=1,
    row="item-valued statement of the best rank",
    key=("subject", "predicate", "object"),
    columns=(
        Column(name="subject", type=pa.uint32(), meaning="QID"),
        Column(name="predicate", type=pa.uint32(), meaning="PID"),
        Column(name="object", type=pa.uint32(), meaning="QID"),
        Column(
            name="rank",
            type=pa.string(),
            meaning="preferred or normal; deprecated statements are counted, never kept",
        ),
    ),
)

REDIRECTS = Table(
    name="redirects",
    version=1,
    row="redirected id or title",
    key=("source",),
    columns=(
        Column(name="source", type=pa.string(), meaning="id (Q64) or article title that redirects"),
        Column(name="target", type=pa.string(), meaning="id or article title it leads to"),
    ),
)

STATEMENTS = Table(
    name="statements",
    version=2,
    row="statement of any rank and value, without qualifiers and references (kept when asked for)",
    key=("subject", "predicate", "ordinal"),
    columns=(
        Column(name="subject", type=pa.uint32(), meaning="QID"),
        Column(name="predicate", type=pa.uint32(), meaning="PID"),
        Column(
            name="ordinal",
            type=pa.uint32(),
            meaning="position among the subject's statements of that predicate",
        ),
        Column(name="rank", type=pa.string(), meaning=", ".join(RANKS)),
        Column(name="snaktype", type=pa.string(), meaning="value, somevalue or novalue"),
        Column(
            name="datatype",
            type=pa.string(),
            meaning="Wikidata datatype; empty if the dump does not say",
        ),
        Column(name="item", type=pa.uint32(), meaning="QID", null_means="not an item"),
        Column(
            name="text",
            type=pa.string(),
            meaning="string, id, URL, or text of a monolingual text",
            null_means="another type",
        ),
        Column(
            name="language",
            type=pa.string(),
            meaning="language of a monolingual text",
            null_means="another type",
        ),
        Column(
            name="amount",
            type=pa.string(),
            meaning="decimal amount, digit for digit",
            null_means="not a quantity",
        ),
        Column(
            name="unit",
            type=pa.string(),
            meaning="unit id, or 1 for none",
            null_means="not a quantity",
        ),
        Column(
            name="year",
            type=pa.int64(),
            meaning="astronomical sign as in the dump; BCE is negative",
            null_means="not a time",
        ),
        Column(
            name="month",
            type=pa.uint8(),
            meaning="1 to 12",
            null_means="not a time, or precision coarser than a month",
        ),
        Column(
            name="day",
            type=pa.uint8(),
            meaning="1 to 31",
            null_means="not a time, or precision coarser than a day",
        ),
        Column(
            name="precision",
            type=pa.uint8(),
            meaning="Wikidata time precision (9 year, 11 day)",
            null_means="not a time",
        ),
        Column(
            name="calendar",
            type=pa.uint32(),
            meaning="QID of the calendar model",
            null_means="not a time",
        ),
        Column(
            name="latitude", type=pa.float64(), meaning="degrees", null_means="not a coordinate"
        ),
        Column(
            name="longitude", type=pa.float64(), meaning="degrees", null_means="not a coordinate"
        ),
        Column(
            name="raw",
            type=pa.string(),
            meaning="value as JSON, for types without columns",
            null_means="the columns hold it",
        ),
    ),
)
