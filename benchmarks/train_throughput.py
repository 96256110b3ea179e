"""Masked-LM training beside Hugging Face's Trainer: `python -m benchmarks.train_throughput
[--quick] [--case mini …]`.

Goes in: the data kit (environment variable TRELM_KIT), or `--shards FOLDER` made for a BERT. Comes
out: one JSON object per case, see benchmarks/README.md. Tokens are real ones, padding left out; all
variants train the same untrained model of a shape on the same sentences, 15 % masked, one core
each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import (
    Variant,
    common_arguments,
    emit,
    emit_all,
    machine,
    measure,
    record,
    run_program,
    scratch_folder,
    skipped,
)  # fmt: skip
from benchmarks.train_data import SHAPES, kit_shards, random_model
from benchmarks.train_ours import PLAIN, WARM_STEPS
from trelm_train.config import RoutingConfig

NAME = "train_throughput"
BATCH_TOKENS, WIDTH = 4096, 128
ROWS = (
    BATCH_TOKENS // WIDTH
)  # sentences per batch of the Trainer: as many places as ours has, if they were all that wide
MEAN_TOKENS = 28  # of a sentence of the kit
PACKAGES = ("trelm", "torch", "transformers", "accelerate", "numpy", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Sizes and places."""

    folder: Path
    shards: str
    steps: int
    curve_steps: int
    rounds: int
    quick: bool
    dropout: float
    precisions: tuple[str, ...]

    def common(self, shape: str, dropout: float) -> dict[str, Any]:
        """What every variant gets."""
        model = random_model(self.folder, shape, self.shards, dropout=dropout)
        return {"shards": self.shards, "model": model, "threads": 1}


def _hf(name: str, common: dict[str, Any], steps: int, **options: Any) -> Variant:
    settings = {
        "bf16": False,
        "grouped": False,
        "blocks": False,
        "batch_size": ROWS,
        "width": WIDTH,
        **options,
    }
    return Variant(
        name=name,
        target="benchmarks.train_hf:trainer",
        arguments={**common, "steps": steps, **settings},
        needs="accelerate",
    )


def _ours(name: str, common: dict[str, Any], steps: int, *sets: str) -> Variant:
    base = (f"train.batch_tokens={BATCH_TOKENS}", f"train.max_tokens={WIDTH}", "train.steps=100000")
    return Variant(
        name=name,
        target="benchmarks.train_ours:throughput",
        arguments={**common, "steps": steps, "sets": [*base, *sets]},
    )


