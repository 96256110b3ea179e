"""Measure the alias index at scale: how it is built, its size, its speed, what a process pays for
it.

    TRELM_KIT=/path/to/kit python -m benchmarks.alias_index [--quick] [--aliases 5000000]

The stage's own units run one after another, each kind in a process of its own, without Beam. Probes
run in fresh processes pinned to one core. Seconds are of CPU time, so a busy machine changes
little. RSS is RssAnon + RssFile of /proc/self/status; RssFile is the page cache, shared by the
processes of a machine. Peers on the same rows: a Python dict, SQLite (one clustered table). Figures
for 100 M are linear extrapolations.
"""

from __future__ import annotations

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

from benchmarks.added_entities import NUMBERS, add, opened
from benchmarks.alias_names import make_kb
from benchmarks.harness import (
    VariantError,
    common_arguments,
    judged,
    ratio,
    refuse_less_than_one,
    report,
    run_program,
    scratch_folder,
)
from pipeline.arrays.sections import map_sections
from pipeline.config import load_config
from pipeline.engine.finish import finish_stage
from pipeline.engine.stage import StagePlan, prepare
from pipeline.engine.tables import RunPaths
from pipeline.engine.tasks import RowRange, Unit
from pipeline.engine.units import UnitReport, UnitWorker, write_unit
from pipeline.index.alias_index import AliasIndex
from pipeline.index.stage import plan
from pipeline.link.candidates import fuzzy_candidates
from schemas import ALIASES

NAME = "alias_index"
PACKAGES = ("trelm", "marisa-trie", "numpy", "pyarrow", "rapidfuzz")
RUNS = 3
PROBES, QUICK_PROBES = 400_000, 100_000
ALIASES_IN_QUICK, ALL_ALIASES = 200_000, 5_000_000
HUNDRED_MILLION = 100_000_000
CUTOFF = 88.0
Figures = dict[str, Any]


