"""Merging partial counts: the final tables of stage `stats`, bucket by bucket. DuckDB streams the spilled tables through.

Entities first: pairs and surfaces need their totals. Memory: the groups of one bucket, up to the connection's limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.config import StatsConfig
from pipeline.database.connection import add_view, connect
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

BATCH_ROWS = 65_536
SEED = 0  # of the bootstrap: the same counts give the same intervals
TOTALS = "totals"  # what merging the entities leaves for pairs and surfaces
TOTALS_SCHEMA = pa.schema(
    [pa.field("qid", pa.uint32())]
    + [pa.field(name, pa.int64()) for name in ("num_mentions", "num_documents", "num_sentences")]
)

ENTITY_QUERY = f"""
SELECT qid, num_mentions, num_documents, num_sentences, confidence / {CONFIDENCE_SCALE}.0 AS expected_mentions,
       CASE WHEN num_mentions >= $head THEN 'head' WHEN num_mentions >= $torso THEN 'torso' ELSE 'tail' END AS band
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
PAIR_QUERY = f"""
WITH n AS (SELECT sum(value) FILTER (name = 'num_sentences') AS num_sentences,
                  sum(value) FILTER (name = 'num_documents') AS num_documents FROM corpus)
SELECT a.qid AS qid_a, b.qid AS qid_b, p.num_sentences, p.num_documents,
       {_NPMI.format(of="num_sentences")} AS npmi, {_NPMI.format(of="num_documents")} AS npmi_documents
FROM pair p JOIN totals a ON a.qid = (p.pair >> 32)::UINTEGER JOIN totals b ON b.qid = (p.pair & 4294967295)::UINTEGER, n
ORDER BY qid_a, qid_b
"""
FACT_QUERY = """
SELECT f.subject, f.predicate, f.object, p.num_sentences, p.num_documents
FROM facts f JOIN fact p USING (subject, object) ORDER BY ALL
"""


def merge_entities(config: StatsConfig, paths: RunPaths, out: UnitWriter) -> None:
    """Write `entity_frequency` and `tail_summary`; leave the totals."""
    with connect(config.memory_gb) as connection:
        for group in ("entity", "corpus"):
            _merge(connection, group, out.folder, 0)
        spectrum = connection.sql(
            "SELECT num_mentions, count(*) FROM entity GROUP BY 1 ORDER BY 1"
        ).fetchnumpy()
        frequencies, entities = (
            np.asarray(values).astype(np.int64) for values in spectrum.values()
        )
        head, torso = _cutoffs(config, frequencies, entities)
        _write(out, ENTITY_FREQUENCY, connection, ENTITY_QUERY, {"head": head, "torso": torso})
        totals = connection.sql(
            "SELECT qid, num_mentions, num_documents, num_sentences FROM entity"
        ).to_arrow_table()
        write_spill(out.folder, TOTALS, 0, totals, np.zeros(totals.num_rows, np.int64), 1)
        add_view(connection, "entities", paths.files("kb", ENTITIES), ENTITIES)
        in_kb = connection.sql(
            "SELECT count(DISTINCT qid) FROM entities WHERE NOT is_meta"
        ).fetchall()[0][0]
        corpus = dict(connection.sql("SELECT name, value FROM corpus").fetchall())
    row = {
        **{
            name: corpus.get(name, 0)
            for name in ("num_documents", "num_sentences", "num_mentions", "num_linked")
        },
        "num_entities": int(entities.sum()),
        "head_min_mentions": head,
        "torso_min_mentions": torso,
        "kb_coverage": int(entities.sum()) / in_kb if in_kb else None,
        "num_bootstrap": config.num_bootstrap,
        **tail_figures(config, frequencies, entities),
        **_nil_figures(config, corpus),
    }
    empty = dict.fromkeys(TAIL_SUMMARY.column_names)
    out.write(
        TAIL_SUMMARY,
        TAIL_SUMMARY.from_columns({name: [value] for name, value in (empty | row).items()}),
    )


def merge_surfaces(config: StatsConfig, bucket: int, out: UnitWriter) -> None:
    """Write one bucket of `surface_frequency`."""
    with connect(config.memory_gb) as connection:
        _merge(connection, "surface", out.folder, bucket)
        _totals(connection, out.folder)
        _write(out, SURFACE_FREQUENCY, connection, SURFACE_QUERY, {})