def throughput(setup: Setup, shape: str) -> Iterator[dict[str, Any]]:
    """Real tokens per second; `ours` is plain masked-LM training in the precision that `auto`
    picks.
    """
    common, steps = setup.common(shape, setup.dropout), setup.steps
    variants = [
        _ours("ours", common, steps, *PLAIN),
        _ours("ours_buckets", common, steps, *PLAIN, "train.layout=buckets"),
    ]
    variants.append(_ours("ours_everything", common, steps))
    for precision in setup.precisions:
        mixed = precision == "bfloat16"
        suffix = "_bf16" if mixed else ""
        variants += [
            _ours(f"ours_{precision}", common, steps, *PLAIN, f"train.precision={precision}"),
            _hf(f"hf{suffix}", common, steps, bf16=mixed),
            _hf(f"hf_grouped{suffix}", common, steps, bf16=mixed, grouped=True),
            _hf(f"hf_blocks{suffix}", common, steps, bf16=mixed, blocks=True),
        ]
    if not setup.quick:
        large = BATCH_TOKENS // MEAN_TOKENS  # as many sentences as our batch has in the mean
        variants += [
            _hf("hf_8", common, steps, batch_size=8),  # the Trainer's own default
            _hf("hf_large", common, max(1, steps // 3), batch_size=large),
            _hf("hf_grouped_large", common, steps, batch_size=large, grouped=True),
        ]
    found = measure(variants, setup.rounds, setup.folder)
    for one in found.values():  # every run of a variant works on the same batches
        one.variant = replace(one.variant, work=float(one.results[0]["tokens"]))
    last = found["ours"].results[-1]
    rates = {name: one.rate for name, one in found.items()}
    cpu = {name: one.cpu_rate for name, one in found.items()}
    yield {
        **record(NAME, shape, "tokens/s", found, None),
        "cpu_ratio_to_peers": {name: cpu["ours"] / rate for name, rate in cpu.items()},
        "ratio_to_default": rates["ours"] / rates.get("hf", float("nan")),
        "ratio_same_precision": {
            "float32": rates.get("ours_float32", float("nan")) / rates.get("hf", float("nan")),
            "bfloat16": rates.get("ours_bfloat16", float("nan"))
            / rates.get("hf_bf16", float("nan")),
        },
        "ratio_to_best_grouped": rates["ours"]
        / max([rates[name] for name in rates if "grouped" in name], default=1e-9),
        "ratio_to_best": rates["ours"]
        / max([rates[name] for name in rates if name.startswith("hf")], default=1e-9),
        "tokens_per_step": {
            name: one.results[0]["tokens"] / one.results[0]["steps"] for name, one in found.items()
        },
        "padding": 1 - last["tokens"] / last["places"],
        "parts_s": last["parts_s"],
        "ok": True,
        **skipped(variants),
    }


EVERYTHING_OFF = ("injection.enabled=false", "memory.enabled=false", "cka.enabled=false")


def trelm(setup: Setup, shape: str) -> Iterator[dict[str, Any]]:
    """A step of everything (bank, injection, CKA, routing at 10 % with its refresh) beside our own
    full update.
    """
    common, steps = setup.common(shape, setup.dropout), setup.steps
    layers = SHAPES[shape][1]
    variants = [
        _ours("ours", common, steps),
        _ours("upper_half", common, steps, f"routing.layer_budget={layers // 2}"),
        _ours("full", common, steps, "routing.policy=full"),
        _ours("ours_bare", common, steps, *EVERYTHING_OFF),
        _ours("full_bare", common, steps, *EVERYTHING_OFF, "routing.policy=full"),
    ]
    found = measure(variants, setup.rounds, setup.folder)
    every = RoutingConfig().refresh_every
    cost: dict[str, float] = {}
    shares: dict[str, dict[str, float]] = {}
    for name, one in found.items():
        step = float(np.median(one.cpu_seconds)) / steps
        refresh = float(np.median([result["refresh_cpu_s"] for result in one.results])) / every
        cost[name] = step + refresh
        parts = one.results[-1]["parts_s"]
        notes = (parts.get("injection", 0.0) + parts.get("memory", 0.0)) / (steps + WARM_STEPS)
        shares[name] = {
            "attribution": refresh / cost[name],
            "bank_and_injection_host": notes / cost[name],
        }
    yield {
        "benchmark": NAME,
        "case": f"trelm_{shape}",
        "unit": "s/step",
        "lower_is_better": True,
        "ours": cost["ours"],
        "peers": {name: value for name, value in cost.items() if name != "ours"},
        "ratio_to_full": {name: cost[name] / cost["full"] for name in ("ours", "upper_half")},
        "attribution_share": {name: shares[name]["attribution"] for name in ("ours", "upper_half")},
        "bank_injection_cka_share": {
            "ours": 1 - cost["ours_bare"] / cost["ours"], "full": 1 - cost["full_bare"] / cost["full"],
        },
        "bank_and_injection_host_share": {name: shares[name]["bank_and_injection_host"] for name in ("ours", "full")},
        "refresh_every": every,
        "rss_mb": {name: one.rss_mb for name, one in found.items()},
        "trained_share": {name: one.results[0]["trained_share"] for name, one in found.items()},
        "runs": setup.rounds,
        "ok": True,
    }  # fmt: skip


def memory(setup: Setup, shape: str) -> Iterator[dict[str, Any]]:
    """What `inspect plan` says beside the measured peak of the run."""
    for name, sets in (("full", ("routing.policy=full",)), ("routed", ())):
        variant = Variant(
            name=name,
            target="benchmarks.train_ours:planned",
            arguments={
                **setup.common(shape, setup.dropout),
                "sets": [*sets, f"train.batch_tokens={BATCH_TOKENS}"],
            },
        )
        found = measure([variant], 1, setup.folder)[name]
        planned, peak = found.results[0]["planned_mb"], found.rss_mb
        yield {
            "benchmark": NAME, "case": f"plan_{shape}_{name}", "unit": "MB", "planned": planned, "peak": peak,
            "ratio": planned / peak, "plan": found.results[0]["plan"], "ok": 0.85 < planned / peak < 1.15,
        }  # fmt: skip


def curves(setup: Setup, dropout: float) -> Iterator[dict[str, Any]]:
    """Losses on the same batches and masks; without dropout they differ by rounding, with it by its
    noise.
    """
    common = setup.common("mini", dropout)
    sets = [
        f"train.steps={setup.curve_steps}", f"train.batch_tokens={BATCH_TOKENS // 2}", f"train.max_tokens={WIDTH}",
        "train.learning_rate=0.0005", "train.precision=float32", *PLAIN,
    ]  # fmt: skip
    variants = [
        Variant(
            name="ours", target="benchmarks.train_ours:losses", arguments={**common, "sets": sets}
        ),
        Variant(
            name="hf",
            target="benchmarks.train_hf:same_batches",
            arguments={**common, "sets": sets},
            needs="accelerate",
        ),
    ]
    found = measure(variants, 1, setup.folder)
    ours = np.asarray(found["ours"].results[0]["losses"])
    theirs = (
        np.asarray(found["hf"].results[0]["losses"])
        if "hf" in found
        else np.full_like(ours, np.nan)
    )
    difference = np.abs(ours - theirs)
    yield {
        "benchmark": NAME,
        "case": "curves" if not dropout else "curves_dropout",
        "unit": "nats",
        "steps": len(ours),
        "ours": ours[[0, len(ours) // 2, -1]].tolist(),
        "hf": theirs[[0, len(ours) // 2, -1]].tolist(),
        "largest_difference": float(difference.max()),
        "mean_difference": float((ours - theirs).mean()),
        "step_to_step_noise": float(np.abs(np.diff(ours)).mean()),
        "ok": not np.isfinite(difference).all()
        or bool(difference.max() < (0.001 if not dropout else 0.5)),
        **skipped(variants),
    }


CASES: dict[str, Callable[[Setup], Iterator[dict[str, Any]]]] = {
    "mini": functools.partial(throughput, shape="mini"),
    "base": functools.partial(throughput, shape="base"),
    "trelm_mini": functools.partial(trelm, shape="mini"),
    "trelm_base": functools.partial(trelm, shape="base"),
    "plan_mini": functools.partial(memory, shape="mini"),
    "plan_base": functools.partial(memory, shape="base"),
    "curves": functools.partial(curves, dropout=0.0),
    "curves_dropout": functools.partial(curves, dropout=0.1),
}


def main() -> int:
    """Run the cases; the exit code is 1 if the curves differ."""
    parser = common_arguments(__doc__)
    parser.add_argument(
        "--shards",
        default="",
        metavar="FOLDER",
        help="finished, for a BERT (default: made from the kit)",
    )
    parser.add_argument(
        "--steps", type=int, help="timed steps of each run (default: 8; 2 with --quick)"
    )
    parser.add_argument(
        "--dropout", type=float, default=0.1, help="of the model, in all variants (default: 0.1)"
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, help="only this case; may be repeated"
    )
    parser.add_argument(
        "--precision",
        action="append",
        choices=("float32", "bfloat16"),
        help="of peers; default: both",
    )
    given = parser.parse_args()
    with scratch_folder(given.keep) as folder:
        setup = Setup(
            folder=folder,
            shards=given.shards or kit_shards(folder, quick=given.quick),
            steps=given.steps or (2 if given.quick else 8),
            curve_steps=10 if given.quick else 200,
            rounds=given.rounds or (1 if given.quick else 3),
            quick=given.quick,
            dropout=given.dropout,
            precisions=tuple(
                given.precision or (("float32",) if given.quick else ("float32", "bfloat16"))
            ),
        )
        emit(
            {
                "benchmark": NAME,
                "machine": machine(PACKAGES),
                "quick": given.quick,
                "dropout": given.dropout,
            }
        )
        names = given.case or (("mini", "curves") if given.quick else tuple(CASES))
        return emit_all(fields for name in names for fields in CASES[name](setup))


if __name__ == "__main__":
    run_program(main)
