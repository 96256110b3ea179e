"""Links to semantic importance: `python -m benchmarks.importance [--quick] [--run FOLDER] [--case
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
    Measured,
    Variant,
    common_arguments,
    emit,
    machine,
    measure,
    record,
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
MOST_APART = 1e-5
LEAST_SPEARMAN, LEAST_AGREEMENT = 0.99, 0.98
POLICIES = ("importance", "long-tail-important")
PACKAGES = ("trelm", "torch", "transformers", "tokenizers", "numpy", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Sizes and places."""

    folder: Path
    run: str  # with links; empty = made
    mentions: dict[str, int]  # by case
    rounds: int
    quick: bool
    pinned: bool

    @functools.cached_property
    def linked(self) -> str:
        """A run with links."""
        return self.run or finished_run(self.folder, quick=self.quick)

    def variant(self, name: str, target: str, case: str, shape: str, **more: Any) -> Variant:  # noqa: ANN401
        """A function of a module beside this one, on the case's mentions."""
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
    """The stage in both number formats, the plain way, and the encoder alone in both."""
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
    found = measure(variants, setup.rounds, setup.folder)
    for dtype in dtypes:
        yield _speed(shape, dtype, found)


def _speed(case: str, dtype: str, found: dict[str, Measured]) -> dict[str, Any]:
    ours, limit, plain = found[f"ours_{dtype}"], found[f"limit_{dtype}"], found["plain"]
    tokens, mentions = limit.results[0]["tokens"], ours.variant.work
    return {
        **record(NAME, case, UNIT, {"ours": ours, "plain": plain}, limit.rate),
        "dtype": dtype,
        "limit_is": [result["way"] for result in limit.results],
        "limit_rss_mb": limit.rss_mb,
        "cpu_ratio_to_limit": ours.cpu_rate / limit.cpu_rate,
        "cpu_ratio_to_peers": {"plain": ours.cpu_rate / plain.cpu_rate},
        "tokens_per_s": {
            name: one.rate * tokens / mentions for name, one in (("ours", ours), ("limit", limit))
        },
        "mentions": mentions,
        "sequences": {
            "planned": ours.results[0]["sequences"],
            "different": limit.results[0]["sequences"],
        },
        "tokens": tokens,
        "plain_batch_size": [result["batch_size"] for result in plain.results],
        "ok": ours.results[0]["rows_out"] + ours.results[0]["rejects"]
        == plain.results[0]["mentions"],
    }


def agreed(setup: Setup) -> Iterator[dict[str, Any]]:
    """Cosines against the plain way; ranks and decisions of bfloat16 against float32."""
    few = functools.partial(setup.variant, case="agreement", shape="kit", scores=True)
    plain = run_once(few("plain", "plain:plain", batch_sizes=[8]), setup.folder)["result"]["rows"]
    ours = run_once(few("ours", "ours:whole_stage", dtype="float32"), setup.folder)["result"][
        "rows"
    ]
    apart, compared_mentions = largest_difference(plain, ours)
    base = {"benchmark": NAME, "case": "agreement", "peers": {}, "runs": 1}
    yield {
        **base, "dtype": "float32", "unit": "largest |cosine - plain|", "lower_is_better": True, "ours": apart,
        "limit": MOST_APART, "mentions": compared_mentions, "ok": apart <= MOST_APART,
    }  # fmt: skip
    many = functools.partial(
        setup.variant, target="ours:whole_stage", case="decisions", shape="kit", scores=True
    )
    full, half = (
        run_once(many(dtype, dtype=dtype), setup.folder)["result"]["rows"] for dtype in DTYPES
    )
    found = agreement(many("ours", dtype="float32").arguments["run"], full, half)
    least = min(found["policies"][policy]["agreement"] for policy in POLICIES)
    yield {
        **base, "dtype": "bfloat16", "unit": "Spearman of 1 - cosine to float32", "ours": found["spearman"],
        "limit": LEAST_SPEARMAN, "mentions": len(full["cosine"]), **found,
        "ok": found["spearman"] >= LEAST_SPEARMAN and least >= LEAST_AGREEMENT,
    }  # fmt: skip


def threaded(setup: Setup) -> Iterator[dict[str, Any]]:
    """The stage on all cores: by threads that take batches, by torch's own, by processes of one
    thread; and on one core.
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
    found = measure(variants, setup.rounds, setup.folder)
    yield {
        **record(NAME, "threads", UNIT, found, None),
        "cores": cores,
        "dtype": "float32",
        "ok": True,
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
    """The cases' objects, case by case; --quick, whose figures mean nothing, runs two at a time."""
    if not setup.quick:
        for name in names:
            yield from CASES[name](setup)
        return
    os.environ["OMP_NUM_THREADS"] = (
        "1"  # torch's own threads of two variants at once would wait for each other
    )
    _ = setup.linked  # what they share
    with ThreadPoolExecutor(2) as pool:
        for rows in pool.map(lambda name: list(CASES[name](setup)), names):
            yield from rows


def main() -> int:
    """Run the cases; the exit code is 1 if formats or sides disagree."""
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
    given = parser.parse_args()
    if given.rounds is not None and given.rounds < 1:
        parser.error("--rounds: wanted 1 or more")
    failed = False
    with scratch_folder(given.keep) as folder:
        setup = Setup(
            folder=folder,
            run=given.run,
            mentions=QUICK if given.quick else FULL,
            rounds=given.rounds or (1 if given.quick else 5),
            quick=given.quick,
            pinned=not (given.all_cores or given.quick),
        )
        emit(
            {
                "benchmark": NAME,
                "machine": machine(PACKAGES),
                "quick": given.quick,
                "pinned": setup.pinned,
            }
        )
        for fields in run_cases(setup, given.case or list(CASES)):
            emit(fields)
            failed = failed or not fields["ok"]
    return int(failed)


if __name__ == "__main__":
    run_program(main)
