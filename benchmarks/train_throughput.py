"""Measure masked-LM training beside Hugging Face's Trainer: `python -m benchmarks.train_throughput
[--quick] [--case mini …]`.

Goes in: the data kit (environment variable TRELM_KIT), or `--shards FOLDER` made for a BERT. Comes
out: one JSON object per case, see benchmarks/README.md. Tokens are real ones, padding left out; all
variants train the same untrained model of a shape on the same sentences, 15 % masked, one core
each, and multiply in the same number format.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import (
    Aim,
    Measured,
    Variant,
    common_arguments,
    judged,
    measure,
    ratio,
    record,
    refuse_less_than_one,
    report,
    run_program,
    scratch_folder,
    skipped,
)  # fmt: skip
from benchmarks.train_data import SHAPES, kit_shards, random_model
from benchmarks.train_ours import PLAIN, WARM_STEPS
from schemas.array_types import F64
from schemas.processor import multiplies_bfloat16
from trelm_train.config import PRESETS, RoutingConfig

NAME = "train_throughput"
BATCH_TOKENS, WIDTH = 4096, 128
# Of the Trainer's batches: its own default; as many places as ours has, if every sentence were as
# wide as allowed; as many real tokens as ours has, at 28 tokens a sentence of the kit.
DEFAULT_ROWS, WIDE_ROWS, LARGE_ROWS = 8, BATCH_TOKENS // WIDTH, BATCH_TOKENS // 28
PACKAGES = ("trelm", "torch", "transformers", "accelerate", "numpy", "pyarrow")
FLOAT32, BFLOAT16 = "float32", "bfloat16"
# The variant that only multiplies.
LIMIT = "products"

# Times the tokens/s of the Trainer's default.
DEFAULT_AIMS = {"mini": 10.0, "base": 4.0}
# A step of everything, in full updates of ours.
STEP_AIMS = {
    "mini": {"ours": 0.80, "upper_half": 0.62},
    "base": {"ours": 0.70, "upper_half": 0.50},
}
ATTRIBUTION_AIM = 0.05
# Planned over measured peak memory.
PLAN_AIMS = (0.85, 1.15)
# Nats between the losses of a step: rounding without dropout, its noise with it.
ROUNDING_AIM, DROPOUT_AIM = 0.001, 0.5


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Hold sizes and folders."""

    folder: Path
    shards: str
    steps: int
    curve_steps: int
    rounds: int
    quick: bool
    dropout: float
    # The number format of matrix products, in ours and in every peer.
    precision: str

    def common(self, shape: str, dropout: float) -> dict[str, Any]:
        """Return what every variant gets."""
        model = random_model(self.folder, shape, self.shards, dropout=dropout)
        return {"shards": self.shards, "model": model, "threads": 1}


def _hf(
    name: str, common: dict[str, Any], steps: int, rows: int, precision: str, **options: bool
) -> Variant:
    settings = {
        "bf16": precision == BFLOAT16,
        "grouped": False,
        "blocks": False,
        "batch_size": rows,
        "width": WIDTH,
        **options,
    }
    return Variant(
        name=name,
        target="benchmarks.train_hf:trainer",
        arguments={**common, "steps": steps, **settings},
        needs="accelerate",
    )


def _ours(
    name: str,
    common: dict[str, Any],
    steps: int,
    precision: str,
    *sets: str,
    keep_memory: bool = True,
) -> Variant:
    base = (
        f"train.batch_tokens={BATCH_TOKENS}", f"train.max_tokens={WIDTH}", "train.steps=100000",
        f"train.precision={precision}",
    )  # fmt: skip
    return Variant(
        name=name,
        target="benchmarks.train_ours:throughput",
        arguments={**common, "steps": steps, "sets": [*base, *sets], "keep_memory": keep_memory},
    )


