"""Run the peer of `dump_parse` that is a plain loop, and hold what the other peers share with it.

All peers keep the same rules as stage `kb`, with the same schemas and Parquet compression, and use
our `clean` for names and our lists of classes and sites: those are part of the result's definition,
not of the speed. None of them counts oddities, refuses bad records, or goes on after a kill.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from isal import igzip

from benchmarks.dump_parse_limits import open_stdlib
from pipeline.kb.entity_rows import INSTANCE_OF, INVERSE_PROPERTY, META_CLASSES
from pipeline.kb.names import NAME_PROPERTIES
from pipeline.kb.sites import NOT_WIKIPEDIA
from pipeline.kb.terms import MAX_SURFACE_CHARACTERS, clean
from schemas import ALIASES, ENTITIES, PROPERTIES, TRIPLES
from schemas.table import Table

LANGUAGES = ("en", "mul")
TABLES = (ENTITIES, ALIASES, PROPERTIES, TRIPLES)
BATCH_ROWS = 50_000
# The buffers of gzip, igzip and bz2 hold 8 KB: they would make lines of 27 KB slow.
LINE_BUFFER_BYTES = 1 << 20
Rows = dict[str, list[tuple[Any, ...]]]


class TableWriter:
    """Write the rows of the four tables in batches, to one Parquet file each."""

    def __init__(self, out: Path) -> None:
        self._rows: Rows = {table.name: [] for table in TABLES}
        self._writers: dict[str, pq.ParquetWriter] = {}
        for table in TABLES:
            (out / table.name).mkdir()
            self._writers[table.name] = pq.ParquetWriter(
                out / table.name / "part-0.parquet", table.schema, compression="zstd"
            )

    @property
    def rows(self) -> Rows:
        """Return lists to append to; ask again after each `flush_full`."""
        return self._rows

    def flush_full(self) -> None:
        """Write the tables that have a batch."""
        for table in TABLES:
            if len(self._rows[table.name]) >= BATCH_ROWS:
                self._flush(table)

    def close(self) -> None:
        """Write the rows that are left."""
        for table in TABLES:
            self._flush(table)
            self._writers[table.name].close()

    def _flush(self, table: Table) -> None:
        rows, self._rows[table.name] = self._rows[table.name], []
        columns = list(zip(*rows, strict=True)) or [()] * len(table.columns)
        arrays = [
            pa.array(values, type=column.type)
            for values, column in zip(columns, table.columns, strict=True)
        ]
        self._writers[table.name].write_table(pa.Table.from_arrays(arrays, schema=table.schema))


def isal_orjson_loop(out: Path, path: str) -> dict[str, Any]:
    """Run the loop on a gz file that isal decompresses, as ours does."""
    with igzip.open(path, "rb") as stored, io.BufferedReader(stored, LINE_BUFFER_BYTES) as lines:
        return _loop(out, lines)


def orjson_loop(out: Path, path: str) -> dict[str, Any]:
    """Run the loop on a file that the standard library decompresses."""
    stored: Any = open_stdlib(path)
    with stored, io.BufferedReader(stored, LINE_BUFFER_BYTES) as lines:
        return _loop(out, lines)


def _loop(out: Path, lines: Iterable[bytes]) -> dict[str, Any]:
    """Parse by orjson and write Parquet in batches: a straightforward script, tuned."""
    writer, entities = TableWriter(out), 0
    for line in lines:
        record = line.rstrip(b"\n,")
        # The brackets around all entities have lines of their own.
        if len(record) > 1:
            add_entity(orjson.loads(record), writer.rows)
            entities += 1
            writer.flush_full()
    writer.close()
    return {"entities": entities}


def add_entity(entity: dict[str, Any], rows: Rows) -> None:
    """Append the rows of an entity given as plain dictionaries, by the rules of stage `kb`."""
    number, claims = int(entity["id"][1:]), entity.get("claims") or {}
    labels = _terms(entity, "labels")
    label, description = first_of(labels), first_of(_terms(entity, "descriptions"))
    if entity["type"] == "property":
        inverse = _best(claims.get(f"P{INVERSE_PROPERTY}", ()), "property")[1]
        rows["properties"].append((number, label, description, entity.get("datatype", ""), inverse))
        return
    sitelinks = entity.get("sitelinks") or {}
    title = clean(sitelinks["enwiki"]["title"]) if "enwiki" in sitelinks else ""
    found = entity.get("aliases") or {}
    aliases = [alias["value"] for language in LANGUAGES for alias in found.get(language, ())]
    triples = {pid: _best(statements, "item") for pid, statements in claims.items()}
    num_statements = sum(map(len, claims.values()))
    names, surfaces = (
        (label, description, title),
        labels + as_aliases(aliases) + stated_names(claims),
    )
    add_item_rows(
        rows, number, names, surfaces, (sitelinks, num_statements, entity.get("lastrevid")), triples
    )


def add_item_rows(
    rows: Rows,
    qid: int,
    names: tuple[str, str, str],
    surfaces: list[tuple[str, str]],
    counted: tuple[dict[str, Any], int, int | None],
    triples: dict[str, tuple[str, list[int]]],
) -> None:
    """Append the rows of an item, given its parts.

    Names are (label, description, title), counted is (sitelinks, number of statements, revision),
    triples are by PID: (rank, targets).
    """
    label, description, title = names
    sitelinks, num_statements, revision = counted
    instance_of = triples.get(f"P{INSTANCE_OF}", ("", []))[1]
    wikis = sum(1 for site in sitelinks if site.endswith("wiki") and site not in NOT_WIKIPEDIA)
    is_meta = not META_CLASSES.isdisjoint(instance_of)
    counts = (wikis, len(sitelinks), num_statements)
    rows["entities"].append(
        (qid, label, description, title or None, *counts, instance_of, is_meta, revision)
    )
    cleaned = [(clean(name), source) for name, source in surfaces] + (
        [(title, "title")] if title else []
    )
    for surface, source in dict.fromkeys(cleaned):
        if surface and len(surface) <= MAX_SURFACE_CHARACTERS:
            rows["aliases"].append((surface, qid, source, 1))
    for pid, (rank, targets) in triples.items():
        predicate = int(pid[1:])
        rows["triples"].extend((qid, predicate, target, rank) for target in targets)


def _terms(entity: dict[str, Any], key: str) -> list[tuple[str, str]]:
    terms = entity.get(key) or {}
    return [(terms[language]["value"], "label") for language in LANGUAGES if language in terms]


def first_of(terms: list[tuple[str, str]]) -> str:
    """Return the first name that has anything to read."""
    return next((name for term, _ in terms if (name := clean(term))), "")


def as_aliases(aliases: list[str]) -> list[tuple[str, str]]:
    """Return (name, source) of aliases."""
    return [(alias, "alias") for alias in aliases]


def stated_names(claims: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (name, source) of what best-rank statements say in our languages, or as a string."""
    found = []
    for pid in claims.keys() & NAME_PROPERTIES.keys():
        for data in _best_values(claims[pid])[1]:
            value = (
                data["value"]
                if data["type"] == "monolingualtext"
                else {"text": data["value"], "language": "mul"}
            )
            if value["language"] in LANGUAGES:
                found.append((value["text"], NAME_PROPERTIES[pid]))
    return found


def _best_values(statements: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """Return the best rank of a property's statements, and the values that have it."""
    rank = (
        "preferred"
        if any(statement["rank"] == "preferred" for statement in statements)
        else "normal"
    )
    found = [
        statement["mainsnak"].get("datavalue")
        for statement in statements
        if statement["rank"] == rank
    ]
    return rank, [data for data in found if data]


def _best(statements: list[dict[str, Any]], kind: str) -> tuple[str, list[int]]:
    """Return the best rank of a property's statements, and its targets of a kind, each once."""
    rank, found = _best_values(statements)
    entities = [data["value"] for data in found if data["type"] == "wikibase-entityid"]
    numbers = [entity_number(value, kind) for value in entities]
    return rank, list(dict.fromkeys(number for number in numbers if number))


def entity_number(value: dict[str, Any], kind: str) -> int | None:
    """Return the number of an entity of a kind; old dumps have no `id`."""
    if value.get("entity-type", "item") != kind:
        return None
    return value["numeric-id"] if "numeric-id" in value else int(value["id"][1:])
