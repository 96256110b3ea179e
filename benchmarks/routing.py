"""Measure knowledge routing: step time, attribution's cost and fidelity: `python -m benchmarks.routing
[--quick] [--case …]`.

Goes in: nothing for the times (random weights, generated sentences with real lengths, packed); for
the fidelity table a trained model (`--model`, default the kit's) and the kit's facts (environment
variable TRELM_KIT). Comes out: one JSON object per case. Times are ratios of processor time to that
of a full step in the same run (`wall` beside them); every variant runs in processes of its own, the
rounds interleaved; a variant's time is the median over its steps.
"""

from __future__ import annotations

import functools
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
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
    ratio,
    refuse_less_than_one,
    report,
    run_once,
    run_program,
    scratch_folder,
    skipped,
)

NAME = "routing"
SHARES = (0.5, 0.25, 0.1)
DEPTHS = {"all": 1.0, "half": 0.5, "quarter": 0.25}
LAYERS = {"mini": 4, "base": 12}
OURS = "ours_.1_all"
DEFAULT = "fixed_midpoint_1"
ONE_POINT = ("midpoint 1, fixed context", "midpoint 1")
TWO_POINTS = ("gauss_legendre 2, fixed context", "gauss_legendre 2")
# Least overlap with the integral, largest gap in its sum, largest difference from captum's.
ONE_POINT_AIM, TWO_POINTS_AIM = 0.93, 0.97
COMPLETENESS_AIM, CAPTUM_AIM = 0.02, 1e-5
CAPTUM_MISSING = "pip install captum"
PACKAGES = ("trelm", "torch", "transformers", "captum", "numpy")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Hold sizes and folders."""

    folder: Path
    model: str
    facts: int
    steps: int
    rounds: int
    dropout: float
    quick: bool


def limit(share: float, depth: float) -> float:
    """Return the least ratio by operations in the encoder.

    They are the forward pass, the gradients of states and those of the selected weights.
    """
    return (1 + depth * (1 + 2 * share / 3)) / 3


def step_variants(setup: Setup, shape: str, tokens: int, precision: str) -> list[Variant]:
    """Return full, FFN alone, masks, ours at every share and depth, forward alone."""
    common = {
        "shape": shape, "tokens": tokens, "precision": precision, "dropout": setup.dropout, "steps": setup.steps
    }  # fmt: skip
    shares, depths = (
        (SHARES, DEPTHS) if not setup.quick else (SHARES[-1:], {"all": 1.0, "half": 0.5})
    )
    plain = ("full", "ffn", "forward") if not setup.quick else ("full",)
    arguments = {name: {"kind": name} for name in plain}
    arguments["masks"] = {"kind": "masks", "share": 0.1}
    for share in shares:
        for name, depth in depths.items():
            layers = round(depth * LAYERS[shape])
            arguments[f"ours_{share:g}_{name}".replace("0.", ".")] = {
                "kind": "ours",
                "share": share,
                "layers": layers,
            }
    return [
        Variant(name=name, target="benchmarks.routing_step:step", arguments={**common, **more})
        for name, more in arguments.items()
    ]


def beside(values: Mapping[str, float], ours: str, limit: float | None) -> dict[str, Any]:
    """Return our value, the limit, the peers' values, and ours relative to each."""
    peers = {name: value for name, value in values.items() if name != ours}
    return {
        "ours": values[ours],
        "limit": limit,
        "peers": peers,
        "ratio_to_limit": ratio(values[ours], limit),
        "ratio_to_peers": {name: values[ours] / value for name, value in peers.items()},
    }


def medians(by_name: Mapping[str, Measured], kind: str) -> dict[str, float]:
    """Return the median over the rounds of what each variant's process measured.

    `kind` is seconds or cpu_seconds.
    """
    return {
        name: statistics.median(result[kind] for result in measured.results)
        for name, measured in by_name.items()
    }


