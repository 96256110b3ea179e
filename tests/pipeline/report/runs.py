"""Runs for the report: the sample's run, with tables of later stages written by hand and with names
that try to break out.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.database.connection import open_run
from pipeline.engine.tables import RunPaths
from schemas import ENTITIES, EXAMPLES, IMPORTANCE, KNOWLEDGE, REJECTS, SURFACE_FREQUENCY, Table
from schemas.checksums import checksum_of
from schemas.manifest import MANIFEST_NAME, Manifest, PartFile, TableFiles
from schemas.probes import LAMA_ITEMS
from schemas.shards import ENTITY, POLICIES, POLICY_BITS
from tests.manifests import list_again

HOSTILE = '</script><img src=x onerror="window.broken=1">\'&\u2028é'
HOSTILE_TEXT = '"><script>window.broken=2</script>'
# A folder may be called so.
HOSTILE_NAME = "<img src=x onerror='window.broken=4'>"
HOSTILE_REASON = "<b onclick='window.broken=3'>bad</b>"


def most_frequent(run: Path) -> int:
    """The entity of rank 1."""
    return int(
        ask(run, "SELECT qid FROM entity_frequency ORDER BY num_mentions DESC, qid LIMIT 1")[0][0]
    )


def ask(run: Path, query: str) -> list[tuple]:
    """Rows of a query over a run."""
    with open_run(RunPaths(root=str(run))) as connection:
        return connection.execute(query).fetchall()


def add_stage(run: Path, manifest: Manifest, tables: Mapping[Table, pa.Table]) -> None:
    """Write a stage's tables and its manifest."""
    folder = run / manifest.stage
    (folder / "data").mkdir(parents=True, exist_ok=True)
    listed = {}
    for table, rows in tables.items():
        path = folder / "data" / f"{table.name}.parquet"
        pq.write_table(rows, path)
        part = PartFile(
            path=f"data/{path.name}",
            rows=rows.num_rows,
            num_bytes=path.stat().st_size,
            sha256=checksum_of(path).sha256,
        )
        listed[table.name] = TableFiles(version=table.version, rows=rows.num_rows, files=(part,))
    (folder / MANIFEST_NAME).write_text(dataclasses.replace(manifest, tables=listed).to_json())


def fingerprint(run: Path, stage: str) -> str:
    """Fingerprint of a finished stage."""
    return RunPaths(root=str(run)).finished(stage).fingerprint


def add_importance(run: Path) -> None:
    """A cosine for every linked mention, 4 decimals, from 1 down to below 0.5."""
    keys = ask(run, 'SELECT doc_id, start, "end" FROM links WHERE qid IS NOT NULL ORDER BY ALL')
    rows = []
    for key in keys:
        change = round(10.0 ** (zlib.crc32(repr(key).encode()) % 4500 / 1000 - 4.4), 4)
        rows.append((*key, 1 - change, 1 / max(1 - change, 1e-4), True))
    manifest = Manifest(
        stage="importance", fingerprint="1", code_version="0", tables={}, inputs={"link": fingerprint(run, "link")},
        config={"model": "/models/tiny"}, created="2026-01-02T03:04:05+00:00",
    )  # fmt: skip
    add_stage(run, manifest, {IMPORTANCE: IMPORTANCE.from_rows(rows), REJECTS: REJECTS.empty()})


def add_shards(run: Path) -> None:
    """One example per linked mention; the default policy chooses those of the tail."""
    entities = ask(run, "SELECT qid, num_mentions, band FROM entity_frequency ORDER BY qid")
    row_of = {qid: row for row, (qid, *_) in enumerate(entities)}
    band_of = {qid: band for qid, _, band in entities}
    lists = [column.name for column in KNOWLEDGE.columns if pa.types.is_list(column.type)]
    knowledge = KNOWLEDGE.from_columns(
        {
            "row": list(range(len(entities))), "kind": [ENTITY] * len(entities), "id": [qid for qid, *_ in entities],
            "label": [""] * len(entities), "frequency": [count for _, count, _ in entities],
            "band": [band for *_, band in entities], "bank_row": [None] * len(entities),
            **{name: [[]] * len(entities) for name in lists},
        }
    )  # fmt: skip
    spans = ask(run, "SELECT doc_id, start, qid FROM links WHERE qid IS NOT NULL ORDER BY ALL")
    bits = [
        [POLICY_BITS["all"] | (POLICY_BITS["long-tail-important"] * (band_of[qid] == "tail"))]
        for *_, qid in spans
    ]
    columns: dict[str, list] = {
        column.name: [[]] * len(spans)
        for column in EXAMPLES.columns
        if pa.types.is_list(column.type)
    }
    columns |= {
        "doc_id": [doc_id for doc_id, *_ in spans], "sentence_start": [start for _, start, _ in spans],
        "n_tokens": [0] * len(spans), "split": ["train"] * len(spans), "is_statement": [False] * len(spans),
        "span_entity_row": [[row_of[qid]] for *_, qid in spans], "span_policies": bits,
    }  # fmt: skip
    stages = ("link", "importance", "stats", "kb")
    manifest = Manifest(
        stage="shards", fingerprint="2", code_version="0", tables={}, config={"policies": list(POLICIES)},
        inputs={stage: fingerprint(run, stage) for stage in stages}, created="2026-01-02T03:04:06+00:00",
    )  # fmt: skip
    add_stage(run, manifest, {EXAMPLES: EXAMPLES.from_columns(columns), KNOWLEDGE: knowledge})


