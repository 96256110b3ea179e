"""The alias index at scale: how it is built, how large it is, how fast it answers, what a process
pays for it.

    TRELM_KIT=/path/to/kit python -m benchmarks.alias_index [--quick] [--aliases 5000000]

The stage's own units run one after another, each kind in a process of its own, without Beam. Probes
run in fresh processes pinned to one core. Seconds are of CPU time, so a busy machine changes
little. RSS is RssAnon + RssFile of /proc/self/status; RssFile is the page cache, shared by the
processes of a machine. Peers on the same rows: a Python dict, SQLite (one clustered table). Figures
for 100 M are linear extrapolations.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.alias_names import make_kb
from pipeline.arrays.sections import map_sections
from pipeline.engine.stage import StagePlan, finish_stage, prepare, write_unit
from pipeline.engine.tables import RunPaths
from pipeline.engine.tasks import RowRange, Unit
from pipeline.engine.units import UnitReport, UnitWorker
from pipeline.index.alias_index import AliasIndex
from pipeline.index.stage import plan
from pipeline.link.candidates import fuzzy_candidates
from schemas import ALIASES

RUNS = 3
PROBES, QUICK_PROBES = 400_000, 100_000
ALIASES_IN_QUICK = 200_000
HUNDRED_MILLION = 100_000_000
CUTOFF = 88.0
Figures = dict[str, Any]


def in_fresh_process(task: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
    """A task's result, from a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


def emit(case: str, unit: str, ours: float, **more: object) -> None:
    """Print one case."""
    print(
        json.dumps({"benchmark": "alias_index", "case": case, "unit": unit, "ours": ours, **more}),
        flush=True,
    )


def rss_mb() -> dict[str, float]:
    """Resident memory of this process, in MB: private pages, pages of files, both."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    anon, file = (int(fields[name].split()[0]) / 1000 for name in ("RssAnon", "RssFile"))
    return {"anon": anon, "file": file, "both": anon + file}


def added_mb(before: dict[str, float]) -> dict[str, float]:
    """What was added since."""
    return {name: round(value - before[name], 1) for name, value in rss_mb().items()}


def run_units(
    data: str, worker: UnitWorker[Any], units: list[Unit[Any]]
) -> tuple[list[UnitReport], Figures]:
    """Units one after another; seconds and peak RSS of the process, and what it had at its start."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    before, start_s = rss_mb()["both"], time.process_time()
    reports = [write_unit(data, "index", unit, worker.process) for unit in units]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    figures = {
        "s": round(time.process_time() - start_s, 2),
        "peak_rss_mb": round(peak_mb),
        "start_rss_mb": round(before),
    }
    return reports, figures | {"units": len(units)}


def build(stage: StagePlan, paths: RunPaths) -> dict[str, Figures]:
    """Build the index; figures per kind of unit."""
    prepared = prepare(stage, paths)
    figures: dict[str, Figures] = {}
    reports: list[UnitReport] = []
    for phase, phase_units in stage.numbered_phases:
        groups: dict[str, list[Unit[Any]]] = {}
        for unit in phase_units:
            task = unit.task
            kind = task.table if isinstance(task, RowRange) else task.kind
            groups.setdefault(kind, []).append(unit)
        for kind, units in groups.items():
            done, figures[kind] = in_fresh_process(run_units, prepared.data, phase.worker, units)
            reports += done
    finish_stage(prepared, reports)
    return figures


def sample_keys(folder: str, num_probes: int) -> tuple[list[str], list[str]]:
    """Keys that are listed, drawn evenly, and as many that are not: the same with one letter
    changed.
    """
    index, rng = AliasIndex(folder), random.Random(1)
    hits = index._restore(rng.randrange(len(index)) for _ in range(num_probes))
    misses = (_misspelt(key, rng) for key in hits)
    return hits, [key for key in misses if key not in index]


def _misspelt(key: str, rng: random.Random) -> str:
    place = rng.randrange(len(key))
    return (
        key[:place] + rng.choice("abcdefghijklmnopqrstuvwxyz") + key[place + rng.choice([0, 1]) :]
    )


