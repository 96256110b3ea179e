"""Unite the occurrences of items that the dumps have several times: names, facts and statements.

Several dumps may hold parts of the same Wikidata, so an item gets what any of them says of it. The
first occurrence leads: its label, description and title stay, and later ones fill what it lacks. An
occurrence of another revision than the first one is no part but another state of the item, so it
adds nothing. Of a property the best rank of all occurrences counts, as within one.

Goes in: the rows of all occurrences of some items, each row with its place. Comes out: their rows in
the tables of `kb`, in the order of the places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

from pipeline.database.connection import working_database
from pipeline.kb.entity_rows import INSTANCE_OF
from schemas import ALIASES, ENTITIES, STATEMENTS, TRIPLES
from schemas.table import Table

# The column with the item that a row belongs to.
OWNERS = {
    ENTITIES.name: "qid",
    ALIASES.name: "qid",
    TRIPLES.name: "subject",
    STATEMENTS.name: "subject",
}
# Column of the rows that go in: the occurrence they come from, ascending in the dumps' order.
OCCURRENCE = "occurrence"
MEMORY_GB = 1.0
# Occurrences that are parts of the state that the first one shows.
PARTS = """
CREATE TEMP TABLE parts AS
WITH first AS (SELECT owner, min(occurrence) AS occurrence FROM entity_rows GROUP BY owner)
SELECT e.owner, e.occurrence FROM entity_rows e
JOIN first f USING (owner) JOIN entity_rows l ON l.owner = f.owner AND l.occurrence = f.occurrence
WHERE e.revision IS NULL OR l.revision IS NULL OR e.revision = l.revision
"""
# Each value once, at its first place.
DISTINCT = """
CREATE TEMP TABLE {table} AS
SELECT {columns}, min(place) AS place FROM {table}_rows JOIN parts USING (owner, occurrence)
GROUP BY ALL
"""
BEST_RANKS = """
DELETE FROM triples t WHERE rank = 'normal' AND EXISTS (
    SELECT 1 FROM triples o WHERE o.subject = t.subject AND o.predicate = t.predicate
    AND o.rank = 'preferred')
"""
# A value that is preferred in one occurrence and normal in another is one row by now.
ENTITY_QUERY = f"""
WITH classes AS (
    SELECT subject AS owner, list(object ORDER BY place) AS targets FROM triples
    WHERE predicate = {INSTANCE_OF} GROUP BY subject
)
SELECT qid,
    coalesce(first(label ORDER BY place) FILTER (label <> ''), '') AS label,
    coalesce(first(description ORDER BY place) FILTER (description <> ''), '') AS description,
    first(enwiki_title ORDER BY place) FILTER (enwiki_title IS NOT NULL) AS enwiki_title,
    max(num_sitelinks) AS num_sitelinks,
    max(num_all_sitelinks) AS num_all_sitelinks,
    greatest(max(num_statements), any_value(num_facts)) AS num_statements,
    coalesce(any_value(targets), []) AS instance_of,
    bool_or(is_meta) AS is_meta,
    first(revision ORDER BY place) FILTER (revision IS NOT NULL) AS revision
FROM entity_rows JOIN parts USING (owner, occurrence) LEFT JOIN classes USING (owner)
LEFT JOIN (SELECT subject AS owner, count(*) AS num_facts FROM triples GROUP BY subject)
USING (owner)
GROUP BY qid ORDER BY min(place)
"""
STATEMENT_QUERY = """
SELECT * EXCLUDE (place) REPLACE ((row_number() OVER (
    PARTITION BY subject, predicate ORDER BY place) - 1)::UINTEGER AS ordinal)
FROM statements ORDER BY place
"""


def united_rows(rows: Mapping[str, list[pa.Table]]) -> Iterator[tuple[Table, pa.Table]]:
    """Yield the rows of items that occur several times, table by table.

    Memory: the rows, and up to MEMORY_GB of DuckDB, which spills the rest.

    Args:
        rows: by table, the rows of all occurrences, with a column OCCURRENCE, in the dumps' order.
    """
    with working_database(MEMORY_GB) as connection:
        for table in (ENTITIES, ALIASES, TRIPLES, STATEMENTS):
            # The name in the queries is that of the one table here, not of all rows.
            name = "entity" if table is ENTITIES else table.name
            connection.register(f"{name}_rows", _with_places(rows.get(table.name, []), table))
        connection.execute(PARTS)
        connection.execute(DISTINCT.format(table="aliases", columns="surface, qid, source, count"))
        connection.execute(
            DISTINCT.format(table="triples", columns="subject, predicate, object, rank")
        )
        connection.execute(BEST_RANKS)
        values = ", ".join(name for name in STATEMENTS.column_names if name != "ordinal")
        connection.execute(
            DISTINCT.format(table="statements", columns=f"{values}, 0::UINTEGER AS ordinal")
        )

        queries = {
            ENTITIES: ENTITY_QUERY,
            ALIASES: "SELECT * EXCLUDE (place) FROM aliases ORDER BY place",
            TRIPLES: "SELECT * EXCLUDE (place) FROM triples ORDER BY place",
            STATEMENTS: STATEMENT_QUERY,
        }
        for table, query in queries.items():
            united = connection.sql(query).to_arrow_table().select(list(table.column_names))
            if united.num_rows:
                yield table, united.cast(table.schema)


def _with_places(tables: list[pa.Table], table: Table) -> pa.Table:
    """Return the rows with their owner, and with their place among all rows."""
    empty = table.empty().append_column(OCCURRENCE, pa.array([], pa.int64()))
    # The tables' own metadata differ from that of the empty one.
    plain = [rows.replace_schema_metadata(None) for rows in (empty, *tables)]
    rows = pa.concat_tables(plain)
    rows = rows.append_column("owner", rows.column(OWNERS[table.name]))
    return rows.append_column("place", pa.array(range(rows.num_rows), pa.int64()))