def rewrite(run: Path, stage: str, table: Table, change: Mapping[str, tuple[int, str]]) -> None:
    """Set a text column where the item is the given one: column -> (qid, text)."""
    for path in RunPaths(root=str(run)).files(stage, table):
        rows = pq.read_table(path)
        for name, (qid, text) in change.items():
            values = [
                text if found == qid else value
                for found, value in zip(
                    rows["qid"].to_pylist(), rows[name].to_pylist(), strict=True
                )
            ]
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(
                place, rows.schema.field(place), pa.array(values, rows.schema.field(place).type)
            )
        pq.write_table(rows.cast(table.schema), path)
    list_again(run / stage)


def make_hostile(run: Path) -> int:
    """Give the most frequent entity a label, a description and surfaces that are markup, and add
    such a reject.
    """
    qid = most_frequent(run)
    rewrite(run, "kb", ENTITIES, {"label": (qid, HOSTILE), "description": (qid, HOSTILE_TEXT)})
    rewrite(run, "stats", SURFACE_FREQUENCY, {"surface": (qid, HOSTILE_TEXT)})
    documents = RunPaths(root=str(run)).finished("documents")
    path = run / "documents" / "rejects.parquet"
    pq.write_table(REJECTS.from_rows([("documents", "d1", HOSTILE_REASON, HOSTILE_TEXT)]), path)
    part = PartFile(
        path=path.name, rows=1, num_bytes=path.stat().st_size, sha256=checksum_of(path).sha256
    )
    tables = documents.tables | {
        REJECTS.name: TableFiles(version=REJECTS.version, rows=1, files=(part,))
    }
    (run / "documents" / MANIFEST_NAME).write_text(
        dataclasses.replace(documents, tables=tables).to_json()
    )
    return qid


def add_training(folder: Path, name: str, losses: list[float]) -> Path:
    """What a trainer leaves: a logged interval per loss, the last line torn, and a summary."""
    made = folder / name
    made.mkdir(parents=True)
    rows = [
        {"step": 10 * at, "mlm_loss": loss, "fact_loss": loss + 1 if at % 2 else 0.0}
        for at, loss in enumerate(losses, 1)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (made / "metrics.jsonl").write_text(text + '{"step": 10000, "mlm_lo')
    evaluation = {"step": 10 * len(losses), "loss": losses[-1] - 0.25, "accuracy": None}
    (made / "evaluations.jsonl").write_text(json.dumps(evaluation) + "\n")
    measured = {"loss": losses[0], "entity_loss": 5.5, "cka_score": None}
    summary = {
        "steps": 10 * len(losses), "tokens": 123_456, "training_s": 7.5, "weights_updated_share": 0.25,
        "validation_before": measured, "validation_after": {**measured, "entity_loss": 4.25},
    }  # fmt: skip
    (made / "summary.json").write_text(json.dumps(summary))
    return made


def add_answers(run: Path, path: Path, model: str, *, wrong_every: int = 0) -> Path:
    """Answers to every fact of a run: what the corpus states is known, but for every n-th fact."""
    facts = ask(
        run,
        "SELECT DISTINCT f.subject, f.predicate, f.object, u.subject IS NOT NULL, s.band FROM facts f "
        "LEFT JOIN fact_support u USING (subject, predicate, object) "
        "LEFT JOIN entity_frequency s ON s.qid = f.subject ORDER BY ALL",
    )
    known = [
        is_stated and not (wrong_every and at % wrong_every == 0)
        for at, (*_, is_stated, _band) in enumerate(facts)
    ]
    columns: dict[str, list] = {name: [None] * len(facts) for name in LAMA_ITEMS.column_names}
    columns |= {
        "model": [model] * len(facts), "relation": [f"P{fact[1]}" for fact in facts],
        "template": ["[X] [Y]"] * len(facts), "sub_label": [f"s{fact[0]}" for fact in facts],
        "obj_label": [f"o{fact[2]}" for fact in facts], "sub_qid": [fact[0] for fact in facts],
        "obj_qid": [fact[2] for fact in facts], "sub_band": [fact[4] for fact in facts],
        "rank": [1 if one else 3 for one in known], "filtered_rank": [1] * len(facts), "p_gold": [0.5] * len(facts), "answers": [[]] * len(facts),
        "p_answers": [[]] * len(facts),
    }  # fmt: skip
    pq.write_table(LAMA_ITEMS.from_columns(columns), path)
    return path
