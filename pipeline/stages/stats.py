"""Stage `stats`: links to counts, bands, co-occurrence, supported facts and the summary of the tail.

Per unit: partial counts, keyed by a bucket. Merged exactly. At the end one DuckDB query per table over the merged counts.
A unit is one links file: its documents are whole, so document counts add up.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import StatsConfig
from pipeline.core import frequency
from pipeline.query import add_triples, add_view, connect
from pipeline.storage import files
from pipeline.storage.arrays import local_folder
from pipeline.storage.stage import StagePlan
from pipeline.storage.tables import RunPaths, check_table, read_rows
from pipeline.storage.units import Unit, UnitWriter
from schemas import (
    COOCCURRENCE,
    ENTITIES,
    ENTITY_FREQUENCY,
    FACT_SUPPORT,
    LINKS,
    SURFACE_FREQUENCY,
    TAIL_SUMMARY,
    Table,
)
from schemas.manifest import PartFile
from schemas.settings import to_dict

CONFIDENCE_SCALE = 100_000  # confidences have 5 decimals: as integers their sum is exact in any order
TABLES = (ENTITY_FREQUENCY, SURFACE_FREQUENCY, COOCCURRENCE, FACT_SUPPORT, TAIL_SUMMARY)
KEYS = {"entity": ["qid"], "surface": ["surface", "qid"], "pair": ["qid_a", "qid_b"], "corpus": ["name"]}
COUNTS = {
    "entity": ["num_mentions", "num_documents", "num_sentences", "confidence"],
    "surface": ["num_mentions"],
    "pair": ["num_sentences", "num_documents"],
    "corpus": ["value"],
}


@dataclass(frozen=True, kw_only=True)
class StatsWorker:
    """Counts links."""

    paths: RunPaths
    config: StatsConfig

    def prepare(self, folder: str) -> None:
        """A place for the merged counts."""
        files.make_folder(files.join(folder, "counts"))

    def partials(self, unit: Unit, counters: Counter[str]) -> Iterator[tuple[str, int, pa.Table]]:
        """Counts of one links file."""
        links = pa.concat_tables([LINKS.empty(), *read_rows(unit.path, LINKS)])
        counters["rows_in"] += links.num_rows
        counters["rows_out"] += links.num_rows
        linked = links.filter(pc.is_valid(links.column("qid")))
        yield "corpus", 0, _corpus(links, linked)
        groups = {"entity": _entities(linked), "surface": _surfaces(linked)}
        groups["pair"], over = _pairs(linked, self.config.max_sentence_entities)
        counters["sentences_over_pair_limit"] += over
        for group, rows in groups.items():
            buckets = _buckets(rows, group, self.config.num_buckets)
            for bucket in np.unique(buckets).tolist():
                yield group, int(bucket), rows.filter(pa.array(buckets == bucket))

    def merge(self, group: str, parts: Sequence[pa.Table]) -> pa.Table:
        """Add the counts of equal keys."""
        rows = pa.concat_tables(parts)
        summed = rows.group_by(KEYS[group]).aggregate([(name, "sum") for name in COUNTS[group]])
        renamed = summed.select([*KEYS[group], *(f"{name}_sum" for name in COUNTS[group])])
        return renamed.rename_columns([*KEYS[group], *COUNTS[group]]).cast(rows.schema)

    def write(self, folder: str, group: str, bucket: int, rows: pa.Table) -> None:
        """One bucket of merged counts, sorted, so that the same counts give the same bytes."""
        buffer = pa.BufferOutputStream()
        pq.write_table(rows.sort_by([(name, "ascending") for name in KEYS[group]]), buffer, compression="zstd")
        files.write_bytes(files.join(folder, "counts", f"{group}-{bucket:04d}.parquet"), bytes(buffer.getvalue()))

    def finish(self, folder: str) -> tuple[dict[str, list[PartFile]], dict[str, str]]:
        """The final tables, from the merged counts."""
        connection = connect()
        _open_counts(connection, local_folder(files.join(folder, "counts")))
        add_triples(connection, self.paths)
        add_view(connection, "entities", self.paths.files("kb", ENTITIES), ENTITIES)
        for table in TABLES:
            files.make_folder(files.join(folder, table.name))
        out = UnitWriter(folder, "stats", Unit(index=0, of=1, path="", start=0, end=0))
        spectrum = connection.sql("SELECT num_mentions, count(*) FROM entity GROUP BY 1 ORDER BY 1").fetchnumpy()
        frequencies, entities = (np.asarray(values).astype(np.int64) for values in spectrum.values())
        head, torso = frequency.band_cutoffs(frequencies, entities, self.config.head_mass, self.config.torso_mass)
        _write_query(out, ENTITY_FREQUENCY, connection, ENTITY_QUERY, [head, torso])
        _write_query(out, SURFACE_FREQUENCY, connection, SURFACE_QUERY, [])
        _write_query(out, COOCCURRENCE, connection, PAIR_QUERY, [self.config.min_cooccurrence])
        _write_query(out, FACT_SUPPORT, connection, FACT_QUERY, [])
        out.write(TAIL_SUMMARY, _summary(connection, frequencies, entities))
        report = out.finish()
        files.remove(files.join(folder, "counts"))
        return {name: [part] for name, part in report.parts.items()}, {}


ENTITY_QUERY = f"""
SELECT qid, num_mentions, num_documents, confidence / {CONFIDENCE_SCALE}.0 AS expected_mentions,
       CASE WHEN num_mentions >= ? THEN 'head' WHEN num_mentions >= ? THEN 'torso' ELSE 'tail' END AS band