def merge_pairs(config: StatsConfig, bucket: int, out: UnitWriter) -> None:
    """Write one bucket of `cooccurrence`. Memory: about 24 bytes per occurrence of a pair in the bucket."""
    near, together = (_occurrences(out.folder, kind, bucket) for kind in (NEAR, TOGETHER))
    found, num_sentences, num_documents = pairs.pair_counts(near, together)
    often = np.maximum(num_sentences, num_documents) >= config.min_cooccurrence
    with connect(config.memory_gb) as connection:
        columns = {"pair": found, "num_sentences": num_sentences, "num_documents": num_documents}
        connection.register(
            "pair", pa.table({name: values[often] for name, values in columns.items()})
        )
        _merge(connection, "corpus", out.folder, 0)
        _totals(connection, out.folder)
        _write(out, COOCCURRENCE, connection, PAIR_QUERY, {})


def _occurrences(folder: str, kind: str, bucket: int) -> np.ndarray:
    parts = [rows.column("pair").to_numpy() for rows in read_spill(folder, kind, bucket)]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def merge_facts(config: StatsConfig, out: UnitWriter) -> None:
    """Write `fact_support`."""
    with connect(config.memory_gb) as connection:
        _merge(connection, "fact", out.folder, 0)
        add_facts(connection, out.folder)
        _write(out, FACT_SUPPORT, connection, FACT_QUERY, {})


def _merge(connection: duckdb.DuckDBPyConnection, group: str, folder: str, bucket: int) -> None:
    """Table of a group's merged counts. The units' tables are streamed through, one at a time."""
    schema = partial_schema(group)
    batches = (batch for rows in read_spill(folder, group, bucket) for batch in rows.to_batches())
    connection.register("partial", pa.RecordBatchReader.from_batches(schema, batches))
    sums = ", ".join(f"sum({name})::BIGINT AS {name}" for name in COUNTS[group])
    keys = ", ".join(KEYS[group])
    connection.execute(
        f"CREATE TEMP TABLE {group} AS SELECT {keys}, {sums} FROM partial GROUP BY ALL"
    )
    connection.unregister("partial")


def _totals(connection: duckdb.DuckDBPyConnection, folder: str) -> None:
    connection.register("totals", concat_spill(folder, TOTALS, 0, TOTALS_SCHEMA))


def _write(
    out: UnitWriter,
    table: Table,
    connection: duckdb.DuckDBPyConnection,
    query: str,
    wanted: Mapping[str, Any],
) -> None:
    for batch in connection.sql(query, params=dict(wanted)).to_arrow_reader(BATCH_ROWS):
        rows = pa.Table.from_batches([batch])
        out.write(
            table, table.from_columns({name: rows.column(name) for name in table.column_names})
        )


def _cutoffs(config: StatsConfig, frequencies: np.ndarray, entities: np.ndarray) -> tuple[int, int]:
    if config.bands == "count":
        return config.head_min_mentions, config.torso_min_mentions
    return frequency.band_cutoffs(frequencies, entities, config.head_mass, config.torso_mass)


def tail_figures(
    config: StatsConfig, frequencies: np.ndarray, entities: np.ndarray
) -> dict[str, float | None]:
    """What `tail_summary` says of the spectrum: figures, intervals and fit, by column; empty where nothing is linked."""
    if not len(frequencies):
        return {}
    figures: dict[str, float | None] = {
        "dis_share": float(frequency.share_of_frequency(frequencies, entities, 2))
    }
    samples = frequency.resampled(entities, config.num_bootstrap, SEED)
    resamples = frequency.spectrum_figures(frequencies, samples)
    for name, value in frequency.spectrum_figures(frequencies, entities).items():
        figures |= _with_interval(name, float(value), frequency.interval(resamples[name]))
    fit = fit_tail(frequencies, entities)
    if fit is None:
        return figures
    exponents = likeliest_exponents(frequencies, samples, fit.x_min)
    figures |= _with_interval(
        "power_law_exponent", fit.exponent, frequency.interval(exponents[~np.isnan(exponents)])
    )
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
    total = corpus.get("num_mentions", 0)
    if not total:
        return {}
    nil = total - corpus["num_linked"]
    return _with_interval(
        "nil_share", nil / total, frequency.share_interval(nil, total, config.num_bootstrap, SEED)
    )


def _with_interval(name: str, value: float, ends: tuple[float, float]) -> dict[str, float | None]:
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}
