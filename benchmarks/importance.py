"""Measure links to semantic importance: `python -m benchmarks.importance [--quick] [--run FOLDER] [--case
kit …] [--keep FOLDER]`.

Goes in: the data kit (environment variable TRELM_KIT); `shards_data` makes a linked run of it,
`--run` names one instead. Comes out: one JSON object per case and number format, see
benchmarks/README.md.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Aim,
    Measured,
    Variant,
    common_arguments,
    judged,
    measure,
    none_wrong,
    record,
    refuse_less_than_one,
    report,
    run_once,
    run_program,
    scratch_folder,
)  # fmt: skip
from benchmarks.importance_agreement import agreement
from benchmarks.importance_data import model_folder, slice_of
from benchmarks.importance_plain import largest_difference
from benchmarks.shards_data import finished_run

NAME = "importance"
UNIT = "mentions/s"
DTYPES = ("float32", "bfloat16")
BATCH_SIZES = (1, 8, 32)  # of the plain way, tried
PLAIN_AIM, LIMIT_AIM = 3.0, 0.8
MOST_APART = 1e-5
LEAST_SPEARMAN, LEAST_AGREEMENT = 0.99, 0.98
POLICIES = ("importance", "long-tail-important")
PACKAGES = ("trelm", "torch", "transformers", "tokenizers", "numpy", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Hold sizes and folders."""

    folder: Path
    run: str  # with links; empty = made
    mentions: dict[str, int]  # by case
    rounds: int
    quick: bool
    pinned: bool

    @functools.cached_property
    def linked(self) -> str:
        """Return a run with links."""
        return self.run or finished_run(self.folder, quick=self.quick)

    def variant(self, name: str, target: str, case: str, shape: str, **more: Any) -> Variant:  # noqa: ANN401
        """Return the variant of a function of a module beside this one, on the case's mentions."""
        run = slice_of(self.linked, self.folder, self.mentions[case], UNITS.get(case, 1))
        arguments = {"run": run, "model": model_folder(self.folder, shape), **more}
        return Variant(
            name=name,
            target=f"benchmarks.importance_{target}",
            arguments=arguments,
            work=self.mentions[case],
            pinned=self.pinned and case != "threads",
        )


UNITS = {"threads": 8}  # of link


def compared(setup: Setup, shape: str) -> Iterator[dict[str, Any]]:
    """Measure the stage in both number formats, the plain way, and the encoder alone in both."""
    add = functools.partial(setup.variant, case=shape, shape=shape)
    dtypes = DTYPES[:1] if setup.quick and shape != "kit" else DTYPES
    sizes = BATCH_SIZES[1:2] if setup.quick else BATCH_SIZES
    variants = [
        *(add(f"ours_{dtype}", "ours:whole_stage", dtype=dtype) for dtype in dtypes),
        *(
            add(f"limit_{dtype}", "ours:encoder_alone", dtype=dtype, tune=not setup.quick)
            for dtype in dtypes
        ),
        add("plain", "plain:plain", batch_sizes=sizes),
    ]
    by_name = measure(variants, setup.rounds, setup.folder)
    for dtype in dtypes:
        yield {**_speed(shape, dtype, by_name), **_judged(setup, shape, dtype, by_name)}


def _judged(setup: Setup, case: str, dtype: str, by_name: dict[str, Measured]) -> dict[str, Any]:
    """Return the aims of a speed case: mini and base have none of speed, their weights are random."""
    ours, limit, plain = by_name[f"ours_{dtype}"], by_name[f"limit_{dtype}"], by_name["plain"]
    counts = ours.results[0]
    num_lost = abs(plain.results[0]["mentions"] - counts["rows_out"] - counts["rejects"])
    aims = [none_wrong("mentions_lost", num_lost)]
    if case == "kit":
        to_plain, to_limit = ours.cpu_rate / plain.cpu_rate, ours.cpu_rate / limit.cpu_rate
        aims += [
            Aim(name="cpu_ratio_to_peers.plain", value=to_plain, at_least=PLAIN_AIM),
            Aim(name="cpu_ratio_to_limit", value=to_limit, at_least=LIMIT_AIM),
        ]
    return judged(aims, quick=setup.quick)


def _speed(case: str, dtype: str, by_name: dict[str, Measured]) -> dict[str, Any]:
    ours, limit, plain = by_name[f"ours_{dtype}"], by_name[f"limit_{dtype}"], by_name["plain"]
    tokens, mentions = limit.results[0]["tokens"], ours.variant.work
    return {
        **record(NAME, case, UNIT, {"ours": ours, "plain": plain}, limit.rate),
        "dtype": dtype,
        "limit_is": [result["way"] for result in limit.results],
        "limit_rss_mb": limit.rss_mb,
        "cpu_ratio_to_limit": ours.cpu_rate / limit.cpu_rate,
        "cpu_ratio_to_peers": {"plain": ours.cpu_rate / plain.cpu_rate},
        "tokens_per_s": {
            name: measured.rate * tokens / mentions
            for name, measured in (("ours", ours), ("limit", limit))
        },
        "mentions": mentions,
        "sequences": {
            "planned": ours.results[0]["sequences"],
            "different": limit.results[0]["sequences"],
        },
        "tokens": tokens,
        "plain_batch_size": [result["batch_size"] for result in plain.results],
    }


