"""Merge partial counts into the final tables of stage `stats`, bucket by bucket.

DuckDB streams the spilled tables through. Entities come first: pairs and surfaces need their
totals. Memory: the groups of one bucket, up to the connection's limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.config import StatsConfig
from pipeline.database.connection import add_view, working_database
from pipeline.engine.spill import concat_spill, read_spill, write_spill
from pipeline.engine.tables import RunPaths
from pipeline.engine.units import UnitWriter
from pipeline.stats import frequency, pairs
from pipeline.stats.count import (
    CONFIDENCE_SCALE,
    COUNTS,
    KEYS,
    NEAR,
    TOGETHER,
    add_facts,
    partial_schema,
)
from pipeline.stats.power_law import fit_tail, likeliest_exponents
from schemas import (
    COOCCURRENCE,
    ENTITIES,
    ENTITY_FREQUENCY,
    FACT_SUPPORT,
    SURFACE_FREQUENCY,
    TAIL_SUMMARY,
    Table,
)
from schemas.array_types import I64, U64

BATCH_ROWS = 65_536
# Of the bootstrap: the same counts give the same intervals.
SEED = 0
# Merging the entities leaves their totals for pairs and surfaces.
TOTALS = "totals"
TOTALS_SCHEMA = pa.schema(
    [pa.field("qid", pa.uint32())]
    + [pa.field(name, pa.int64()) for name in ("num_mentions", "num_documents", "num_sentences")]
)

ENTITY_QUERY = f"""
SELECT qid, num_mentions, num_documents, num_sentences,
       confidence / {CONFIDENCE_SCALE}.0 AS expected_mentions,
       CASE WHEN num_mentions >= $head THEN 'head' WHEN num_mentions >= $torso THEN 'torso'
            ELSE 'tail' END AS band
FROM entity ORDER BY num_mentions DESC, qid
"""
SURFACE_QUERY = """
SELECT surface, qid, s.num_mentions,
       s.num_mentions / sum(s.num_mentions) OVER (PARTITION BY surface) AS p_entity_given_surface,
       s.num_mentions / t.num_mentions AS p_surface_given_entity
FROM surface s JOIN totals t USING (qid) ORDER BY surface, qid
"""
# PMI divided by -log P(a, b): -1 never together, 0 independent, 1 always together.
_NPMI = """
CASE WHEN p.{of} = 0 THEN -1.0 WHEN p.{of} = n.{of} THEN 1.0
     ELSE ln(p.{of} * n.{of} / (a.{of}::DOUBLE * b.{of})) / -ln(p.{of} / n.{of}) END
"""
# A pair is one number: the lower item in the high 32 bits.
PAIR_QUERY = f"""
WITH n AS (SELECT sum(value) FILTER (name = 'num_sentences') AS num_sentences,
                  sum(value) FILTER (name = 'num_documents') AS num_documents FROM corpus)
SELECT a.qid AS qid_a, b.qid AS qid_b, p.num_sentences, p.num_documents,
       {_NPMI.format(of="num_sentences")} AS npmi,
       {_NPMI.format(of="num_documents")} AS npmi_documents
