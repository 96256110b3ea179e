"""Build shards from sentences, and run the tokenizer alone on the same sentences; every variant in
a process of its own, one thread.

Loading a tokenizer is not timed. The corpus is taken `copies` times: ours reads it again each time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import ShardsConfig
from pipeline.engine.stage import StagePlan
from pipeline.engine.tables import RunPaths
from pipeline.engine.units import UnitReport, write_unit
from pipeline.link.linked_sentences import LinkedReader, linked_units
from pipeline.shards import stage as shards
from schemas import EXAMPLES, KNOWLEDGE, REJECTS

Result = dict[str, Any]


def ours(out: Path, run: str, model: str, copies: int) -> Result:
    """Run phases `shards` and `shuffle`, unit after unit, without Beam; time phase `knowledge`
    apart.
    """
    paths = RunPaths(root=run)
    plan = _copied(shards.plan(ShardsConfig(model=model), paths), copies)
    for name in ("_tmp", "_units", *(table.name for table in (EXAMPLES, KNOWLEDGE, REJECTS))):
        (out / name).mkdir()
    knowledge_s, _ = _phase(out, plan, 0)
    plan.phase_named("shards").worker.resources(str(out))  # what a worker loads once
    cpu_start = time.process_time()
    rows_s, reports = _phase(out, plan, 1)
    cpu_rows_s = time.process_time() - cpu_start
    shuffle_s, written = _phase(out, plan, 2)
    counters = {
        name: sum(report.counters[name] for report in reports) for name in reports[0].counters
    }
    num_bytes = sum(report.parts[EXAMPLES.name].num_bytes for report in written if report.parts)
    return {
        "seconds": rows_s + shuffle_s, "cpu_seconds": time.process_time() - cpu_start, "rows_s": rows_s,
        "shuffle_s": shuffle_s, "cpu_rows_s": cpu_rows_s, "knowledge_s": knowledge_s, "counters": counters,
        "tokens": counters["tokens"], "bytes": num_bytes,
    }  # fmt: skip


def _copied(plan: StagePlan, copies: int) -> StagePlan:
    """Return a plan with the same units of `link` several times over."""
    knowledge, rows, shuffle = plan.phases
    total = sum(unit.size for unit in rows.worker.linked)
    tasks = [
        replace(task, start=task.start + copy * total, end=task.end + copy * total)
        for copy in range(copies)
        for task in rows.tasks
    ]
    worker = replace(rows.worker, linked=rows.worker.linked * copies)
    return replace(plan, phases=(knowledge, replace(rows, tasks=tasks, worker=worker), shuffle))


def _phase(out: Path, plan: StagePlan, number: int) -> tuple[float, list[UnitReport]]:
    (phase, units), start = plan.numbered_phases[number], time.perf_counter()
    reports = [write_unit(str(out), plan.name, unit, phase.worker.process) for unit in units]
    return time.perf_counter() - start, reports


def call(out: Path, run: str, model: str, copies: int, batch_size: int) -> Result:  # noqa: ARG001 - all variants get one
    """Call the tokenizer, with offsets; what it returns is thrown away."""
    tokenizer = _tokenizer(model)
    return _timed(
        lambda texts: sum(
            map(
                len,
                tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, **_LEAN)[
                    "input_ids"
                ],
            )
        ),
        run,
        copies,
        batch_size,
    )


def encode_batch(out: Path, run: str, model: str, copies: int, batch_size: int) -> Result:  # noqa: ARG001
    """Call the compiled part alone: its tokens never become Python objects."""
    bare = _tokenizer(model).backend_tokenizer
    bare.no_padding()
    bare.no_truncation()
    return _timed(
        lambda texts: sum(map(len, bare.encode_batch(texts, add_special_tokens=False))),
        run,
        copies,
        batch_size,
    )


def script(out: Path, run: str, model: str, copies: int, batch_size: int) -> Result:
    """Do what a script would: call the tokenizer, write words and offsets as lists to Parquet; no
    spans, facts or order.
    """
    tokenizer = _tokenizer(model)
    schema = pa.schema({name: pa.list_(pa.int32()) for name in ("input_ids", "words", "offsets")})
    with pq.ParquetWriter(out / "script.parquet", schema, compression="zstd") as writer:

        def write(texts: list[str]) -> int:
            batch = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, **_LEAN)
            columns = {
                "input_ids": batch["input_ids"],
                "words": [batch.word_ids(row) for row in range(len(texts))],
                "offsets": [
                    [point for pair in row for point in pair] for row in batch["offset_mapping"]
                ],
            }
            writer.write_table(pa.table(columns, schema=schema))
            return sum(map(len, batch["input_ids"]))

        return _timed(write, run, copies, batch_size)


_LEAN = {"return_attention_mask": False, "return_token_type_ids": False}


def _tokenizer(model: str) -> Any:  # noqa: ANN401
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.model_max_length = 10**9  # no warning about length
    return tokenizer


def _timed(work: Any, run: str, copies: int, batch_size: int) -> Result:  # noqa: ANN401
    texts = list(_texts(run))
    work(texts[:10])
    start, cpu_start, tokens = time.perf_counter(), time.process_time(), 0
    for _ in range(copies):
        for low in range(0, len(texts), batch_size):
            tokens += work(texts[low : low + batch_size])
    return {
        "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start, "tokens": tokens,
    }  # fmt: skip


def _texts(run: str) -> Iterator[str]:
    paths = RunPaths(root=run)
    reader = LinkedReader(paths)
    for unit in linked_units(paths):
        yield from reader.read(unit).sentence_texts()
