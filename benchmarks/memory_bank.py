"""Measure the memory bank: `python -m benchmarks.memory_bank [--quick] [--rows N …] [--case step_mini …]`.

Goes in: nothing, all is generated. Comes out: one JSON object per case, see benchmarks/README.md.
`rows_N`: milliseconds of processor time to gather and update the notes of a step with 256 mentions,
of N rows of hidden size 768; `step_SHAPE`: what bank, injection and contrastive loss take of a
training step; `query`: seconds to find the nearest entities in a stored bank.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Measured,
    Variant,
    common_arguments,
    judged,
    measure,
    none_wrong,
    refuse_less_than_one,
    report,
    run_program,
    scratch_folder,
)
from benchmarks.memory_bank_ways import free_memory_bytes

NAME = "memory_bank"
SIZES = (10_000, 100_000, 1_000_000, 5_000_000)
HIDDEN, MENTIONS = 768, 256
LOOP_SHARE = 10  # the factor by which the loop takes fewer steps
NO_PEERS: dict[str, Any] = {
    "limit": None, "peers": {}, "peer_rss_mb": {}, "ratio_to_limit": None, "ratio_to_peers": {},
}  # fmt: skip
PACKAGES = ("trelm", "torch", "numpy", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Hold sizes and folders."""

    folder: Path
    steps: int
    rounds: int
    quick: bool


def _median(measured: Measured, name: str) -> float | None:
    values = [result[name] for result in measured.results if name in result]
    return statistics.median(values) if values else None


def _details(measured: Measured) -> dict[str, Any]:
    names = sorted(
        {name for result in measured.results for name in result} - {"seconds", "cpu_seconds"}
    )
    return {**{name: _median(measured, name) for name in names}, "rss_mb": measured.rss_mb}


def bank(setup: Setup, num_rows: int) -> Iterator[dict[str, Any]]:
    """Measure ours in memory and in a file, a plain tensor where it fits, a loop over mentions."""
    common = {
        "num_rows": num_rows,
        "hidden_size": HIDDEN,
        "mentions": MENTIONS,
        "count": setup.steps,
    }
    ways = "benchmarks.memory_bank_ways"
    variants = [
        Variant(name="ram", target=f"{ways}:ours", arguments={**common, "storage": "ram"}),
        Variant(name="file", target=f"{ways}:ours", arguments={**common, "storage": "file"}),
        Variant(
            name="loop",
            target=f"{ways}:loop",
            arguments={**common, "count": max(4, setup.steps // LOOP_SHARE)},
        ),
    ]
    fits = 4 * num_rows * HIDDEN < free_memory_bytes() / 2
    if fits:
        variants.append(Variant(name="zeros", target=f"{ways}:zeros", arguments=common))
    by_name = measure(variants, setup.rounds, setup.folder)
    step_ms = {name: 1000 * measured.median_s for name, measured in by_name.items()}
    peers = {name: value for name, value in step_ms.items() if name in ("zeros", "loop")}
    yield {
        "benchmark": NAME, "case": f"rows_{num_rows}", "unit": "ms", "lower_is_better": True, "ours": step_ms["ram"],
        "ours_in_file": step_ms["file"], "limit": None, "peers": peers,
        "ratio_to_limit": None, "ratio_to_peers": {name: step_ms["ram"] / value for name, value in peers.items()},
        "peer_rss_mb": {name: by_name[name].rss_mb for name in peers},
        "variants": {name: _details(measured) for name, measured in by_name.items()},
        "rss_mb": by_name["ram"].rss_mb, "runs": setup.rounds,
        **({} if fits else {"skipped": {"zeros": "all rows exceed half of the free memory"}}),
        **judged([], quick=setup.quick),
    }  # fmt: skip


def step(setup: Setup, shape: str) -> Iterator[dict[str, Any]]:
    """Measure the share of a training step: all weights trained, and feed-forward layers alone."""
    tokens = 1024 if setup.quick or shape == "base" else 4096
    count = 3 if setup.quick else (5 if shape == "base" else 12)
    common = {
        "shape": shape,
        "storage": "file",
        "batch_tokens": tokens,
        "count": count,
        "bf16": False,
    }
    target = "benchmarks.memory_bank_step:share"
    variants = [
        Variant(name="all", target=target, arguments={**common, "ffn_only": False}),
        Variant(name="ffn", target=target, arguments={**common, "ffn_only": True}),
    ]
    for name, measured in measure(variants, setup.rounds, setup.folder).items():
        parts = [result["parts_ms"] for result in measured.results]
        share = _median(measured, "share")
        yield {
            "benchmark": NAME, "case": f"step_{shape}_{name}", "unit": "share of the step", "lower_is_better": True,
            "ours": share, **NO_PEERS, "tokens": tokens,
            "memory_share": _median(measured, "memory_share"),
            "share_by_difference": _median(measured, "share_by_difference"),
            "step_ms": _median(measured, "step_ms"), "plain_step_ms": _median(measured, "plain_step_ms"),
            "parts_ms": {part: statistics.median(run[part] for run in parts) for part in parts[0]},
            "rss_mb": measured.rss_mb, "runs": setup.rounds, **judged([], quick=setup.quick),
        }  # fmt: skip


def query(setup: Setup) -> Iterator[dict[str, Any]]:
    """Time `inspect bank` on a bank of five million rows of which some were written."""
    written = 20_000 if setup.quick else 500_000
    arguments = {"num_rows": SIZES[-1], "hidden_size": HIDDEN, "written": written}
    variants = [
        Variant(name="ours", target="benchmarks.memory_bank_query:nearest_of", arguments=arguments)
    ]
    ours = measure(variants, setup.rounds, setup.folder)["ours"]
    num_wrong = sum(not result["found"] for result in ours.results)
    yield {
        "benchmark": NAME, "case": "query", "unit": "s", "lower_is_better": True, "ours": ours.median_s,
        **NO_PEERS, "rows": SIZES[-1], "written": written, **_details(ours),
        "runs": setup.rounds, **judged([none_wrong("runs_without_ten_neighbours", num_wrong)], quick=setup.quick),
    }  # fmt: skip


CASES: dict[str, Callable[[Setup], Iterator[dict[str, Any]]]] = {
    **{f"rows_{size}": functools.partial(bank, num_rows=size) for size in SIZES},
    "step_mini": functools.partial(step, shape="mini"),
    "step_base": functools.partial(step, shape="base"),
    "query": query,
}
QUICK = ("rows_10000", "rows_5000000", "step_mini", "query")


def main() -> int:
    """Run the cases and return the exit code."""
    parser = common_arguments(__doc__)
    parser.add_argument("--steps", type=int, help="of each size (default: 400; 40 with --quick)")
    parser.add_argument(
        "--case", action="append", choices=CASES, help="only this case; may be repeated"
    )
    options = parser.parse_args()
    refuse_less_than_one(parser, options, "steps", "rounds")
    with scratch_folder(options.keep) as folder:
        setup = Setup(
            folder=folder,
            steps=options.steps or (40 if options.quick else 400),
            rounds=options.rounds or (1 if options.quick else 5),
            quick=options.quick,
        )
        names = options.case or (QUICK if options.quick else tuple(CASES))
        records = (fields for name in names for fields in CASES[name](setup))
        return report(NAME, options, PACKAGES, records)


if __name__ == "__main__":
    run_program(main)