FROM pair p
JOIN totals a ON a.qid = (p.pair >> 32)::UINTEGER
JOIN totals b ON b.qid = (p.pair & 4294967295)::UINTEGER, n
ORDER BY qid_a, qid_b
"""
FACT_QUERY = """
SELECT f.subject, f.predicate, f.object, p.num_sentences, p.num_documents
FROM facts f JOIN fact p USING (subject, object) ORDER BY ALL
"""


def merge_entities(config: StatsConfig, paths: RunPaths, out: UnitWriter) -> None:
    """Write `entity_frequency` and `tail_summary`; leave the totals of entities."""
    with working_database(config.memory_gb) as connection:
        for group in ("entity", "corpus"):
            _merge(connection, group, out.folder, 0)

        # Shapes (n,): the distinct frequencies, ascending, and how many entities have each.
        spectrum = connection.sql(
            "SELECT num_mentions, count(*) FROM entity GROUP BY 1 ORDER BY 1"
        ).fetchnumpy()
        frequencies, entities = (
            np.asarray(values).astype(np.int64) for values in spectrum.values()
        )

        # The bands need the whole spectrum, so they are known only now.
        head, torso = _cutoffs(config, frequencies, entities)
        _write(out, ENTITY_FREQUENCY, connection, ENTITY_QUERY, {"head": head, "torso": torso})
        totals = connection.sql(
            "SELECT qid, num_mentions, num_documents, num_sentences FROM entity"
        ).to_arrow_table()
        write_spill(out.folder, TOTALS, 0, totals, np.zeros(totals.num_rows, np.int64), 1)

        # Pages about pages are no entities that a corpus could cover.
        add_view(connection, "entities", paths.kb_files(ENTITIES), ENTITIES)
        num_in_kb = connection.sql(
            "SELECT count(DISTINCT qid) FROM entities WHERE NOT is_meta"
        ).fetchall()[0][0]
        corpus = dict(connection.sql("SELECT name, value FROM corpus").fetchall())

    num_entities = int(entities.sum())
    corpus_counts = ("num_documents", "num_sentences", "num_mentions", "num_linked")
    row = {
        **{name: corpus.get(name, 0) for name in corpus_counts},
        "num_entities": num_entities,
        "head_min_mentions": head,
        "torso_min_mentions": torso,
        "kb_coverage": num_entities / num_in_kb if num_in_kb else None,
        "num_bootstrap": config.num_bootstrap,
        **tail_figures(config, frequencies, entities),
        **_nil_figures(config, corpus),
    }
    # Figures that could not be computed are null.
    complete_row = dict.fromkeys(TAIL_SUMMARY.column_names) | row
    columns = {name: [value] for name, value in complete_row.items()}
    out.write(TAIL_SUMMARY, TAIL_SUMMARY.from_columns(columns))


def merge_surfaces(config: StatsConfig, bucket: int, out: UnitWriter) -> None:
    """Write one bucket of `surface_frequency`."""
    with working_database(config.memory_gb) as connection:
        _merge(connection, "surface", out.folder, bucket)
        # All surfaces of an item, in all buckets, share its total.
        _totals(connection, out.folder)
        _write(out, SURFACE_FREQUENCY, connection, SURFACE_QUERY, {})


def merge_pairs(config: StatsConfig, bucket: int, out: UnitWriter) -> None:
    """Write one bucket of `cooccurrence`.

    Memory: about 24 bytes per occurrence of a pair in the bucket.
    """
    near, together = (_occurrences(out.folder, kind, bucket) for kind in (NEAR, TOGETHER))
    # A bucket holds all occurrences of its pairs, so its counts are final.
    qid_pairs, num_sentences, num_documents = pairs.pair_counts(near, together)
    # Rare pairs are most of all pairs, and of little use.
    is_frequent = np.maximum(num_sentences, num_documents) >= config.min_cooccurrence
    columns = {
        "pair": qid_pairs[is_frequent],
        "num_sentences": num_sentences[is_frequent],
        "num_documents": num_documents[is_frequent],
    }

    with working_database(config.memory_gb) as connection:
        connection.register("pair", pa.table(columns))
        # The normalised mutual information needs the number of all sentences and documents.
        _merge(connection, "corpus", out.folder, 0)
        _totals(connection, out.folder)
        _write(out, COOCCURRENCE, connection, PAIR_QUERY, {})


def _occurrences(folder: str, kind: str, bucket: int) -> U64:
    """Return the mixed pairs that all units left in a bucket."""
    of_units = [rows.column("pair").to_numpy() for rows in read_spill(folder, kind, bucket)]
    return np.concatenate(of_units) if of_units else np.empty(0, np.uint64)


def merge_facts(config: StatsConfig, out: UnitWriter) -> None:
    """Write `fact_support`."""
    with working_database(config.memory_gb) as connection:
        _merge(connection, "fact", out.folder, 0)
        add_facts(connection, out.folder)
        _write(out, FACT_SUPPORT, connection, FACT_QUERY, {})


def _merge(connection: duckdb.DuckDBPyConnection, group: str, folder: str, bucket: int) -> None:
    """Create the table of a group's merged counts."""
    # A reader instead of a table: the units' tables are streamed through, one at a time.
    schema = partial_schema(group)
    batches = (batch for rows in read_spill(folder, group, bucket) for batch in rows.to_batches())
    connection.register("partial", pa.RecordBatchReader.from_batches(schema, batches))

    keys = ", ".join(KEYS[group])
    sums = ", ".join(f"sum({name})::BIGINT AS {name}" for name in COUNTS[group])
    connection.execute(
        f"CREATE TEMP TABLE {group} AS SELECT {keys}, {sums} FROM partial GROUP BY ALL"
    )
    connection.unregister("partial")