FROM entity ORDER BY num_mentions DESC, qid
"""
SURFACE_QUERY = """
SELECT surface, qid, num_mentions,
       num_mentions / sum(num_mentions) OVER (PARTITION BY surface) AS p_entity_given_surface,
       num_mentions / sum(num_mentions) OVER (PARTITION BY qid) AS p_surface_given_entity
FROM surface ORDER BY surface, qid
"""
# PMI over sentences, divided by -log P(a, b): -1 never together, 0 independent, 1 always together.
PAIR_QUERY = """
WITH total AS (SELECT value AS n FROM corpus WHERE name = 'num_sentences')
SELECT p.qid_a, p.qid_b, p.num_sentences, p.num_documents,
       CASE WHEN p.num_sentences = n THEN 1.0
            ELSE ln(p.num_sentences * n / (a.num_sentences * b.num_sentences)) / -ln(p.num_sentences / n) END AS npmi
FROM pair p JOIN entity a ON a.qid = p.qid_a JOIN entity b ON b.qid = p.qid_b, total
WHERE p.num_sentences >= ? ORDER BY 1, 2
"""
FACT_QUERY = """
SELECT DISTINCT t.subject, t.predicate, t.object, p.num_sentences, p.num_documents
FROM triples t JOIN pair p ON p.qid_a = least(t.subject, t.object) AND p.qid_b = greatest(t.subject, t.object)
ORDER BY 1, 2, 3
"""


def _corpus(links: pa.Table, linked: pa.Table) -> pa.Table:
    counts = {
        "num_documents": len(pc.unique(links.column("doc_id"))),
        "num_mentions": links.num_rows,
        "num_linked": linked.num_rows,
        "num_sentences": links.group_by(["doc_id", "sentence_start"]).aggregate([]).num_rows,
    }
    schema = pa.schema([pa.field("name", pa.string()), pa.field("value", pa.int64())])
    return pa.table([list(counts), list(counts.values())], schema=schema)


def _entities(linked: pa.Table) -> pa.Table:
    scaled = pc.cast(pc.round(pc.multiply(pc.cast(linked.column("confidence"), "float64"), CONFIDENCE_SCALE)), "int64")
    counted = linked.append_column("scaled", scaled).group_by("qid")
    counted = counted.aggregate([([], "count_all"), ("doc_id", "count_distinct"), ("scaled", "sum")])
    sentences = linked.group_by(["qid", "doc_id", "sentence_start"]).aggregate([])
    sentences = sentences.group_by("qid").aggregate([([], "count_all")])
    joined = counted.join(sentences, "qid", right_suffix="_sentences", use_threads=False)
    columns = ["qid", "count_all", "doc_id_count_distinct", "count_all_sentences", "scaled_sum"]
    return _integers(joined.select(columns).rename_columns([*KEYS["entity"], *COUNTS["entity"]]))


def _surfaces(linked: pa.Table) -> pa.Table:
    counted = linked.group_by(["surface", "qid"]).aggregate([([], "count_all")])
    return _integers(counted.rename_columns(["surface", "qid", "num_mentions"]))


def _pairs(linked: pa.Table, limit: int) -> tuple[pa.Table, int]:
    documents = linked.column("doc_id").combine_chunks().dictionary_encode()
    codes = pa.concat_arrays([documents]).indices.to_numpy().astype(np.int64)
    sentences = (codes << 32) | linked.column("sentence_start").to_numpy().astype(np.int64)
    pairs, owners, over = frequency.sentence_pairs(sentences, linked.column("qid").to_numpy(), limit)
    rows = pa.table({"qid_a": pairs[:, 0], "qid_b": pairs[:, 1], "document": owners >> 32})
    counted = rows.group_by(["qid_a", "qid_b"]).aggregate([([], "count_all"), ("document", "count_distinct")])
    return _integers(counted.rename_columns(["qid_a", "qid_b", *COUNTS["pair"]])), over


def _integers(rows: pa.Table) -> pa.Table:
    """Counts as int64, ids as uint32: one schema for every unit."""
    kinds = {"surface": pa.string(), "qid": pa.uint32(), "qid_a": pa.uint32(), "qid_b": pa.uint32()}
    return rows.cast(pa.schema([pa.field(name, kinds.get(name, pa.int64())) for name in rows.column_names]))


def _buckets(rows: pa.Table, group: str, count: int) -> np.ndarray:
    if group == "surface":
        texts = rows.column("surface").to_pylist()
        return np.fromiter((zlib.crc32(text.encode()) % count for text in texts), np.int64, len(texts))
    return rows.column(KEYS[group][0]).to_numpy() % count


def _open_counts(connection: duckdb.DuckDBPyConnection, folder: str) -> None:
    for group, keys in KEYS.items():
        found = [metadata.path for metadata in files.list_files(files.join(folder, f"{group}-*.parquet"))]
        if found:
            quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in found)
            connection.execute(f'CREATE VIEW "{group}" AS SELECT * FROM read_parquet([{quoted}])')
            continue
        columns = [f"NULL::{'VARCHAR' if name in ('surface', 'name') else 'UINTEGER'} AS {name}" for name in keys]
        columns += [f"NULL::BIGINT AS {name}" for name in COUNTS[group]]
        connection.execute(f'CREATE VIEW "{group}" AS SELECT {", ".join(columns)} WHERE false')


def _write_query(
    out: UnitWriter, table: Table, connection: duckdb.DuckDBPyConnection, query: str, parameters: list[int]
) -> None:
    for batch in connection.sql(query, params=parameters).to_arrow_reader(65_536):
        rows = pa.Table.from_batches([batch])
        out.write(table, table.from_columns({name: rows.column(name) for name in table.column_names}))


def _summary(connection: duckdb.DuckDBPyConnection, frequencies: np.ndarray, entities: np.ndarray) -> pa.Table:
    corpus = dict(connection.sql("SELECT name, value FROM corpus").fetchall())
    in_kb = connection.sql("SELECT count(DISTINCT qid) FROM entities WHERE NOT is_meta").fetchall()[0][0]
    fit = frequency.fit_power_law(frequencies, entities)
    mentions, linked, distinct = corpus.get("num_mentions", 0), corpus.get("num_linked", 0), int(entities.sum())
    return TAIL_SUMMARY.from_columns(
        {
            "num_documents": [corpus.get("num_documents", 0)],
            "num_mentions": [mentions],
            "num_linked": [linked],
            "num_entities": [distinct],
            "nil_share": [(mentions - linked) / max(mentions, 1)],
            "hapax_share": [frequency.hapax_share(frequencies, entities)],
            "gini": [frequency.gini(frequencies, entities)],
            "good_turing_unseen": [frequency.good_turing_unseen(frequencies, entities)],
            "kb_coverage": [distinct / max(in_kb, 1)],
            "power_law_exponent": [fit.exponent if fit else None],
            "zipf_exponent": [1 / (fit.exponent - 1) if fit else None],
            "power_law_x_min": [fit.x_min if fit else None],
            "power_law_ks": [fit.ks if fit else None],
        }
    )


def plan(config: StatsConfig, paths: RunPaths) -> StagePlan:
    """One unit per links file."""
    link, kb = paths.require("link"), paths.require("kb")
    found = paths.files("link", LINKS)
    units = [
        Unit(index=number, of=len(found), path=path, start=0, end=check_table(path, LINKS))
        for number, path in enumerate(found)
    ]
    return StagePlan(
        name="stats",
        tables=TABLES,
        units=units,
        worker=StatsWorker(paths=paths, config=config),
        inputs={"link": link.fingerprint, "kb": kb.fingerprint},
        config=to_dict(config),
    )