def step(setup: Setup, shape: str, tokens: int, precision: str) -> Iterator[dict[str, Any]]:
    """Measure a step with the masked-LM loss alone, relative to full training."""
    variants = step_variants(setup, shape, tokens, precision)
    by_name = measure(variants, setup.rounds, setup.folder)
    cpu, wall = medians(by_name, "cpu_seconds"), medians(by_name, "seconds")
    ratios = {name: seconds / cpu["full"] for name, seconds in cpu.items()}
    limits = {
        f"ours_{share:g}_{name}".replace("0.", "."): limit(share, depth)
        for share in SHARES
        for name, depth in DEPTHS.items()
    }
    yield {
        "benchmark": NAME,
        "case": f"step_{shape}_{tokens}_{precision}",
        "unit": "processor time of a full step",
        "lower_is_better": True,
        **beside(ratios, OURS, limit(0.1, 1.0)),
        "limit_is": "operations in the encoder; the head's and the optimiser's come on top",
        "limits": {name: value for name, value in limits.items() if name in ratios},
        "wall": {name: seconds / wall["full"] for name, seconds in wall.items()},
        "cpu_s": cpu,
        "rss_mb": by_name[OURS].rss_mb,
        "peer_rss_mb": {
            name: measured.rss_mb for name, measured in by_name.items() if name != OURS
        },
        "trained": {
            name: measured.results[0]["trained"]
            for name, measured in by_name.items()
            if not name.startswith("ours")
        },
        "tokens": by_name["full"].results[0]["tokens"],
        "dropout": setup.dropout,
        "runs": setup.rounds * setup.steps,
        **judged([], quick=setup.quick),
    }


def attribution(setup: Setup, shape: str) -> Iterator[dict[str, Any]]:
    """Measure the time per fact, relative to a full step of the same sentences (float32 both)."""
    variants = attribution_variants(setup, shape)
    by_name = measure(variants, setup.rounds, setup.folder)
    cpu, wall = medians(by_name, "cpu_seconds"), medians(by_name, "seconds")
    ratios = {name: seconds / cpu["step"] for name, seconds in cpu.items()}
    yield {
        "benchmark": NAME,
        "case": f"attribution_{shape}",
        "unit": "processor time of a full step of the same sentences",
        "lower_is_better": True,
        **beside(ratios, DEFAULT, None),
        "wall": {name: seconds / wall["step"] for name, seconds in wall.items()},
        "ms_per_fact": {name: 1e3 * seconds for name, seconds in cpu.items()},
        "rss_mb": by_name[DEFAULT].rss_mb,
        "peer_rss_mb": {
            name: measured.rss_mb for name, measured in by_name.items() if name != DEFAULT
        },
        "runs": setup.rounds,
        **judged([], quick=setup.quick),
        **skipped(variants),
    }


