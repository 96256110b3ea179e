"""List the checks of `gpu_check` in their order, with sizes, usual times and limits.

The cheap ones that say most come first. A usual time is a guess: none has been run on a GPU. It
decides only whether a check is begun when little time is left.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Judge = Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]]], dict[str, Any]]
RUNS, SPEED, FACTS = (f"benchmarks.gpu_check_{name}" for name in ("runs", "speed", "facts"))

BFLOAT16, VARLEN, COMPILED = (
    "train.precision=bfloat16", "train.attention=varlen", "train.compile=true",
)  # fmt: skip
PLAIN = ("facts.enabled=false", "routing.policy=full", "cka.enabled=false")
INJECTED = ("injection.enabled=true", "injection.policy=all", "cka.enabled=false")
BANK = (*INJECTED, "memory.enabled=true", "memory.storage=device")
CONTRAST = ("cka.enabled=true", "routing.policy=full")
ROUTED = (
    "routing.policy=ig",
    "routing.refresh_every=3",
    "routing.probe_facts=16",
    "cka.enabled=false",
)
# Settings of arms; each is compared with the processor in float32.
ARMS = {
    "losses": {
        "float32": PLAIN,
        "bfloat16": (*PLAIN, BFLOAT16),
        "bfloat16_varlen": (*PLAIN, BFLOAT16, VARLEN),
        "facts_bfloat16": ("routing.policy=full", BFLOAT16),
    },
    "injection": {"float32": INJECTED, "bfloat16": (*INJECTED, BFLOAT16)},
    "device_bank": {"float32": BANK, "bfloat16": (*BANK, BFLOAT16)},
    "contrast": {
        "head": CONTRAST,
        "head_bfloat16": (*CONTRAST, BFLOAT16),
        "projection": (*CONTRAST, "cka.form=projection"),
        "decoder": (*CONTRAST, "cka.form=decoder"),
    },
    "routing": {
        "ig": ROUTED,
        "ig_bfloat16": (*ROUTED, BFLOAT16),
        "ffn_all": ("routing.policy=ffn_all", "routing.layer_budget=-1", BFLOAT16),
    },
    "compiled": {
        "float32": (*PLAIN, COMPILED),
        "bfloat16_varlen": (*PLAIN, BFLOAT16, VARLEN, COMPILED),
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Check:
    """Name a function that checks one thing, and say how long it may take."""

    name: str
    # "module:function", see benchmarks.child
    target: str
    arguments: Mapping[str, Any]
    usual_s: float
    limit_s: float
    # Why it cannot be run here.
    skip: str = ""
    # Adds to its record what follows from it and from earlier ones.
    judge: Judge | None = None
    is_first: bool = False


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Hold how large everything is."""

    # Of the runs whose losses are compared.
    compared: Mapping[str, Any]
    steps: int
    # Of speed and memory.
    speed: Mapping[str, Any]
    timed_steps: int
    # Of the Trainer's batches, tried.
    trainer_rows: Sequence[int]
    mentions: int
    facts: Mapping[str, Any]
    # Of our tokens/s over the Trainer's; 0 where small data says nothing about speed.
    least_over_trainer: float
    # Of a usual time on a GPU.
    time_share: float


SIZES = {
    "full": Sizes(
        compared={"shape": "mini", "vocabulary": 30_522, "sentences": 2_000, "batch_tokens": 4_096},
        steps=8,
        speed={"shape": "base", "vocabulary": 30_522, "sentences": 20_000, "batch_tokens": 32_768},
        timed_steps=20,
        trainer_rows=[128, 512, 1024],
        mentions=400,
        facts={
            "shape": "base", "subjects": [60, 120], "warm_up": {"steps": 400, "rate": 2e-4, "spread": 0.03},
            "steps": 120, "must_learn": True,
        },
        least_over_trainer=1.0,
        time_share=1.0,
    ),
    "small": Sizes(
        compared={"shape": "tiny", "vocabulary": 600, "sentences": 160, "batch_tokens": 512},
        steps=4,
        speed={"shape": "tiny", "vocabulary": 600, "sentences": 160, "batch_tokens": 512},
        timed_steps=1,
        trainer_rows=[8],
        mentions=20,
        facts={
            "shape": "tiny", "subjects": [24, 12], "warm_up": {"steps": 5}, "steps": 2, "must_learn": False,
        },
        least_over_trainer=0.0,
        time_share=0.1,
    ),
}  # fmt: skip


