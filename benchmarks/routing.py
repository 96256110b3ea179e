"""Knowledge routing: step time, attribution's cost and fidelity: `python -m benchmarks.routing
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
    Measured,
    Variant,
    common_arguments,
    emit,
    emit_all,
    machine,
    measure,
    refuse_less_than_one,
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
PACKAGES = ("trelm", "torch", "transformers", "captum", "numpy")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Sizes and places."""

    folder: Path
    model: str
    facts: int
    steps: int
    rounds: int
    dropout: float
    quick: bool


def limit(share: float, depth: float) -> float:
    """Least ratio by operations in the encoder: forward, state gradients and the selected weights'
    gradients.
    """
    return (1 + depth * (1 + 2 * share / 3)) / 3


def step_variants(setup: Setup, shape: str, tokens: int, precision: str) -> list[Variant]:
    """Full, FFN alone, masks, ours at every share and depth, forward alone."""
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
    """Our value, the limit, the peers' values, and ours relative to each."""
    peers = {name: value for name, value in values.items() if name != ours}
    return {
        "ours": values[ours],
        "limit": limit,
        "peers": peers,
        "ratio_to_limit": values[ours] / limit if limit else None,
        "ratio_to_peers": {name: values[ours] / value for name, value in peers.items()},
    }


def medians(found: Mapping[str, Measured], kind: str) -> dict[str, float]:
    """Median over the rounds of what each variant's process measured; `kind` is seconds or
    cpu_seconds.
    """
    return {
        name: statistics.median(result[kind] for result in one.results)
        for name, one in found.items()
    }


def step(setup: Setup, shape: str, tokens: int, precision: str) -> Iterator[dict[str, Any]]:
    """Time of a step with the masked-LM loss alone, relative to full training."""
    found = measure(step_variants(setup, shape, tokens, precision), setup.rounds, setup.folder)
    cpu, wall = medians(found, "cpu_seconds"), medians(found, "seconds")
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
        "rss_mb": found[OURS].rss_mb,
        "peer_rss_mb": {name: one.rss_mb for name, one in found.items() if name != OURS},
        "trained": {
            name: one.results[0]["trained"]
            for name, one in found.items()
            if not name.startswith("ours")
        },
        "tokens": found["full"].results[0]["tokens"],
        "dropout": setup.dropout,
        "runs": setup.rounds * setup.steps,
        "ok": True,
    }


def attribution(setup: Setup, shape: str) -> Iterator[dict[str, Any]]:
    """Time per fact, relative to a full training step of the same sentences (float32 both)."""
    found = measure(attribution_variants(setup, shape), setup.rounds, setup.folder)
    cpu, wall = medians(found, "cpu_seconds"), medians(found, "seconds")
    ratios = {name: seconds / cpu["step"] for name, seconds in cpu.items()}
    yield {
        "benchmark": NAME,
        "case": f"attribution_{shape}",
        "unit": "processor time of a full step of the same sentences",
        "lower_is_better": True,
        **beside(ratios, DEFAULT, None),
        "wall": {name: seconds / wall["step"] for name, seconds in wall.items()},
        "ms_per_fact": {name: 1e3 * seconds for name, seconds in cpu.items()},
        "rss_mb": found[DEFAULT].rss_mb,
        "peer_rss_mb": {name: one.rss_mb for name, one in found.items() if name != DEFAULT},
        "runs": setup.rounds,
        "ok": True,
        **skipped(attribution_variants(setup, shape)),
    }


def attribution_variants(setup: Setup, shape: str) -> list[Variant]:
    """Ours with other tokens fixed and exact, 1, 2 and 20 points, the upper half alone, bfloat16;
    and the peers.
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
    """Top-10 % overlap with the 20-step integral on a trained model, summed over the facts."""
    if not setup.model and "TRELM_KIT" not in os.environ:
        yield {
            "benchmark": NAME,
            "case": "fidelity",
            "skipped": "set TRELM_KIT to the data kit",
            "ok": True,
        }
        return
    arguments = {"model": setup.model, "facts": setup.facts}
    target = "benchmarks.routing_attribution:fidelity"
    result = run_once(Variant(name="ours", target=target, arguments=arguments), setup.folder)[
        "result"
    ]
    table = result["table"]
    least = {**dict.fromkeys(ONE_POINT, 0.93), **dict.fromkeys(TWO_POINTS, 0.97)}
    yield {
        "benchmark": NAME,
        "case": "fidelity",
        "unit": "overlap of the top 10 % of the neurons with the 20-step integral",
        **beside({name: row["top_10"] for name, row in table.items()}, ONE_POINT[0], 1.0),
        "model": setup.model or "splade-tiny-msmarco-mlm",
        **result,
        "ok": all(table[name]["top_10"] >= bound for name, bound in least.items())
        and result["completeness_worst"] <= 0.02
        and result["captum_largest_difference"] <= 1e-5,
    }


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
    """Run the cases; the exit code is 1 if the fidelity table misses its bounds."""
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
    given = parser.parse_args()
    refuse_less_than_one(parser, given, "facts", "steps", "rounds")
    with scratch_folder(given.keep) as folder:
        setup = Setup(
            folder=folder,
            model=given.model,
            facts=given.facts or (32 if given.quick else 256),
            steps=given.steps or (2 if given.quick else 5),
            rounds=given.rounds or (1 if given.quick else 3),
            dropout=given.dropout,
            quick=given.quick,
        )
        emit({"benchmark": NAME, "machine": machine(PACKAGES), "quick": given.quick})
        names = given.case or (QUICK if given.quick else tuple(CASES))
        return emit_all(fields for name in names for fields in CASES[name](setup))


if __name__ == "__main__":
    run_program(main)
