"""Links to statistics: `python -m benchmarks.statistics [--quick] [--rows 10000000] [--case counts
…] [--keep FOLDER]`.

Goes in: nothing; links of any number are generated (`benchmarks.statistics_data`). Comes out: one
JSON object per case, see benchmarks/README.md. Costs about 25 minutes, 14 GB of memory (the plain
SQL) and 4 GB of disk at 10 M rows and three rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Variant,
    common_arguments,
    emit,
    machine,
    measure,
    record,
    run_program,
    scratch_folder,
)
from benchmarks.statistics_data import make_run

NAME = "statistics"
UNIT = "links/s"
PACKAGES = ("trelm", "apache-beam", "duckdb", "numpy", "powerlaw", "pyarrow")
RSS_LIMIT_MB = 1500.0
BAND_LIMIT_S = 1.0
IN_SENTENCE, IN_DOCUMENT = 32, 128  # the stage's own limits
QUICK_ROWS, ROWS = 200_000, 10_000_000
OURS = "benchmarks.statistics_ours:count"
SQL = "benchmarks.statistics_sql:count_by_sql"
WORKERS = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Sizes and places."""

    folder: Path
    rows: int
    rounds: int


def counts(setup: Setup) -> Iterator[dict[str, Any]]:
    """The stage with one and two workers, and the same counts by one SQL script: with all memory,
    and with ours.
    """
    run = setup.folder / f"run-{setup.rows}"
    make_run(run, setup.rows)
    limits = {"run": str(run), "sentence": IN_SENTENCE, "document": IN_DOCUMENT}
    variants = [
        Variant(
            name="ours",
            target=OURS,
            arguments={"run": str(run), "workers": 1},
            work=setup.rows,
            pinned=False,
        ),
        Variant(
            name="2_workers",
            target=OURS,
            arguments={"run": str(run), "workers": 2},
            work=setup.rows,
            pinned=False,
        ),
        Variant(name="duckdb_sql", target=SQL, arguments=limits, work=setup.rows, pinned=False),
        Variant(
            name="duckdb_sql_1.5_GB",
            target=SQL,
            arguments={**limits, "memory_gb": 1.5},
            work=setup.rows,
            pinned=False,
        ),
    ]
    found = measure(variants, setup.rounds, setup.folder)
    results = {name: measured.results[0] for name, measured in found.items()}
    tables = {
        name: {table: result[table] for table in ("entity", "surface", "pair")}
        for name, result in results.items()
    }
    yield {
        **record(NAME, "counts", UNIT, found, found["duckdb_sql"].rate),
        "cpu_ratio_to_limit": found["ours"].cpu_rate / found["duckdb_sql"].cpu_rate,
        "seconds": {name: measured.median_s for name, measured in found.items()},
        "rows": setup.rows,
        "tables": tables["ours"],
        "ok": all(one == tables["ours"] for one in tables.values()),
        "counters": results["ours"]["counters"],
    }
    yield {
        "benchmark": NAME, "case": "rss", "unit": "MB", "lower_is_better": True, "ours": found["ours"].rss_mb,
        "limit": RSS_LIMIT_MB, "ratio_to_limit": found["ours"].rss_mb / RSS_LIMIT_MB, "rows": setup.rows,
        "largest_of_2_workers": found["2_workers"].rss_mb, "runs": setup.rounds,
    }  # fmt: skip
    yield {
        "benchmark": NAME, "case": "band_query", "unit": "s", "lower_is_better": True,
        "ours": results["ours"]["band_query_s"], "limit": BAND_LIMIT_S,
        "ratio_to_limit": results["ours"]["band_query_s"] / BAND_LIMIT_S, "rows": setup.rows, "runs": 5,
    }  # fmt: skip


def fits(setup: Setup) -> Iterator[dict[str, Any]]:
    """Exponent of the fit on synthetic frequencies of a known one, and what the fit takes."""
    import numpy as np

    from pipeline.stats.power_law import fit_tail

    for exponent in (1.8, 2.0, 2.5):
        drawn = np.random.default_rng(0).zipf(exponent, max(setup.rows // 8, 20_000))
        start = time.perf_counter()
        fit = fit_tail(*np.unique(drawn[drawn < 10**9], return_counts=True))
        seconds = time.perf_counter() - start
        slope = 1 / (fit.exponent - 1) if fit else float("nan")
        wanted = 1 / (exponent - 1)
        yield {
            "benchmark": NAME, "case": "fit", "unit": "zipf exponent", "ours": slope, "limit": wanted,
            "difference": slope - wanted, "ok": abs(slope - wanted) <= 0.02, "entities": len(drawn),
            "seconds": seconds, "x_min": fit.x_min if fit else None, "runs": 1,
        }  # fmt: skip


CASES: dict[str, Callable[[Setup], Iterator[dict[str, Any]]]] = {"counts": counts, "fit": fits}


def main() -> int:
    """Run the cases; the exit code is 1 if counts or fits are wrong."""
    parser = common_arguments(__doc__)
    parser.add_argument(
        "--rows",
        type=int,
        help=f"links to generate (default: {ROWS:,}; {QUICK_ROWS:,} with --quick)",
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, help="only this case; may be repeated"
    )
    given = parser.parse_args()
    failed = False
    with scratch_folder(given.keep) as folder:
        rows = given.rows or (QUICK_ROWS if given.quick else ROWS)
        setup = Setup(folder=folder, rows=rows, rounds=given.rounds or (1 if given.quick else 3))
        emit(
            {
                "benchmark": NAME,
                "machine": machine(PACKAGES),
                "rows": setup.rows,
                "quick": given.quick,
            }
        )
        for case in given.case or CASES:
            for fields in CASES[case](setup):
                emit(fields)
                failed = failed or not fields.get("ok", True)
    return int(failed)


if __name__ == "__main__":
    run_program(main)
