"""Measure sentences to shards, and shards read: `python -m benchmarks.shards [--quick] [--run FOLDER]
[--case read_ids …]`.

Goes in: the data kit (environment variable TRELM_KIT); `shards_data` says what is made of it,
`--run` names a finished run instead. Comes out: one JSON object per case, see benchmarks/README.md.
Tokens are those of the case's tokenizer, special ones left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Aim,
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
    skipped,
)  # fmt: skip
from benchmarks.shards_data import finished_run, generated_rows, tokenizer_folders
from benchmarks.shards_read import IDS, LISTS

NAME = "shards"
BATCH_SIZES = (64, 256, 1000, 4000)  # of the tokenizer's call, tried
LIMITS = ("call", "encode_batch")
# Of the tokenizer's call; and tokens/s on one core. Both by processor time.
BUILD_AIM, READ_AIM = 0.6, 20e6
PACKAGES = ("trelm", "tokenizers", "transformers", "numpy", "pyarrow", "duckdb", "datasets")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Hold sizes and folders."""

    folder: Path
    run: str  # finished; empty = made
    copies: int  # of the corpus
    read_tokens: int
    rounds: int
    quick: bool

    @functools.cached_property
    def tokenizers(self) -> dict[str, str]:
        """Return the folders of tokenizers by family."""
        return tokenizer_folders(self.folder)


def build(setup: Setup, family: str) -> Iterator[dict[str, Any]]:
    """Measure the stage without Beam, on one core, beside the tokenizer alone."""
    run = setup.run or finished_run(setup.folder, quick=setup.quick)
    common = {"run": run, "model": setup.tokenizers[family], "copies": setup.copies}

    def variant(name: str, **more: Any) -> Variant:  # noqa: ANN401
        return Variant(
            name=name, target=f"benchmarks.shards_build:{name}", arguments={**common, **more}
        )

    best = BATCH_SIZES[0]
    if not setup.quick:
        tried = {
            size: run_once(variant("call", batch_size=size), setup.folder) for size in BATCH_SIZES
        }
        best = min(BATCH_SIZES, key=lambda size: tried[size]["cpu_seconds"])
    names = LIMITS if setup.quick else (*LIMITS, "script")
    variants = [variant("ours"), *(variant(name, batch_size=best) for name in names)]
    by_name = measure(variants, setup.rounds, setup.folder)
    tokens = {name: measured.results[0]["tokens"] for name, measured in by_name.items()}
    for name, measured in by_name.items():
        measured.variant = replace(measured.variant, work=float(tokens[name]))
    limits = {name: by_name.pop(name) for name in LIMITS}
    ours, result = by_name["ours"], by_name["ours"].results[-1]
    cpu_ratios = {name: ours.cpu_rate / measured.cpu_rate for name, measured in limits.items()}

    num_different = sum(count != tokens["ours"] for count in tokens.values())
    aims = [
        none_wrong("variants_with_other_tokens", num_different),
        Aim(name="cpu_ratio_to_limits.call", value=cpu_ratios["call"], at_least=BUILD_AIM),
    ]
    yield {
        **record(NAME, f"build_{family}", "tokens/s", by_name, limits["call"].rate),
        "limit_is": {"call": f"offsets, batches of {best}"},
        "limits": {name: measured.rate for name, measured in limits.items()},
        "limit_cpu_rates": {name: measured.cpu_rate for name, measured in limits.items()},
        "cpu_ratio_to_limits": cpu_ratios,
        "limit_rss_mb": {name: measured.rss_mb for name, measured in limits.items()},
        "tokens": tokens,
        "bytes_per_token": result["bytes"] / result["tokens"],
        "seconds": {
            name: result[name]
            for name in ("rows_s", "shuffle_s", "cpu_rows_s", "cpu_seconds", "knowledge_s")
        },
        "counters": result["counters"],
        **judged(aims, quick=setup.quick),
    }


def read(setup: Setup, columns: list[str], case: str) -> Iterator[dict[str, Any]]:
    """Measure reading every token of generated rows, on one core."""
    files = generated_rows(setup.folder, setup.read_tokens)
    add = functools.partial(_reader, files=files)
    variants = [
        add("ours", columns=columns),
        add("arrow", columns=columns),
        add("duckdb", columns=columns),
    ]
    if columns == IDS:
        variants += [
            add("to_pylist", columns=columns),
            add("datasets", needs="datasets", columns=columns),
        ]
    else:
        variants.append(add("loader"))
    by_name = measure(variants, setup.rounds, setup.folder)
    tokens = by_name["ours"].results[0]["tokens"]
    # The same rows for all, also for `arrow`, which does not look at the tokens.
    for measured in by_name.values():
        measured.variant = replace(measured.variant, work=float(tokens))
    limit, ours = by_name.pop("arrow"), by_name["ours"]
    num_bytes = sum(Path(path).stat().st_size for path in files)

    num_different = sum(measured.results[0]["tokens"] != tokens for measured in by_name.values())
    aims = [
        none_wrong("variants_with_other_tokens", num_different),
        Aim(name="cpu_rates.ours", value=ours.cpu_rate, at_least=READ_AIM),
    ]
    yield {
        **record(NAME, case, "tokens/s", by_name, limit.rate),
        "limit_is": "Parquet decoded to Arrow",
        "cpu_ratio_to_limit": ours.cpu_rate / limit.cpu_rate,
        "columns": len(columns),
        "tokens": tokens,
        "bytes_per_token": num_bytes / tokens,
        **judged(aims, quick=setup.quick),
        **skipped(variants),
    }


def _reader(name: str, needs: str = "", **arguments: Any) -> Variant:  # noqa: ANN401
    return Variant(
        name=name, target=f"benchmarks.shards_read:{name}", arguments=arguments, needs=needs
    )


CASES: dict[str, Callable[[Setup], Iterator[dict[str, Any]]]] = {
    "build_bert": functools.partial(build, family="bert"),
    "build_roberta": functools.partial(build, family="roberta"),
    "read_ids": functools.partial(read, columns=IDS, case="read_ids"),
    "read_all": functools.partial(read, columns=LISTS, case="read_all"),
}


def main() -> int:
    """Run the cases and return the exit code."""
    parser = common_arguments(__doc__)
    parser.add_argument(
        "--run",
        default="",
        metavar="FOLDER",
        help="finished up to importance (default: made from the kit)",
    )
    parser.add_argument("--copies", type=int, help="of the corpus, for `build` (default: 5)")
    parser.add_argument(
        "--read-tokens", type=int, help="generated (default: 30 million; 3 million with --quick)"
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, help="only this case; may be repeated"
    )
    options = parser.parse_args()
    refuse_less_than_one(parser, options, "copies", "read_tokens", "rounds")
    with scratch_folder(options.keep) as folder:
        setup = Setup(
            folder=folder,
            run=options.run,
            copies=options.copies or 5,
            read_tokens=options.read_tokens or (3_000_000 if options.quick else 30_000_000),
            rounds=options.rounds or (1 if options.quick else 5),
            quick=options.quick,
        )
        records = (fields for name in options.case or CASES for fields in CASES[name](setup))
        return report(NAME, options, PACKAGES, records)


if __name__ == "__main__":
    run_program(main)
