"""Measure links to statistics: `python -m benchmarks.statistics [--quick] [--rows 10000000] [--case counts
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
    Aim,
    Variant,
    common_arguments,
    judged,
    measure,
    none_wrong,
    ratio,
    record,
    report,
    run_program,
    scratch_folder,
)
from benchmarks.statistics_data import make_run

NAME = "statistics"
UNIT = "links/s"
PACKAGES = ("trelm", "apache-beam", "duckdb", "numpy", "powerlaw", "pyarrow")
RSS_LIMIT_MB = 1500.0
BAND_LIMIT_S = 1.0
EXPONENT_TOLERANCE = 0.02
IN_SENTENCE, IN_DOCUMENT = 32, 128  # the stage's own limits
QUICK_ROWS, ROWS = 200_000, 10_000_000
OURS = "benchmarks.statistics_ours:count"
SQL = "benchmarks.statistics_sql:count_by_sql"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Hold sizes and folders."""

    folder: Path
    rows: int
    rounds: int
    quick: bool


def count_variants(run: Path, rows: int) -> list[Variant]:
    """Return the stage with one and two workers, and the script with all memory and with 1.5 GB."""
    ours = {"run": str(run)}
    script = {"run": str(run), "sentence": IN_SENTENCE, "document": IN_DOCUMENT}
    ways = {
        "ours": (OURS, {**ours, "workers": 1}),
        "2_workers": (OURS, {**ours, "workers": 2}),
        "duckdb_sql": (SQL, script),
        "duckdb_sql_1.5_GB": (SQL, {**script, "memory_gb": 1.5}),
    }
    return [
        Variant(name=name, target=target, arguments=arguments, work=rows, pinned=False)
        for name, (target, arguments) in ways.items()
    ]


def counts(setup: Setup) -> Iterator[dict[str, Any]]:
    """Measure the stage with one and two workers, beside the same counts by one SQL script.

    The script runs with all memory, and with as much as ours may take.
    """
    run = setup.folder / f"run-{setup.rows}"
    make_run(run, setup.rows)
    by_name = measure(count_variants(run, setup.rows), setup.rounds, setup.folder)
    ours, limit = by_name["ours"], by_name["duckdb_sql"]
    results = {name: measured.results[0] for name, measured in by_name.items()}
    tables = {
        name: {table: result[table] for table in ("entity", "surface", "pair")}
        for name, result in results.items()
    }
    num_different = sum(sizes != tables["ours"] for sizes in tables.values())
    yield {
        **record(NAME, "counts", UNIT, by_name, limit.rate),
        "cpu_ratio_to_limit": ours.cpu_rate / limit.cpu_rate,
        "seconds": {name: measured.median_s for name, measured in by_name.items()},
        "rows": setup.rows,
        "tables": tables["ours"],
        "counters": results["ours"]["counters"],
        **judged([none_wrong("variants_with_other_tables", num_different)], quick=setup.quick),
    }
    yield {
        "benchmark": NAME, "case": "rss", "unit": "MB", "lower_is_better": True, "ours": ours.rss_mb,
        "limit": RSS_LIMIT_MB, "ratio_to_limit": ratio(ours.rss_mb, RSS_LIMIT_MB), "rows": setup.rows,
        "largest_of_2_workers": by_name["2_workers"].rss_mb, "runs": setup.rounds,
        **judged([Aim(name="rss_mb", value=ours.rss_mb, at_most=RSS_LIMIT_MB)], quick=setup.quick),
    }  # fmt: skip
    band_query_s = results["ours"]["band_query_s"]
    yield {
        "benchmark": NAME, "case": "band_query", "unit": "s", "lower_is_better": True,
        "ours": band_query_s, "limit": BAND_LIMIT_S, "ratio_to_limit": ratio(band_query_s, BAND_LIMIT_S),
        "rows": setup.rows, "runs": 5,
        **judged([Aim(name="band_query_s", value=band_query_s, at_most=BAND_LIMIT_S)], quick=setup.quick),
    }  # fmt: skip


def fits(setup: Setup) -> Iterator[dict[str, Any]]:
    """Compare the fitted exponent of synthetic frequencies with the known one; time the fit.

    Where there is no fit, there is no exponent, and the aim is missed.
    """
    import numpy as np

    from pipeline.stats.power_law import fit_tail

    for exponent in (1.8, 2.0, 2.5):
        drawn = np.random.default_rng(0).zipf(exponent, max(setup.rows // 8, 20_000))
        start = time.perf_counter()
        fit = fit_tail(*np.unique(drawn[drawn < 10**9], return_counts=True))
        seconds = time.perf_counter() - start
        slope, true_slope = 1 / (fit.exponent - 1) if fit else None, 1 / (exponent - 1)
        difference = None if slope is None else slope - true_slope
        aim = Aim(
            name="absolute_difference", value=None if difference is None else abs(difference),
            at_most=EXPONENT_TOLERANCE, needs_full_data=False,
        )  # fmt: skip
        yield {
            "benchmark": NAME, "case": "fit", "unit": "zipf exponent", "ours": slope, "limit": true_slope,
            "difference": difference, "entities": len(drawn), "seconds": seconds,
            "x_min": fit.x_min if fit else None, "runs": 1, **judged([aim], quick=setup.quick),
        }  # fmt: skip


CASES: dict[str, Callable[[Setup], Iterator[dict[str, Any]]]] = {"counts": counts, "fit": fits}


def main() -> int:
    """Run the cases and return the exit code."""
    parser = common_arguments(__doc__)
    parser.add_argument(
        "--rows",
        type=int,
        help=f"links to generate (default: {ROWS:,}; {QUICK_ROWS:,} with --quick)",
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, help="only this case; may be repeated"
    )
    options = parser.parse_args()
    with scratch_folder(options.keep) as folder:
        setup = Setup(
            folder=folder,
            rows=options.rows or (QUICK_ROWS if options.quick else ROWS),
            rounds=options.rounds or (1 if options.quick else 3),
            quick=options.quick,
        )
        records = (fields for name in options.case or CASES for fields in CASES[name](setup))
        return report(NAME, options, PACKAGES, records, rows=setup.rows)


if __name__ == "__main__":
    run_program(main)