def probe(folder: str, hits: list[str], misses: list[str]) -> Figures:
    """Open and ask, in a fresh process on one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    before, start_s = rss_mb(), time.perf_counter()
    index = AliasIndex(folder)
    figures: Figures = {"open_ms": (time.perf_counter() - start_s) * 1000}
    for key in hits:
        for column in index.postings(key):
            column.sum()  # reads them all: their pages count
    figures["rss"] = added_mb(before)
    figures["hit"] = _rate(index.postings, hits)
    figures["miss"] = _rate(index.postings, misses)
    figures["fuzzy"] = _rate(lambda key: fuzzy_candidates(key, index, CUTOFF), misses[:5_000])
    wanted = list(zip(hits, (_misspelt(key, random.Random(1)) for key in hits), strict=True))[
        :5_000
    ]
    wanted = [(key, edited) for key, edited in wanted if len(edited) >= 5]
    figures["fuzzy_recall"] = sum(
        key in index.similar_keys(edited) for key, edited in wanted
    ) / len(wanted)
    return figures


def _rate(ask: Callable[[str], object], keys: list[str]) -> float:
    start_s = time.process_time()
    for key in keys:
        ask(key)
    return len(keys) / (time.process_time() - start_s)


def rows_of(folder: str) -> Iterator[tuple[str, list[tuple[int, int, int]]]]:
    """All keys with their postings, for the peers."""
    index = AliasIndex(folder)
    for number in range(len(index)):
        (key,) = index._restore([number])
        yield key, list(zip(*(column.tolist() for column in index.postings(key)), strict=True))


def probe_dict(folder: str, hits: list[str], misses: list[str]) -> Figures:
    """A dict of tuples: the plain way."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    before = rss_mb()
    names = {key: tuple(found) for key, found in rows_of(folder)}
    added = rss_mb()["anon"] - before["anon"]  # without the index it is made from
    return {
        "hit": _rate(names.get, hits),
        "miss": _rate(names.get, misses),
        "rss_mb": added,
        "bytes": added * 1e6,
    }