def in_fresh_process(task: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
    """Return a task's result, from a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


def figure(case: str, unit: str, ours: float | None, **more: object) -> Figures:
    """Return the record of one case. None has an aim yet: the figures are in docs/dataflow.md."""
    return {
        "benchmark": NAME,
        "case": case,
        "unit": unit,
        "ours": ours,
        **more,
        **judged([], quick=False),
    }


def rss_mb() -> dict[str, float]:
    """Return the resident memory of this process, in MB: private pages, pages of files, both."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    anon, file = (int(fields[name].split()[0]) / 1000 for name in ("RssAnon", "RssFile"))
    return {"anon": anon, "file": file, "both": anon + file}


def added_mb(before: dict[str, float]) -> dict[str, float]:
    """Return the memory that was added since."""
    return {name: round(value - before[name], 1) for name, value in rss_mb().items()}


def run_units(
    data: str, worker: UnitWorker[Any], units: list[Unit[Any]]
) -> tuple[list[UnitReport], Figures]:
    """Run units one after another; measure seconds and peak RSS of the process."""
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
    """Build the index; return figures per kind of unit."""
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
    """Draw keys that are listed, evenly, and keys that are not: the same with one letter changed."""
    index, rng = AliasIndex(folder), random.Random(1)
    hits = index._keys_of(rng.randrange(len(index)) for _ in range(num_probes))
    misses = (_misspelt(key, rng) for key in hits)
    return hits, [key for key in misses if key not in index]


def _misspelt(key: str, rng: random.Random) -> str:
    place = rng.randrange(len(key))
    return (
        key[:place] + rng.choice("abcdefghijklmnopqrstuvwxyz") + key[place + rng.choice([0, 1]) :]
    )


def probe(folder: str, hits: list[str], misses: list[str]) -> Figures:
    """Open the index and ask it, in a fresh process on one core."""
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
    # Shorter keys have no fuzzy look-up.
    edits = [(key, _misspelt(key, random.Random(1))) for key in hits[:5_000]]
    pairs = [(key, edited) for key, edited in edits if len(edited) >= 5]
    num_compared = sum(key in index.similar_keys(edited) for key, edited in pairs)
    figures["fuzzy_recall"] = ratio(num_compared, len(pairs))
    return figures


def _rate(ask: Callable[[str], object], keys: list[str]) -> float:
    """Return the keys asked per second of processor time.

    Raises:
        VariantError: there was no key, or asking took no time.
    """
    start_s = time.process_time()
    for key in keys:
        ask(key)
    seconds = time.process_time() - start_s
    if not (keys and seconds > 0):
        raise VariantError(f"{len(keys)} probes took {seconds:g} s: there is no rate")
    return len(keys) / seconds


def rows_of(folder: str) -> Iterator[tuple[str, list[tuple[int, int, int]]]]:
    """Yield all keys with their postings, for the peers."""
    index = AliasIndex(folder)
    for number in range(len(index)):
        (key,) = index._keys_of([number])
        yield key, list(zip(*(column.tolist() for column in index.postings(key)), strict=True))


def probe_dict(folder: str, hits: list[str], misses: list[str]) -> Figures:
    """Ask a dict of tuples: the plain way."""
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
    """Ask a clustered table of SQLite, default cache."""
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
    """Count the bytes of the index by kind of array; file headers and the description are `other`."""
    num_bytes: dict[str, int] = {"trie": 0}
    files = [path for path in Path(folder).iterdir() if path.is_file()]
    for path in files:
        if path.suffix == ".marisa":
            num_bytes["trie"] += path.stat().st_size
        elif path.suffix == ".safetensors":
            prefix = "fuzzy_" if path.name.startswith("fuzzy") else ""
            for name, values in map_sections(str(path)).items():
                num_bytes[prefix + name] = num_bytes.get(prefix + name, 0) + values.nbytes
    num_bytes["other"] = sum(path.stat().st_size for path in files) - sum(num_bytes.values())
    return num_bytes


def build_figures(figures: dict[str, Figures], num_rows: int) -> Iterator[Figures]:
    """Yield seconds and memory of the build, per kind of unit.

    Raises:
        VariantError: spilling or building took no time.
    """
    aliases_s = sum(figures[kind]["s"] for kind in ("aliases", "shards", "fuzzy"))
    spill_s = figures["aliases"]["s"]
    if not spill_s > 0:
        raise VariantError(f"{num_rows} aliases were spilled in {spill_s:g} s: there is no rate")
    total_s = sum(kind["s"] for kind in figures.values())
    peak_mb = max(kind["peak_rss_mb"] for kind in figures.values())
    hours = HUNDRED_MILLION / num_rows * aliases_s / 3600

    yield figure(
        "build aliases", "aliases/s", num_rows / aliases_s, seconds=aliases_s, rows=num_rows
    )
    yield figure("spill aliases", "aliases/s", num_rows / spill_s)
    yield figure(
        "build memory", "MB", peak_mb, lower_is_better=True, seconds=total_s, phases=figures
    )
    yield figure("build aliases, 100 M (extrapolated)", "core-hours", hours, lower_is_better=True)


def size_figures(folder: str, num_rows: int, peers: dict[str, Figures]) -> Iterator[Figures]:
    """Yield bytes per alias row and per key."""
    parts, num_keys = sizes(folder), len(AliasIndex(folder))
    total = sum(parts.values())
    yield figure(
        "size", "bytes/alias", total / num_rows, lower_is_better=True,
        peers={name: peer["bytes"] / num_rows for name, peer in peers.items()},
        parts={name: num_bytes / num_rows for name, num_bytes in parts.items()},
        aliases=num_rows, keys=num_keys,
    )  # fmt: skip
    yield figure("size per key", "bytes/key", total / num_keys, lower_is_better=True)
    gigabytes = total / num_rows * HUNDRED_MILLION / 1e9
    yield figure("size, 100 M (extrapolated)", "GB", gigabytes, lower_is_better=True)


def probe_figures(
    runs: list[Figures], peers: dict[str, Figures], num_probes: int
) -> Iterator[Figures]:
    """Yield probes per second, opening, memory, fuzzy queries: medians of the runs."""

    def median(name: str) -> float:
        return statistics.median(run[name] for run in runs)

    for case in ("hit", "miss"):
        peer_rates = {name: peer[case] for name, peer in peers.items()}
        yield figure(f"probe {case}", "probes/s", median(case), peers=peer_rates, runs=len(runs))
    yield figure("open", "ms", median("open_ms"), lower_is_better=True, runs=len(runs))
    yield figure(
        f"RSS added after {num_probes:,} probes", "MB",
        statistics.median(run["rss"]["both"] for run in runs), lower_is_better=True,
        peers={name: peer["rss_mb"] for name, peer in peers.items()},
        private_mb=statistics.median(run["rss"]["anon"] for run in runs), runs=len(runs),
    )  # fmt: skip
    yield figure("fuzzy", "queries/s", median("fuzzy"), runs=len(runs))
    # The same keys in every run, so the recall is the same too.
    yield figure("fuzzy recall of one edit", "share", runs[0]["fuzzy_recall"])


def added_figures(run: str, rebuild_s: float) -> Iterator[Figures]:
    """Yield the seconds to add entities and to open the index with them; the peer is a rebuild."""
    for number in NUMBERS:
        add_s = in_fresh_process(add, run, number)
        yield figure(
            f"add {number:,}", "s", add_s["cpu_s"], lower_is_better=True,
            peers={"rebuild": rebuild_s}, clock_s=add_s["s"],
        )  # fmt: skip
        open_s = in_fresh_process(opened, run)
        yield figure(
            f"open with {number:,} added", "s", open_s["cpu_s"], lower_is_better=True,
            clock_s=open_s["s"],
        )  # fmt: skip


def made_kb(folder: Path, kit: Path, num_aliases: int) -> Path:
    """Make the knowledge base, or find the one that an earlier run kept whole."""
    made = folder / f"alias-kb-{num_aliases}"
    if not made.exists():
        making = made.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        in_fresh_process(make_kb, making, kit, num_aliases)
        making.rename(made)
    return made


def measured(folder: Path, kb: Path, num_probes: int, rounds: int) -> Iterator[Figures]:
    """Build the index of a knowledge base and yield all figures of it."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="alias-index-") as run:
        (Path(run) / "kb").symlink_to(kb / "kb")
        config, paths = load_config("", (f"run={run}", "index.anchors=false")), RunPaths(root=run)
        num_rows = paths.finished("kb").tables[ALIASES.name].rows
        kinds = build(plan(config.index, paths), paths)
        yield from build_figures(kinds, num_rows)

        index = paths.artefact("index", "aliases")
        hits, misses = in_fresh_process(sample_keys, index, num_probes)
        runs = [in_fresh_process(probe, index, hits, misses) for _ in range(rounds)]
        tasks = {"dict": probe_dict, "sqlite": probe_sqlite}
        peers = {name: in_fresh_process(task, index, hits, misses) for name, task in tasks.items()}
        yield from size_figures(index, num_rows, peers)
        yield from probe_figures(runs, peers, len(hits))
        yield from added_figures(run, sum(kind["s"] for kind in kinds.values()))


def main() -> int:
    """Build, measure, print; return the exit code."""
    parser = common_arguments(__doc__)
    parser.add_argument(
        "--aliases", type=int, help="synthetic aliases beside the kit's (default: 5 million)"
    )
    parser.add_argument(
        "--kit", default=os.environ.get("TRELM_KIT", ""), help="the data kit (default: $TRELM_KIT)"
    )
    options = parser.parse_args()
    refuse_less_than_one(parser, options, "aliases", "rounds")
    if not options.kit:
        parser.error("wanted --kit FOLDER or the environment variable TRELM_KIT")

    num_aliases = options.aliases or (ALIASES_IN_QUICK if options.quick else ALL_ALIASES)
    with scratch_folder(options.keep) as folder:
        kb = made_kb(folder, Path(options.kit), num_aliases)
        num_probes = QUICK_PROBES if options.quick else PROBES
        records = measured(folder, kb, num_probes, options.rounds or RUNS)
        return report(NAME, options, PACKAGES, records, aliases=num_aliases)


if __name__ == "__main__":
    run_program(main)