def _totals(connection: duckdb.DuckDBPyConnection, folder: str) -> None:
    """Add the totals of entities as `totals`."""
    connection.register("totals", concat_spill(folder, TOTALS, 0, TOTALS_SCHEMA))


def _write(
    out: UnitWriter,
    table: Table,
    connection: duckdb.DuckDBPyConnection,
    query: str,
    values: Mapping[str, Any],
) -> None:
    """Write the rows of a query with these parameters, batch by batch."""
    # The result is streamed: it may be larger than the memory.
    for batch in connection.sql(query, params=dict(values)).to_arrow_reader(BATCH_ROWS):
        rows = pa.Table.from_batches([batch])
        columns = {name: rows.column(name) for name in table.column_names}
        out.write(table, table.from_columns(columns))


def _cutoffs(config: StatsConfig, frequencies: I64, entities: I64) -> tuple[int, int]:
    """Return the lowest frequency of the head and of the torso."""
    # Fixed limits make runs over different corpora comparable.
    if config.bands == "count":
        return config.head_min_mentions, config.torso_min_mentions
    return frequency.band_cutoffs(frequencies, entities, config.head_mass, config.torso_mass)


def tail_figures(config: StatsConfig, frequencies: I64, entities: I64) -> dict[str, float | None]:
    """Return the figures, intervals and fit of a spectrum, by column of `tail_summary`.

    Empty where nothing is linked; without the columns of the fit where there is too little to fit.

    Args:
        config: the settings of the bootstrap.
        frequencies: distinct frequencies, ascending, shape (n,).
        entities: how many entities have each, shape (n,).
    """
    if not len(frequencies):
        return {}

    figures: dict[str, float | None] = {
        "dis_share": float(frequency.share_of_frequency(frequencies, entities, 2))
    }
    # One set of resamples serves all figures.
    samples = frequency.resampled(entities, config.num_bootstrap, SEED)
    resamples = frequency.spectrum_figures(frequencies, samples)
    for name, value in frequency.spectrum_figures(frequencies, entities).items():
        figures |= _with_interval(name, float(value), frequency.interval(resamples[name]))

    fit = fit_tail(frequencies, entities)
    if fit is None:
        return figures

    # The cut-off stays that of the fit: only the exponent is found again in every resample.
    exponents = likeliest_exponents(frequencies, samples, fit.x_min)
    ends = frequency.interval(exponents[~np.isnan(exponents)])
    figures |= _with_interval("power_law_exponent", fit.exponent, ends)
    return figures | {
        "zipf_exponent": 1 / (fit.exponent - 1),
        "power_law_x_min": fit.x_min,
        "power_law_entities": fit.num_entities,
        "power_law_ks": fit.ks,
        "lognormal_mu": fit.lognormal_mu,
        "lognormal_sigma": fit.lognormal_sigma,
        "power_law_vs_lognormal": fit.versus_lognormal,
        "power_law_vs_lognormal_p": fit.versus_lognormal_p,
    }


def _nil_figures(config: StatsConfig, corpus: Mapping[str, int]) -> dict[str, float | None]:
    """Return the share of mentions without an item, with its interval; empty without mentions."""
    total = corpus.get("num_mentions", 0)
    if not total:
        return {}
    num_nil = total - corpus["num_linked"]
    ends = frequency.share_interval(num_nil, total, config.num_bootstrap, SEED)
    return _with_interval("nil_share", num_nil / total, ends)


def _with_interval(name: str, value: float, ends: tuple[float, float]) -> dict[str, float | None]:
    """Return a figure and the ends of its interval, by column."""
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}