def probe_sqlite(folder: str, hits: list[str], misses: list[str]) -> Figures:
    """A clustered table of SQLite, default cache."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "names.db"
        with sqlite3.connect(path) as connection:
            columns = "key TEXT, place INT, qid INT, count INT, flags INT, PRIMARY KEY (key, place)"
            connection.execute(f"CREATE TABLE names ({columns}) WITHOUT ROWID")
            rows = (
                (key, place, *row)
                for key, found in rows_of(folder)
                for place, row in enumerate(found)
            )
            connection.executemany("INSERT INTO names VALUES (?, ?, ?, ?, ?)", rows)
        connection.close()
        return {"bytes": path.stat().st_size} | in_fresh_process(
            _ask_sqlite, str(path), hits, misses
        )


def _ask_sqlite(path: str, hits: list[str], misses: list[str]) -> Figures:
    before = rss_mb()
    connection = sqlite3.connect(path)
    query = "SELECT qid, count, flags FROM names WHERE key = ? ORDER BY place"

    def ask(key: str) -> list[Any]:
        return connection.execute(query, (key,)).fetchall()

    return {"hit": _rate(ask, hits), "miss": _rate(ask, misses), "rss_mb": added_mb(before)["both"]}


def sizes(folder: str) -> dict[str, int]:
    """Bytes of the index by kind of array; file headers and the description are `other`."""
    found: dict[str, int] = {"trie": 0}
    everything = [path for path in Path(folder).iterdir() if path.is_file()]
    for path in everything:
        if path.suffix == ".marisa":
            found["trie"] += path.stat().st_size
        elif path.suffix == ".safetensors":
            prefix = "fuzzy_" if path.name.startswith("fuzzy") else ""
            for name, values in map_sections(str(path)).items():
                found[prefix + name] = found.get(prefix + name, 0) + values.nbytes
    found["other"] = sum(path.stat().st_size for path in everything) - sum(found.values())
    return found


def report_build(figures: dict[str, Figures], num_rows: int) -> None:
    """Seconds and memory, per kind of unit."""
    aliases_s = sum(figures[kind]["s"] for kind in ("aliases", "shards", "fuzzy"))
    total_s = sum(kind["s"] for kind in figures.values())
    rate = num_rows / aliases_s
    emit("build aliases", "aliases/s", round(rate), seconds=round(aliases_s, 1), rows=num_rows)
    emit("spill aliases", "aliases/s", round(num_rows / figures["aliases"]["s"]))
    peak_mb = max(kind["peak_rss_mb"] for kind in figures.values())
    emit(
        "build memory",
        "MB",
        peak_mb,
        lower_is_better=True,
        seconds=round(total_s, 1),
        phases=figures,
    )
    hours = HUNDRED_MILLION / rate / 3600
    emit("build aliases, 100 M (extrapolated)", "core-hours", round(hours, 2), lower_is_better=True)


def report_size(folder: str, num_rows: int, peers: dict[str, Figures]) -> None:
    """Bytes per alias row and per key."""
    parts, num_keys = sizes(folder), len(AliasIndex(folder))
    total = sum(parts.values())
    split = {name: round(count / num_rows, 2) for name, count in parts.items()}
    others = {name: round(peer["bytes"] / num_rows, 1) for name, peer in peers.items()}
    more = {"peers": others, "lower_is_better": True, "parts": split}
    emit("size", "bytes/alias", round(total / num_rows, 2), **more, aliases=num_rows, keys=num_keys)
    emit("size per key", "bytes/key", round(total / num_keys, 2), lower_is_better=True)
    gigabytes = total / num_rows * HUNDRED_MILLION / 1e9
    emit("size, 100 M (extrapolated)", "GB", round(gigabytes, 2), lower_is_better=True)


def report_probes(runs: list[Figures], peers: dict[str, Figures], num_probes: int) -> None:
    """Probes per second, opening, memory, fuzzy queries."""

    def median(name: str) -> float:
        return statistics.median(run[name] for run in runs)

    for case in ("hit", "miss"):
        others = {name: round(peer[case]) for name, peer in peers.items()}
        emit(f"probe {case}", "probes/s", round(median(case)), peers=others, runs=len(runs))
    emit("open", "ms", round(median("open_ms"), 2), lower_is_better=True, runs=len(runs))
    rss = statistics.median(run["rss"]["both"] for run in runs)
    anon = statistics.median(run["rss"]["anon"] for run in runs)
    others = {name: round(peer["rss_mb"]) for name, peer in peers.items()}
    more = {"peers": others, "lower_is_better": True, "private_mb": anon, "runs": len(runs)}
    emit(f"RSS added after {num_probes:,} probes", "MB", rss, **more)
    emit("fuzzy", "queries/s", round(median("fuzzy")), runs=len(runs))
    emit("fuzzy recall of one edit", "share", round(median("fuzzy_recall"), 4))


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="200,000 aliases, fewer probes: within a minute"
    )
    parser.add_argument(
        "--aliases", type=int, default=5_000_000, help="synthetic aliases beside the kit's"
    )
    parser.add_argument(
        "--kit", default=os.environ.get("TRELM_KIT", ""), help="the data kit (default: $TRELM_KIT)"
    )
    given = parser.parse_args()
    if not given.kit:
        parser.error("wanted --kit FOLDER or the environment variable TRELM_KIT")
    run = Path(tempfile.mkdtemp(prefix="trelm-alias-index-"))
    try:
        num_aliases = ALIASES_IN_QUICK if given.quick else given.aliases
        config = in_fresh_process(make_kb, run, Path(given.kit), num_aliases)
        paths = RunPaths(root=str(run))
        num_rows = paths.finished("kb").tables[ALIASES.name].rows
        report_build(build(plan(config.index, paths), paths), num_rows)
        folder = paths.artefact("index", "aliases")
        hits, misses = in_fresh_process(
            sample_keys, folder, QUICK_PROBES if given.quick else PROBES
        )
        runs = [in_fresh_process(probe, folder, hits, misses) for _ in range(RUNS)]
        tasks = {"dict": probe_dict, "sqlite": probe_sqlite}
        peers = {name: in_fresh_process(task, folder, hits, misses) for name, task in tasks.items()}
        report_size(folder, num_rows, peers)
        report_probes(runs, peers, len(hits))
    finally:
        shutil.rmtree(run)


if __name__ == "__main__":
    main()
