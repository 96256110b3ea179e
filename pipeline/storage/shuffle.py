"""The shuffle job (`stats`): partial tables per unit, merged per bucket, one output per bucket.

`Create(units) | Reshuffle | ParDo(EmitPartials) | CombinePerKey(MergeTables) | ParDo(WriteBucket) | ToList | Finish`.
No row crosses the shuffle alone: a row costs 17 µs there, a row of a table 0.2 µs.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsSingleton

from pipeline.storage.progress import ProgressAddress, ProgressSender
from pipeline.storage.stage import PreparedStage, check_counters, write_manifest
from pipeline.storage.units import ShuffleWorker, Unit

MERGE_EVERY = 32
COUNTERS = "counters"
_COUNTER_SCHEMA = pa.schema([pa.field("name", pa.string()), pa.field("count", pa.int64())])


class ArrowTableCoder(beam.coders.Coder):  # type: ignore[misc]
    """Tables as Arrow streams: a pickled slice would carry its parent's buffers."""

    def encode(self, table: pa.Table) -> bytes:
        """Table to bytes."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())

    def decode(self, encoded: bytes) -> pa.Table:
        """Bytes to table."""
        return pa.ipc.open_stream(encoded).read_all()

    def is_deterministic(self) -> bool:
        """The same table gives the same bytes."""
        return True

    def to_type_hint(self) -> type:
        """The type it codes."""
        return pa.Table


class EmitPartials(beam.DoFn):  # type: ignore[misc]
    """One unit to partial tables, keyed `group/bucket`."""

    def __init__(self, worker: ShuffleWorker, address: ProgressAddress | None) -> None:
        self._worker = worker
        self._address = address

    def process(self, unit: Unit) -> Iterator[tuple[str, pa.Table]]:
        """One unit."""
        counters: Counter[str] = Counter()
        for group, bucket, rows in self._worker.partials(unit, counters):
            yield f"{group}/{bucket}", rows
        names = sorted(counters)
        yield f"{COUNTERS}/0", pa.table([names, [counters[name] for name in names]], schema=_COUNTER_SCHEMA)
        told = {"records": counters["rows_in"], "rejects": counters["rejects"]}
        ProgressSender(self._address).send(done=unit.size, units=1, **told)


@beam.typehints.with_output_types(pa.Table)
class MergeTables(beam.CombineFn):  # type: ignore[misc]
    """Collects tables and merges them every MERGE_EVERY, so that memory follows the result, not the input."""

    def __init__(self, worker: ShuffleWorker) -> None:
        self._worker = worker

    def create_accumulator(self) -> list[tuple[str, pa.Table]]:
        """Nothing yet."""
        return []

    def add_input(self, accumulator: list[tuple[str, pa.Table]], keyed: tuple[str, pa.Table]) -> Any:  # noqa: ANN401
        """One more table."""
        accumulator.append(keyed)
        return self._compact(accumulator) if len(accumulator) >= MERGE_EVERY else accumulator

    def merge_accumulators(self, accumulators: Iterable[list[tuple[str, pa.Table]]]) -> Any:  # noqa: ANN401
        """All tables of several workers."""
        return self._compact([keyed for accumulator in accumulators for keyed in accumulator])

    def extract_output(self, accumulator: list[tuple[str, pa.Table]]) -> pa.Table:
        """The merged table."""
        return self._compact(accumulator)[0][1]

    def get_accumulator_coder(self) -> beam.coders.Coder:
        """Tables stay Arrow between workers."""
        keyed = beam.coders.TupleCoder([beam.coders.StrUtf8Coder(), ArrowTableCoder()])
        return beam.coders.IterableCoder(keyed)

    def _compact(self, keyed: Iterable[tuple[str, pa.Table]]) -> list[tuple[str, pa.Table]]:
        tables = list(keyed)
        group = tables[0][0]
        if group == COUNTERS:
            merged = pa.concat_tables([table for _, table in tables]).group_by("name").aggregate([("count", "sum")])
            return [(group, merged.rename_columns(["name", "count"]).cast(_COUNTER_SCHEMA))]
        return [(group, self._worker.merge(group, [table for _, table in tables]))]


class WriteBucket(beam.DoFn):  # type: ignore[misc]
    """Writes one merged bucket; passes the counters on."""

    def __init__(self, worker: ShuffleWorker, folder: str) -> None:
        self._worker = worker
        self._folder = folder

    def process(self, keyed: tuple[str, pa.Table], _prepared: str) -> Iterator[dict[str, int]]:
        """One bucket."""
        group, _, bucket = keyed[0].partition("/")
        rows = keyed[1]
        if group == COUNTERS:
            yield dict(zip(rows.column("name").to_pylist(), rows.column("count").to_pylist(), strict=True))
        else:
            self._worker.write(self._folder, group, int(bucket), rows)


@dataclass(frozen=True, kw_only=True)
class _Finish:
    prepared: PreparedStage
    worker: ShuffleWorker

    def __call__(self, counted: Iterable[dict[str, int]], _prepared: str) -> str:
        counters: Counter[str] = Counter()
        for counts in counted:
            counters.update(counts)
        plan = self.prepared.plan
        check_counters(plan, counters)
        parts, extra = self.worker.finish(self.prepared.data)
        everything = {table.name: parts.get(table.name, []) for table in plan.tables} | {"rejects": []}
        located = {name: f"{plan.data_folder}/{path}".rstrip("/") for name, path in extra.items()}
        return write_manifest(self.prepared, everything, counters, plan.extra | located)


def _prepare(worker: ShuffleWorker, folder: str) -> str:
    worker.prepare(folder)
    return folder


def _keyed(pair: tuple[str, pa.Table]) -> tuple[str, tuple[str, pa.Table]]:
    return pair[0], (pair[0].partition("/")[0], pair[1])


def build_shuffle_graph(
    pipeline: beam.Pipeline, prepared: PreparedStage, address: ProgressAddress | None = None
) -> None:
    """Wire a shuffle stage."""
    worker = cast(ShuffleWorker, prepared.plan.worker)
    beam.coders.registry.register_coder(pa.Table, ArrowTableCoder)
    ready = (
        pipeline
        | "Data folder" >> beam.Create([prepared.data]).with_output_types(str)
        | "Prepare" >> beam.Map(functools.partial(_prepare, worker)).with_output_types(str)
    )
    (
        pipeline
        | "Units" >> beam.Create(list(prepared.plan.units), reshuffle=False).with_output_types(Unit)
        | "Spread" >> beam.Reshuffle().with_output_types(Unit)
        | f"Partials of {prepared.plan.name}"
        >> beam.ParDo(EmitPartials(worker, address)).with_output_types(tuple[str, pa.Table])
        | "Key" >> beam.Map(_keyed).with_output_types(tuple[str, tuple[str, pa.Table]])
        | "Merge" >> beam.CombinePerKey(MergeTables(worker)).with_output_types(tuple[str, pa.Table])
        | "Write buckets"
        >> beam.ParDo(WriteBucket(worker, prepared.data), AsSingleton(ready)).with_output_types(dict[str, int])
        | "Counters" >> beam.combiners.ToList()
        | "Finish" >> beam.Map(_Finish(prepared=prepared, worker=worker), AsSingleton(ready))
    )