def throughput_variants(setup: Setup, shape: str) -> list[Variant]:
    """Return ours and the Trainer's, all in one number format; a full run has a float32 pair too.

    The number in a peer's name is its rows per batch.
    """
    common, steps = setup.common(shape, setup.dropout), setup.steps
    add = functools.partial(_hf, common=common, steps=steps, precision=setup.precision)

    variants = [
        _ours("ours", common, steps, setup.precision, *PLAIN),
        _ours("ours_buckets", common, steps, setup.precision, *PLAIN, "train.layout=buckets"),
        _ours("ours_everything", common, steps, setup.precision, *EVERYTHING),
        add("hf_8", rows=DEFAULT_ROWS),
        add("hf_32", rows=WIDE_ROWS),
        add("hf_32_grouped", rows=WIDE_ROWS, grouped=True),
        add("hf_32_blocks", rows=WIDE_ROWS, blocks=True),
    ]
    if setup.quick:
        return variants
    hidden, layers = SHAPES[shape]
    variants += [
        Variant(
            name=LIMIT,
            target="benchmarks.train_limit:products",
            arguments={
                **common,
                "steps": steps,
                "tokens": BATCH_TOKENS,
                "bf16": setup.precision == BFLOAT16,
                "hidden": hidden,
                "layers": layers,
            },
        ),
        _ours("ours_not_kept", common, steps, setup.precision, *PLAIN, keep_memory=False),
        # Ours keeps freed memory for the next arrays; so may the Trainer.
        add("hf_32_grouped_kept", rows=WIDE_ROWS, grouped=True, keep_memory=True),
    ]
    # At base shape such a batch takes about 30 GB.
    if shape != "base":
        variants += [
            add("hf_146_grouped_kept", rows=LARGE_ROWS, grouped=True, keep_memory=True),
            add("hf_146", rows=LARGE_ROWS, steps=max(1, steps // 3)),
            add("hf_146_grouped", rows=LARGE_ROWS, grouped=True),
        ]
    if setup.precision != FLOAT32:
        variants += [
            _ours("ours_float32", common, steps, FLOAT32, *PLAIN),
            add("hf_8_float32", rows=DEFAULT_ROWS, precision=FLOAT32),
        ]
    return variants


def throughput(setup: Setup, shape: str) -> Iterator[dict[str, Any]]:
    """Measure real tokens per second; `ours` is plain masked-LM training."""
    variants = throughput_variants(setup, shape)
    by_name = measure(variants, setup.rounds, setup.folder)
    # Every run of a variant works on the same batches.
    for measured in by_name.values():
        tokens = float(measured.results[0]["tokens"])
        measured.variant = replace(measured.variant, work=tokens)

    products = by_name.pop(LIMIT, None)
    rates = {name: measured.rate for name, measured in by_name.items()}
    cpu_rates = {name: measured.cpu_rate for name, measured in by_name.items()}
    reasons = skipped(variants).get("skipped", {})
    ratios, cpu_ratios = _headline(rates), _headline(cpu_rates)
    aim = Aim(
        name="cpu_ratios.to_default", value=cpu_ratios.get("to_default"),
        at_least=DEFAULT_AIMS[shape], missing=reasons.get("hf_8", ""),
    )  # fmt: skip
    result = by_name["ours"].results[-1]
    yield {
        **record(NAME, shape, "tokens/s", by_name, products.rate if products else None),
        "precision": setup.precision,
        "cpu_ratio_to_limit": ratio(cpu_rates["ours"], products.cpu_rate if products else None),
        "cpu_ratio_to_peers": {
            name: cpu_rates["ours"] / rate for name, rate in cpu_rates.items() if name != "ours"
        },
        "ratios": ratios,
        "cpu_ratios": cpu_ratios,
        "tokens_per_step": {
            name: measured.results[0]["tokens"] / measured.results[0]["steps"]
            for name, measured in by_name.items()
        },
        "padding": 1 - result["tokens"] / result["places"],
        "parts_s": result["parts_s"],
        **judged([aim], quick=setup.quick),
        **skipped(variants),
    }


def _headline(rates: Mapping[str, float]) -> dict[str, float]:
    """Return ours over the Trainer's default, over its best batches, and the default in float32.

    A ratio is left out where one of its sides is not there.
    """
    hf = {
        name: rate
        for name, rate in rates.items()
        if name.startswith("hf") and not name.endswith(FLOAT32)
    }
    best = max(hf.values(), default=None)
    best_grouped = max((rate for name, rate in hf.items() if "grouped" in name), default=None)
    ratios = {
        "to_default": ratio(rates["ours"], hf.get("hf_8")),
        "to_best": ratio(rates["ours"], best),
        "to_best_grouped": ratio(rates["ours"], best_grouped),
        "to_default_float32": ratio(rates.get("ours_float32"), rates.get("hf_8_float32")),
    }
    return {name: value for name, value in ratios.items() if value is not None}


# The talk's form: bank, injection, contrast by projection, and routing at 10 %.
EVERYTHING = PRESETS["talk"]
EVERYTHING_OFF = (
    *EVERYTHING, "injection.enabled=false", "memory.enabled=false", "cka.enabled=false",
)  # fmt: skip
FULL = "routing.policy=full"
FACTS = (*PLAIN, "facts.enabled=true")
# What `components` adds to masked-LM training of all weights, one after the other.
COMPONENTS = {
    "plain": PLAIN,
    "facts": FACTS,
    "facts_contrast": (*FACTS, "cka.enabled=true"),
    "facts_projection": (*FACTS, "cka.enabled=true", "cka.form=projection"),
    "facts_injection": (*FACTS, "injection.enabled=true"),
    "facts_injection_memory": (*FACTS, "injection.enabled=true", "memory.enabled=true"),
    "facts_upper_ffn": (*FACTS, "routing.policy=ffn_all", "routing.layer_budget=-1"),
}


def components(setup: Setup, shape: str) -> Iterator[dict[str, Any]]:
    """Measure what each component costs a step, in steps of plain masked-LM training."""
    common = setup.common(shape, setup.dropout)
    variants = [
        _ours(name, common, setup.steps, setup.precision, *sets)
        for name, sets in COMPONENTS.items()
    ]
    by_name = measure(variants, setup.rounds, setup.folder)
    cost = {
        name: float(np.median(measured.cpu_seconds)) / setup.steps
        for name, measured in by_name.items()
    }
    yield {
        "benchmark": NAME,
        "case": f"components_{shape}",
        "unit": "s/step",
        "lower_is_better": True,
        "ours": cost["facts"],
        "peers": {name: value for name, value in cost.items() if name != "facts"},
        "ratio_to_plain": {name: value / cost["plain"] for name, value in cost.items()},
        "precision": setup.precision,
        "rss_mb": {name: measured.rss_mb for name, measured in by_name.items()},
        "runs": setup.rounds,
        **judged([], quick=setup.quick),
    }


def trelm(setup: Setup, shape: str) -> Iterator[dict[str, Any]]:
    """Measure a step of everything beside our own full update.

    Everything is the bank, injection, CKA, and routing at 10 % with its refresh.
    """
    common, steps = setup.common(shape, setup.dropout), setup.steps
    half = f"routing.layer_budget={SHAPES[shape][1] // 2}"
    variants = [
        _ours("ours", common, steps, setup.precision, *EVERYTHING),
        _ours("upper_half", common, steps, setup.precision, *EVERYTHING, half),
        _ours("full", common, steps, setup.precision, *EVERYTHING, FULL),
        _ours("ours_bare", common, steps, setup.precision, *EVERYTHING_OFF),
        _ours("full_bare", common, steps, setup.precision, *EVERYTHING_OFF, FULL),
    ]
    by_name = measure(variants, setup.rounds, setup.folder)
    every = RoutingConfig().refresh_every
    cost: dict[str, float] = {}
    shares: dict[str, dict[str, float]] = {}
    for name, measured in by_name.items():
        step = float(np.median(measured.cpu_seconds)) / steps
        refresh = float(np.median([result["refresh_cpu_s"] for result in measured.results])) / every
        cost[name] = step + refresh
        parts = measured.results[-1]["parts_s"]
        notes = (parts.get("injection", 0.0) + parts.get("memory", 0.0)) / (steps + WARM_STEPS)
        shares[name] = {
            "attribution": refresh / cost[name],
            "bank_and_injection_host": notes / cost[name],
        }

    ratios = {name: cost[name] / cost["full"] for name in ("ours", "upper_half")}
    attribution = {name: shares[name]["attribution"] for name in ("ours", "upper_half")}
    yield {
        "benchmark": NAME,
        "case": f"trelm_{shape}",
        "unit": "s/step",
        "lower_is_better": True,
        "ours": cost["ours"],
        "peers": {name: value for name, value in cost.items() if name != "ours"},
        "precision": setup.precision,
        "ratio_to_full": ratios,
        "attribution_share": attribution,
        "bank_injection_cka_share": {
            "ours": 1 - cost["ours_bare"] / cost["ours"], "full": 1 - cost["full_bare"] / cost["full"],
        },
        "bank_and_injection_host_share": {name: shares[name]["bank_and_injection_host"] for name in ("ours", "full")},
        "refresh_every": every,
        "rss_mb": {name: measured.rss_mb for name, measured in by_name.items()},
        "trained_share": {name: measured.results[0]["trained_share"] for name, measured in by_name.items()},
        "runs": setup.rounds,
        **judged(_step_aims(shape, ratios, attribution), quick=setup.quick),
    }  # fmt: skip


def _step_aims(
    shape: str, ratios: Mapping[str, float], attribution: Mapping[str, float]
) -> list[Aim]:
    """Return the aims of a step: its cost in full updates, and the share of attribution in it."""
    return [
        *(
            Aim(name=f"ratio_to_full.{name}", value=ratios[name], at_most=bound)
            for name, bound in STEP_AIMS[shape].items()
        ),
        *(
            Aim(name=f"attribution_share.{name}", value=share, at_most=ATTRIBUTION_AIM)
            for name, share in attribution.items()
        ),
    ]


def memory(setup: Setup, shape: str) -> Iterator[dict[str, Any]]:
    """Compare the peak memory that `inspect plan` says with the measured one of the run."""
    for name, sets in (("full", (*EVERYTHING, FULL)), ("routed", EVERYTHING)):
        variant = Variant(
            name=name,
            target="benchmarks.train_ours:planned",
            arguments={
                **setup.common(shape, setup.dropout),
                "sets": [*sets, f"train.batch_tokens={BATCH_TOKENS}"],
            },
        )
        measured = measure([variant], 1, setup.folder)[name]
        planned, peak = measured.results[0]["planned_mb"], measured.rss_mb
        low, high = PLAN_AIMS
        aim = Aim(name="ratio", value=planned / peak, at_least=low, at_most=high)
        yield {
            "benchmark": NAME, "case": f"plan_{shape}_{name}", "unit": "MB", "planned": planned, "peak": peak,
            "ratio": planned / peak, "plan": measured.results[0]["plan"], **judged([aim], quick=setup.quick),
        }  # fmt: skip


def curves(setup: Setup, dropout: float) -> Iterator[dict[str, Any]]:
    """Compare losses on the same batches and masks, in float32 on both sides.

    Without dropout they differ by rounding, with it by its noise.
    """
    common = setup.common("mini", dropout)
    sets = [
        f"train.steps={setup.curve_steps}", f"train.batch_tokens={BATCH_TOKENS // 2}", f"train.max_tokens={WIDTH}",
        "train.learning_rate=0.0005", "train.precision=float32", *PLAIN,
    ]  # fmt: skip
    arguments = {**common, "sets": sets}
    hf_target = "benchmarks.train_hf:same_batches"
    variants = [
        Variant(name="ours", target="benchmarks.train_ours:losses", arguments=arguments),
        Variant(name="hf", target=hf_target, arguments=arguments, needs="accelerate"),
    ]
    by_name = measure(variants, 1, setup.folder)
    ours = np.asarray(by_name["ours"].results[0]["losses"])
    reasons = skipped(variants).get("skipped", {})
    compared = _compared(ours, by_name.get("hf"))
    aim = Aim(
        name="largest_difference", value=compared.get("largest_difference"),
        at_most=DROPOUT_AIM if dropout else ROUNDING_AIM, missing=reasons.get("hf", ""),
        needs_full_data=False,
    )  # fmt: skip
    yield {
        "benchmark": NAME,
        "case": "curves_dropout" if dropout else "curves",
        "unit": "nats",
        "steps": len(ours),
        "ours": ours[[0, len(ours) // 2, -1]].tolist(),
        **compared,
        "step_to_step_noise": float(np.abs(np.diff(ours)).mean()),
        **judged([aim], quick=setup.quick),
        **skipped(variants),
    }


def _compared(ours: F64, hf: Measured | None) -> dict[str, Any]:
    """Return the Trainer's losses beside ours; nothing where the Trainer did not run."""
    if hf is None:
        return {}
    theirs = np.asarray(hf.results[0]["losses"])
    return {
        "hf": theirs[[0, len(theirs) // 2, -1]].tolist(),
        "largest_difference": float(np.abs(ours - theirs).max()),
        "mean_difference": float((ours - theirs).mean()),
    }


CASES: dict[str, Callable[[Setup], Iterator[dict[str, Any]]]] = {
    "mini": functools.partial(throughput, shape="mini"),
    "base": functools.partial(throughput, shape="base"),
    "components_mini": functools.partial(components, shape="mini"),
    "components_base": functools.partial(components, shape="base"),
    "trelm_mini": functools.partial(trelm, shape="mini"),
    "trelm_base": functools.partial(trelm, shape="base"),
    "plan_mini": functools.partial(memory, shape="mini"),
    "plan_base": functools.partial(memory, shape="base"),
    "curves": functools.partial(curves, dropout=0.0),
    "curves_dropout": functools.partial(curves, dropout=0.1),
}


def main() -> int:
    """Run the cases and return the exit code."""
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
        default="auto",
        choices=("auto", FLOAT32, BFLOAT16),
        help="of ours and of every peer (default: auto, the faster one on this processor)",
    )
    options = parser.parse_args()
    refuse_less_than_one(parser, options, "steps", "rounds")
    fast = BFLOAT16 if multiplies_bfloat16() else FLOAT32
    with scratch_folder(options.keep) as folder:
        setup = Setup(
            folder=folder,
            shards=options.shards or kit_shards(folder, quick=options.quick),
            steps=options.steps or (2 if options.quick else 8),
            curve_steps=10 if options.quick else 200,
            rounds=options.rounds or (1 if options.quick else 3),
            quick=options.quick,
            dropout=options.dropout,
            precision=fast if options.precision == "auto" else options.precision,
        )
        names = options.case or (("mini", "curves") if options.quick else tuple(CASES))
        records = (fields for name in names for fields in CASES[name](setup))
        return report(NAME, options, PACKAGES, records, dropout=options.dropout)


if __name__ == "__main__":
    run_program(main)
