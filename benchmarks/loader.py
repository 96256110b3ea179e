"""Measure shards to batches: `python -m benchmarks.loader [--quick] [--tokens N] [--case masks …]
[--no-peers]`.

Goes in: nothing; rows are generated (see `shards_data`), 30 million tokens and more. Comes out: one
JSON object per case, see benchmarks/README.md. All cases and peers are measured together,
interleaved, each in a process of its own on one core.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import (
    Aim,
    Measured,
    Variant,
    common_arguments,
    judged,
    measure,
    record,
    refuse_less_than_one,
    report,
    run_program,
    scratch_folder,
    skipped,
)  # fmt: skip
from benchmarks.shards_data import generated_rows
from trelm_train.data.sentences import COLUMNS

NAME = "loader"
PACKAGES = ("trelm", "numpy", "pyarrow", "datasets")
PEERS = {"to_pylist": "", "hf_rows": "datasets", "hf_arrow": "datasets", "hf_random": "datasets"}
LARGE = 32768
CASES: dict[str, dict[str, Any]] = {  # arguments besides the files
    "read": {},
    "batches": {"layout": "packed", "batch_tokens": 4096},
    "batches_large": {"layout": "packed", "batch_tokens": LARGE},
    "buckets": {"layout": "buckets", "batch_tokens": 4096},
    "masks": {"layout": "packed", "batch_tokens": 4096},
    "masks_large": {"layout": "packed", "batch_tokens": LARGE},
    "masks_buckets_large": {"layout": "buckets", "batch_tokens": LARGE},
}
# Tokens/s per core.
AIMS = {
    "batches": 20e6,
    "batches_large": 30e6,
    "masks": 10e6,
    "masks_large": 20e6,
}
HF_AIM, PADDING_AIM, SEEK_AIM_MS = 15, 0.95, 100
NO_PEERS = "--no-peers"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Hold sizes and folders."""

    folder: Path
    tokens: int
    rounds: int
    quick: bool
    cases: tuple[str, ...]
    peers: tuple[str, ...]


def variants_of(setup: Setup) -> list[Variant]:
    """Return ours, the limit on the same files, and peers on the first of them."""
    files = generated_rows(setup.folder, setup.tokens)
    columns = list(COLUMNS.values())
    ours = [
        Variant(
            name=case,
            target=f"benchmarks.loader_ours:{case.split('_')[0].replace('buckets', 'batches')}",
            arguments={"files": files, **CASES[case]},
        )
        for case in setup.cases
    ]
    limit = Variant(
        name="decode",
        target="benchmarks.loader_peers:decode",
        arguments={"files": files, "columns": columns},
    )
    peers = [
        Variant(
            name=name,
            target=f"benchmarks.loader_peers:{name}",
            arguments={"files": files[:1], "columns": columns},
            needs=PEERS[name],
        )
        for name in setup.peers
    ]
    return [*ours, limit, *peers]


def run(setup: Setup) -> Iterator[dict[str, Any]]:
    """Measure all cases together, then yield their records."""
    variants = variants_of(setup)
    by_name = measure(variants, setup.rounds, setup.folder)
    limit = by_name.pop("decode")
    for measured in by_name.values():
        tokens = float(measured.results[0]["tokens"])
        measured.variant = replace(measured.variant, work=tokens)

    peers = {name: by_name[name] for name in PEERS if name in by_name}
    skips = skipped(variants)
    for case in setup.cases:
        ours = by_name[case]
        # The limit decodes the rows that ours reads, whatever ours uses of them.
        limit.variant = replace(limit.variant, work=ours.variant.work)
        cpu_ratios = {name: ours.cpu_rate / peer.cpu_rate for name, peer in peers.items()}
        details = _details(case, ours)
        yield {
            **record(NAME, case, "tokens/s", {"ours": ours, **peers}, limit.rate),
            "limit_is": "Parquet decoded to Arrow, the same rows and columns",
            "cpu_ratio_to_limit": ours.cpu_rate / limit.cpu_rate,
            "cpu_ratio_to_peers": cpu_ratios,
            **details,
            **judged(
                _aims(case, ours, details, cpu_ratios.get("hf_rows"), skips.get("skipped", {})),
                quick=setup.quick,
            ),
            **skips,
        }


def _details(case: str, ours: Measured) -> dict[str, Any]:
    """Return the figures that only some cases have: padding, batches, seek."""
    result = ours.results[-1]
    details = {"tokens": result["tokens"], **CASES[case]}
    if "padding_efficiency" not in result:
        return details
    return {
        **details,
        "padding_efficiency": result["padding_efficiency"],
        "batches": result["batches"],
        "seek_ms": median(ms for run in ours.results for ms in run["seek_ms"]),
    }


def _aims(
    case: str,
    ours: Measured,
    details: Mapping[str, Any],
    cpu_ratio_to_hf_rows: float | None,
    reasons: Mapping[str, str],
) -> list[Aim]:
    """Return the aims of a case; speeds are of processor time.

    Padding does not depend on the machine, and hardly on the amount of data.
    """
    aims = []
    if case in AIMS:
        aims.append(Aim(name="cpu_rates.ours", value=ours.cpu_rate, at_least=AIMS[case]))
    if "seek_ms" in details:
        aims += [
            Aim(
                name="padding_efficiency", value=details["padding_efficiency"],
                at_least=PADDING_AIM, needs_full_data=False,
            ),
            Aim(name="seek_ms", value=details["seek_ms"], at_most=SEEK_AIM_MS),
            Aim(
                name="cpu_ratio_to_peers.hf_rows", value=cpu_ratio_to_hf_rows, at_least=HF_AIM,
                missing=reasons.get("hf_rows", NO_PEERS),
            ),
        ]  # fmt: skip
    return aims


def main() -> int:
    """Run the cases and return the exit code."""
    parser = common_arguments(__doc__)
    parser.add_argument(
        "--tokens", type=int, help="generated (default: 30 million; 3 million with --quick)"
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, help="only this case; may be repeated"
    )
    parser.add_argument("--no-peers", action="store_true", help="ours and the limit only")
    options = parser.parse_args()
    refuse_less_than_one(parser, options, "tokens", "rounds")
    with scratch_folder(options.keep) as folder:
        setup = Setup(
            folder=folder,
            tokens=options.tokens or (3_000_000 if options.quick else 30_000_000),
            rounds=options.rounds or (1 if options.quick else 5),
            cases=tuple(options.case or CASES),
            peers=() if options.no_peers else tuple(PEERS),
            quick=options.quick,
        )
        return report(NAME, options, PACKAGES, run(setup))


if __name__ == "__main__":
    run_program(main)