def attribution_variants(setup: Setup, shape: str) -> list[Variant]:
    """Return ours in many ways, and the peers.

    Ours has the other tokens fixed or exact, 1, 2 or 20 points, the upper half alone, bfloat16.
    """
    half = LAYERS[shape] // 2
    few = max(2, setup.facts // 32)
    fixed = {"kind": "ours", "facts": setup.facts, "context": "fixed"}
    wanted: dict[str, dict[str, Any]] = {
        "step": {"kind": "step", "facts": setup.facts},
        DEFAULT: fixed,
        "midpoint_1": {"kind": "ours", "facts": setup.facts},
        "published_20": {"kind": "published", "facts": few},
    }
    if not setup.quick:
        wanted |= {
            "fixed_midpoint_1_upper_half": {**fixed, "first_layer": half},
            "fixed_midpoint_2": {**fixed, "points": 2},
            "fixed_midpoint_1_bfloat16": {**fixed, "precision": "bfloat16"},
            "midpoint_1_upper_half": {"kind": "ours", "facts": setup.facts, "first_layer": half},
            "midpoint_2": {"kind": "ours", "facts": setup.facts, "points": 2},
            "midpoint_20": {"kind": "ours", "facts": max(8, setup.facts // 8), "points": 20},
            "step_bfloat16": {"kind": "step", "facts": setup.facts, "precision": "bfloat16"},
            "captum_20": {"kind": "captum", "facts": few},
        }
    return [
        Variant(
            name=name,
            target="benchmarks.routing_attribution:cost",
            arguments={"shape": shape, **more},
            needs="captum" if name.startswith("captum") else "",
        )
        for name, more in wanted.items()
    ]


def fidelity(setup: Setup) -> Iterator[dict[str, Any]]:
    """Measure the top-10 % overlap with the 20-step integral on a trained model, over all facts."""
    if not setup.model and "TRELM_KIT" not in os.environ:
        yield {
            "benchmark": NAME,
            "case": "fidelity",
            "skipped": {"fidelity": "set TRELM_KIT to the data kit"},
            **judged([], quick=setup.quick),
        }
        return
    arguments = {"model": setup.model, "facts": setup.facts}
    target = "benchmarks.routing_attribution:fidelity"
    result = run_once(Variant(name="ours", target=target, arguments=arguments), setup.folder)[
        "result"
    ]
    table = result["table"]
    yield {
        "benchmark": NAME,
        "case": "fidelity",
        "unit": "overlap of the top 10 % of the neurons with the 20-step integral",
        **beside({name: row["top_10"] for name, row in table.items()}, ONE_POINT[0], 1.0),
        "model": setup.model or "splade-tiny-msmarco-mlm",
        **result,
        **judged(_fidelity_aims(result), quick=setup.quick),
        **({"skipped": {"captum": CAPTUM_MISSING}} if _has_no_captum(result) else {}),
    }


def _has_no_captum(result: Mapping[str, Any]) -> bool:
    return result["captum_largest_difference"] is None


def _fidelity_aims(result: Mapping[str, Any]) -> list[Aim]:
    """Return the aims of the fidelity table, which a few facts show as well as many."""
    least = {
        **dict.fromkeys(ONE_POINT, ONE_POINT_AIM),
        **dict.fromkeys(TWO_POINTS, TWO_POINTS_AIM),
    }
    most = {
        "completeness_worst": COMPLETENESS_AIM,
        "captum_largest_difference": CAPTUM_AIM,
    }
    return [
        *(
            Aim(
                name=f"top_10.{method}", value=result["table"][method]["top_10"], at_least=bound,
                needs_full_data=False,
            )
            for method, bound in least.items()
        ),
        *(
            Aim(
                name=name, value=result[name], at_most=bound, needs_full_data=False,
                missing=CAPTUM_MISSING if name.startswith("captum") else "",
            )
            for name, bound in most.items()
        ),
    ]  # fmt: skip


CASES: dict[str, Callable[[Setup], Iterator[dict[str, Any]]]] = {
    **{
        f"step_{shape}_{tokens}_{precision}": functools.partial(
            step, shape=shape, tokens=tokens, precision=precision
        )
        for shape in LAYERS
        for tokens in (4096, 512)
        for precision in ("float32", "bfloat16")
    },
    **{f"attribution_{shape}": functools.partial(attribution, shape=shape) for shape in LAYERS},
    "fidelity": fidelity,
}
QUICK = ("step_mini_512_float32", "attribution_mini", "fidelity")


def main() -> int:
    """Run the cases and return the exit code."""
    parser = common_arguments(__doc__)
    parser.add_argument(
        "--case", action="append", choices=CASES, help="only this case; may be repeated"
    )
    parser.add_argument(
        "--model", default="", metavar="FOLDER", help="a trained masked LM (default: the kit's)"
    )
    parser.add_argument("--facts", type=int, help="attributed (default: 256; 32 with --quick)")
    parser.add_argument(
        "--steps", type=int, help="timed in each process (default: 5; 2 with --quick)"
    )
    parser.add_argument(
        "--dropout",
        type=float,
        default=0.1,
        help="of the step cases' model (default: 0.1, as BERT's)",
    )
    options = parser.parse_args()
    refuse_less_than_one(parser, options, "facts", "steps", "rounds")
    with scratch_folder(options.keep) as folder:
        setup = Setup(
            folder=folder,
            model=options.model,
            facts=options.facts or (32 if options.quick else 256),
            steps=options.steps or (2 if options.quick else 5),
            rounds=options.rounds or (1 if options.quick else 3),
            dropout=options.dropout,
            quick=options.quick,
        )
        names = options.case or (QUICK if options.quick else tuple(CASES))
        records = (fields for name in names for fields in CASES[name](setup))
        return report(NAME, options, PACKAGES, records)


if __name__ == "__main__":
    run_program(main)
