"""Our side of `dump_parse`, and the limits: functions that `benchmarks.child` calls.

Each writes below `out`; what is not part of the measured work (imports, worker processes that start) is left out of
`seconds` where it says so.
"""

from __future__ import annotations

import bz2
import gzip
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from benchmarks.child import own_peak_rss_mb

READ_BYTES = 1 << 20
BATCH_LINES = 4096


def process_units(out: Path, path: str, unit_mb: float, statements: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002
    """Plan the stage and run its units one after the other, without Beam."""
    from pipeline.storage.stage import write_unit

    prepared = _prepared(out, path, unit_mb, statements=statements)
    process = prepared.plan.worker.process
    reports = [write_unit(prepared.data, "kb", unit, process) for unit in prepared.pending]
    return {"counters": _total(reports), "units": len(reports)}


def process_units_in_pool(out: Path, path: str, unit_mb: float, processes: int) -> dict[str, Any]:
    """The same by several processes, which take a unit when they are free; their start is not timed."""
    context = multiprocessing.get_context("spawn")  # Beam's and Arrow's threads do not survive a fork
    barrier = context.Barrier(processes + 1)
    with context.Pool(processes, initializer=_import_and_wait, initargs=(barrier,)) as pool:
        barrier.wait()
        start = time.perf_counter()
        prepared = _prepared(out, path, unit_mb, statements=False)
        work = partial(_write_in_worker, prepared.data, prepared.plan.worker)
        peaks = list(pool.imap_unordered(work, prepared.pending))
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "rss_mb": max(peaks), "units": len(peaks)}


def _import_and_wait(barrier: Any) -> None:  # noqa: ANN401 - has no public type
    import pipeline.storage.stage  # noqa: F401
    from pipeline.stages import kb  # noqa: F401

    barrier.wait()


def _write_in_worker(folder: str, worker: Any, unit: Any) -> float:  # noqa: ANN401
    from pipeline.storage.stage import write_unit

    write_unit(folder, "kb", unit, worker.process)
    return own_peak_rss_mb()


def _prepared(out: Path, path: str, unit_mb: float, *, statements: bool) -> Any:  # noqa: ANN401 - imported below
    from pipeline.config import KbConfig
    from pipeline.stages import kb
    from pipeline.storage.stage import prepare
    from pipeline.storage.tables import RunPaths

    paths = RunPaths(root=str(out))
    config = KbConfig(dumps=(path,), unit_mb=unit_mb, statements=statements)
    return prepare(kb.plan(config, paths), paths)


def _total(reports: list[Any]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for report in reports:
        for name, count in report.counters.items():
            totals[name] = totals.get(name, 0) + count
    return totals


def run_command(out: Path, path: str, unit_mb: float, workers: int) -> dict[str, Any]:
    """The command `trelm-pipeline kb` on Beam's local runner, start-up included.

    Raises:
        RuntimeError: it failed; carries what it wrote.
    """
    command = [sys.executable, "-m", "pipeline.cli", "kb", "--run", str(out / "run"), "--dump", path]
    command += ["--workers", str(workers), "--set", f"kb.unit_mb={unit_mb}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-4000:])
    return {}


def kit_file(out: Path, path: str) -> dict[str, Any]:
    """One dump through the stage: what went in (counted by the standard library alone) and what became of it."""
    from pipeline.storage.stage import write_unit

    wanted = _count_entities(path)
    prepared = _prepared(out, path, 32.0, statements=True)
    try:
        reports = [write_unit(prepared.data, "kb", unit, prepared.plan.worker.process) for unit in prepared.pending]
    except Exception as error:  # noqa: BLE001 - a crash is a figure here
        return {"entities_in": wanted, "crashes": 1, "error": repr(error)}
    counters = _total(reports)
    rows: dict[str, int] = {}
    for report in reports:
        for name, part in report.parts.items():
            rows[name] = rows.get(name, 0) + part.rows
    skipped = {name: count for name, count in counters.items() if name.startswith("skipped_")}
    rejects = counters.get("rejects", 0)
    accounted = counters.get("rows_out", 0) + sum(skipped.values()) + rejects
    return {
        "entities_in": wanted, "rows": rows, "skipped": skipped, "rejects": rejects, "crashes": 0,
        "all_accounted_for": wanted == counters.get("rows_in", 0) == accounted,
    }  # fmt: skip


def _count_entities(path: str) -> int:
    with open_stdlib(path) as file:
        return len(json.load(file))


def open_stdlib(path: str) -> IO[bytes]:
    """Open a dump by its extension, with what Python brings."""
    opener: Any = gzip.open if path.endswith(".gz") else bz2.open if path.endswith(".bz2") else open
    return opener(path, "rb")


def decompress(out: Path, path: str, library: str) -> dict[str, Any]:  # noqa: ARG001 - all variants have `out`
    """Decompression alone: isal, gzip or bz2."""
    if library == "isal":
        from isal import igzip

        file: Any = igzip.open(path, "rb")
    else:
        file = {"gzip": gzip, "bz2": bz2}[library].open(path, "rb")
    buffer = bytearray(READ_BYTES)
    with file:
        return {"bytes": sum(iter(lambda: file.readinto(buffer), 0))}


def decode_typed(out: Path, path: str) -> dict[str, Any]:  # noqa: ARG001
    """msgspec's typed decoding of the lines alone, of a plain file; reading the lines is not timed."""
    from pipeline.core.wikidata_model import ItemValue, entity_decoder

    decode, seconds, num_bytes = entity_decoder(("en", "mul"), ItemValue).decode, 0.0, 0
    for lines in _line_batches(path):
        start = time.perf_counter()
        for line in lines:
            decode(line)
        seconds += time.perf_counter() - start
        num_bytes += sum(map(len, lines))
    return {"seconds": seconds, "bytes": num_bytes}


def _line_batches(path: str) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    with open(path, "rb") as file:  # noqa: PTH123 - a str comes in
        for line in file:
            if record := line.strip(b"\n,[]"):
                batch.append(record)
            if len(batch) == BATCH_LINES:
                yield batch
                batch = []
    yield batch