def agreed(setup: Setup) -> Iterator[dict[str, Any]]:
    """Compare cosines with the plain way; ranks and decisions of bfloat16 with float32."""
    few = functools.partial(setup.variant, case="agreement", shape="kit", scores=True)
    plain = run_once(few("plain", "plain:plain", batch_sizes=[8]), setup.folder)["result"]["rows"]
    ours = run_once(few("ours", "ours:whole_stage", dtype="float32"), setup.folder)["result"][
        "rows"
    ]
    apart, compared_mentions = largest_difference(plain, ours)
    base = {"benchmark": NAME, "case": "agreement", "peers": {}, "runs": 1}
    yield {
        **base, "dtype": "float32", "unit": "largest |cosine - plain|", "lower_is_better": True, "ours": apart,
        "limit": MOST_APART, "mentions": compared_mentions,
        **judged(
            [Aim(name="largest_difference", value=apart, at_most=MOST_APART, needs_full_data=False)],
            quick=setup.quick,
        ),
    }  # fmt: skip
    many = functools.partial(
        setup.variant, target="ours:whole_stage", case="decisions", shape="kit", scores=True
    )
    full, half = (
        run_once(many(dtype, dtype=dtype), setup.folder)["result"]["rows"] for dtype in DTYPES
    )
    figures = agreement(many("ours", dtype="float32").arguments["run"], full, half)
    aims = [
        Aim(name="spearman", value=figures["spearman"], at_least=LEAST_SPEARMAN, needs_full_data=False),
        *(
            Aim(
                name=f"policies.{policy}", value=figures["policies"][policy]["agreement"],
                at_least=LEAST_AGREEMENT, needs_full_data=False,
            )
            for policy in POLICIES
        ),
    ]  # fmt: skip
    yield {
        **base, "dtype": "bfloat16", "unit": "Spearman of 1 - cosine to float32", "ours": figures["spearman"],
        "limit": LEAST_SPEARMAN, "mentions": len(full["cosine"]), **figures,
        **judged(aims, quick=setup.quick),
    }  # fmt: skip


def threaded(setup: Setup) -> Iterator[dict[str, Any]]:
    """Measure the stage on all cores, and with one thread.

    All cores are used by threads that take batches, by torch's own threads, or by processes of one
    thread.
    """
    stage = functools.partial(
        setup.variant, target="ours:whole_stage", case="threads", shape="kit", dtype="float32"
    )
    cores = len(_cores())
    variants = [
        stage("ours", threads=cores),
        stage("torch_threads", threads=1, torch_threads=cores),
        stage("one_thread", threads=1),
    ]
    if not setup.quick:
        share = {"case": "threads", "shape": "kit", "dtype": "float32", "count": cores}
        variants.append(setup.variant("processes", "ours:processes", **share))
    by_name = measure(variants, setup.rounds, setup.folder)
    yield {
        **record(NAME, "threads", UNIT, by_name, None),
        "cores": cores,
        "dtype": "float32",
        **judged([], quick=setup.quick),
    }


def _cores() -> set[int]:
    return (
        os.sched_getaffinity(0)
        if hasattr(os, "sched_getaffinity")
        else set(range(os.cpu_count() or 1))
    )


CASES: dict[str, Callable[[Setup], Iterator[dict[str, Any]]]] = {
    "kit": functools.partial(compared, shape="kit"),
    "mini": functools.partial(compared, shape="mini"),
    "base": functools.partial(compared, shape="base"),
    "agreement": agreed,
    "threads": threaded,
}
FULL = {
    "kit": 20_000,
    "mini": 3_000,
    "base": 300,
    "agreement": 1_100,
    "decisions": 80_000,
    "threads": 20_000,
}
QUICK = {"kit": 300, "mini": 50, "base": 6, "agreement": 100, "decisions": 400, "threads": 300}


def run_cases(setup: Setup, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the cases' records, case by case; --quick, whose figures mean nothing, runs two at a time."""
    if not setup.quick:
        for name in names:
            yield from CASES[name](setup)
        return
    # Otherwise torch's threads of two variants at once would wait for each other.
    os.environ["OMP_NUM_THREADS"] = "1"
    _ = setup.linked  # what they share
    with ThreadPoolExecutor(2) as pool:
        for rows in pool.map(lambda name: list(CASES[name](setup)), names):
            yield from rows


def main() -> int:
    """Run the cases and return the exit code."""
    parser = common_arguments(__doc__)
    parser.add_argument(
        "--run", default="", metavar="FOLDER", help="with links (default: made from the kit)"
    )
    parser.add_argument(
        "--all-cores", action="store_true", help="do not hold a variant on one core"
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, help="only this case; may be repeated"
    )
    options = parser.parse_args()
    refuse_less_than_one(parser, options, "rounds")
    with scratch_folder(options.keep) as folder:
        setup = Setup(
            folder=folder,
            run=options.run,
            mentions=QUICK if options.quick else FULL,
            rounds=options.rounds or (1 if options.quick else 5),
            quick=options.quick,
            pinned=not (options.all_cores or options.quick),
        )
        records = run_cases(setup, options.case or list(CASES))
        return report(NAME, options, PACKAGES, records, pinned=setup.pinned)


if __name__ == "__main__":
    run_program(main)