def planned_checks(device: str, sizes: Sizes, data: str) -> list[Check]:
    """Return all checks in their order."""
    compared = {"device": device, "steps": sizes.steps, "sizes": {**sizes.compared, "data": data}}
    speed = {"device": device, "steps": sizes.timed_steps, "sizes": {**sizes.speed, "data": data}}
    importance = {"device": device, "mentions": sizes.mentions, "sizes": speed["sizes"]}
    on_processor = "" if device == "cuda" else "a processor gains nothing by it"
    no_trainer = "" if importlib.util.find_spec("accelerate") else "pip install accelerate"

    def check(name: str, target: str, usual_s: float, **more: Any) -> Check:  # noqa: ANN401
        usual_s *= sizes.time_share
        # Of four times its usual time, and enough to load torch on a busy machine.
        return Check(
            name=name, target=target, usual_s=usual_s, limit_s=max(90.0, 4 * usual_s), **more
        )

    def losses(name: str, usual_s: float) -> Check:
        return check(name, f"{RUNS}:compare", usual_s, arguments={**compared, "arms": ARMS[name]})

    def ours(name: str, arms: Mapping[str, Sequence[str]], usual_s: float, **more: Any) -> Check:  # noqa: ANN401
        return check(name, f"{SPEED}:ours", usual_s, arguments={**speed, "arms": arms}, **more)

    return [
        check("environment", f"{SPEED}:environment", 10, arguments={"device": device}, is_first=True),
        check("attention", f"{RUNS}:attention", 10, arguments={"device": device, "sentences": 200}),
        losses("losses", 30),
        losses("injection", 20),
        losses("device_bank", 20),
        losses("contrast", 30),
        losses("routing", 30),
        check("resume", f"{RUNS}:resume", 30, arguments=compared),
        check("one_rank", f"{RUNS}:one_rank", 30, arguments=compared),
        check("importance", f"{SPEED}:importance", 40, arguments=importance),
        ours("speed", {"sdpa": [], "varlen": [VARLEN]}, 40),
        check(
            "speed_trainer", f"{SPEED}:trainer", 40, arguments={**speed, "rows": sizes.trainer_rows}, skip=no_trainer,
            judge=functools.partial(beside_ours, least=sizes.least_over_trainer),
        ),
        check("speed_limit", f"{SPEED}:limit", 20, arguments=speed, judge=beside_ours),
        check("memory", f"{SPEED}:memory", 30, arguments={**speed, "steps": 4}),
        check("facts", f"{FACTS}:facts", 120, arguments={"device": device, **sizes.facts}),
        losses("compiled", 90),
        ours("speed_compiled", {"sdpa": [COMPILED], "varlen": [VARLEN, COMPILED]}, 90, skip=on_processor),
    ]  # fmt: skip


def beside_ours(
    record: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]], least: float = 0.0
) -> dict[str, Any]:
    """Return our tokens/s over those of a record, and our share of what the device multiplies.

    Our faster way has to reach `least` times the record's best. Nothing is judged where there is no
    speed of ours, or where the record has failed anyway.
    """
    speed = next((one for one in earlier if one["check"] == "speed"), {})
    ours, theirs = speed.get("tokens_per_s", {}), record.get("tokens_per_s", {})
    found: dict[str, Any] = {
        "ours_over_it": {
            way: {name: rate / other for name, other in theirs.items()}
            for way, rate in ours.items()
        }
    }
    if not ours:
        found["why"] = "speed did not run: there is nothing to put beside it"
    elif theirs and max(ours.values()) < least * max(theirs.values()):
        best = max(ours.values()) / max(theirs.values())
        found |= {"ok": False, "why": f"ours_over_it: {best:.3g}, wanted at least {least:g}"}
    if "flops_per_token" in record:
        peak = record["peak_tflops"] * 1e12
        found["flops_utilisation"] = {
            way: rate * record["flops_per_token"] / peak for way, rate in ours.items()
        }
    return found
