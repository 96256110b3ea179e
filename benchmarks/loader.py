"""Shards to batches: `python -m benchmarks.loader [--quick] [--tokens N] [--case masks …]
[--no-peers]`.

Goes in: nothing; rows are generated (see `shards_data`), 30 million tokens and more. Comes out: one
JSON object per case, see benchmarks/README.md. All cases and peers are measured together,
interleaved, each in a process of its own on one core.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import (
    Measured,
    Variant,
    common_arguments,
    emit,
    emit_all,
    machine,
    measure,
    record,
    refuse_less_than_one,
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
AIMS = {
    "batches": 20e6,
    "batches_large": 30e6,
    "masks": 10e6,
    "masks_large": 20e6,
}  # tokens/s per core
HF_AIM, PADDING_AIM, SEEK_AIM_MS = 15, 0.95, 100


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Sizes and places."""

    folder: Path
    tokens: int
    rounds: int
    cases: tuple[str, ...]
    peers: tuple[str, ...]


def variants_of(setup: Setup) -> list[Variant]:
    """Ours, the limit on the same files, peers on the first of them."""
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
    """All cases."""
    variants = variants_of(setup)
    found = {
        name: _by_tokens(one) for name, one in measure(variants, setup.rounds, setup.folder).items()
    }
    limit = found.pop("decode")
    peers = {name: found[name] for name in PEERS if name in found}
    for case in setup.cases:
        ours = found[case]
        limit.variant = _with_work(
            limit.variant, ours.variant.work
        )  # the same rows, whatever is used of them
        yield {
            **record(NAME, case, "tokens/s", {"ours": ours, **peers}, limit.rate),
            "limit_is": "Parquet decoded to Arrow, the same rows and columns",
            "cpu_ratio_to_limit": ours.cpu_rate / limit.cpu_rate,
            "cpu_ratio_to_peers": {
                name: ours.cpu_rate / peer.cpu_rate for name, peer in peers.items()
            },
            **_details(case, ours),
            **skipped(variants),
        }


def _by_tokens(measured: Measured) -> Measured:
    measured.variant = _with_work(measured.variant, float(measured.results[0].get("tokens", 1)))
    return measured


def _with_work(variant: Variant, work: float) -> Variant:
    return Variant(
        name=variant.name,
        target=variant.target,
        arguments=variant.arguments,
        work=work,
        needs=variant.needs,
    )


def _details(case: str, ours: Measured) -> dict[str, Any]:
    """Padding and seek with what they are aimed at; `ok` is false where a figure that does not
    depend on the load is missed.
    """
    last = ours.results[-1]
    details = {"tokens": last["tokens"], "aim": AIMS.get(case), "ok": True, **CASES[case]}
    if "padding_efficiency" not in last:
        return details
    seek_ms = median(ms for result in ours.results for ms in result["seek_ms"])
    return {
        **details,
        "padding_efficiency": last["padding_efficiency"],
        "batches": last["batches"],
        "seek_ms": seek_ms,
        "aims": {
            "padding_efficiency": PADDING_AIM,
            "seek_ms": SEEK_AIM_MS,
            "cpu_ratio_to_peers.hf_rows": HF_AIM,
        },
        "ok": last["padding_efficiency"] >= PADDING_AIM,
    }


def main() -> int:
    """Run the cases; the exit code is 1 if too much is padded."""
    parser = common_arguments(__doc__)
    parser.add_argument(
        "--tokens", type=int, help="generated (default: 30 million; 3 million with --quick)"
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, help="only this case; may be repeated"
    )
    parser.add_argument("--no-peers", action="store_true", help="ours and the limit only")
    given = parser.parse_args()
    refuse_less_than_one(parser, given, "tokens", "rounds")
    with scratch_folder(given.keep) as folder:
        setup = Setup(
            folder=folder,
            tokens=given.tokens or (3_000_000 if given.quick else 30_000_000),
            rounds=given.rounds or (1 if given.quick else 5),
            cases=tuple(given.case or CASES),
            peers=() if given.no_peers else tuple(PEERS),
        )
        emit({"benchmark": NAME, "machine": machine(PACKAGES), "quick": given.quick})
        return emit_all(run(setup))


if __name__ == "__main__":
    run_program(main)
