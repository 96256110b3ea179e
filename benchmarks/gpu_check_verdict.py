"""Judge what a check of `gpu_check` has measured: losses beside losses, and values that JSON can hold.

A check's function returns `verdict(...)`: its figures, `aims`, `ok`, and `why`, which says what was
missed. Nothing is met by a figure that is missing or not finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Aim, judged

# What a step measures; contrast and facts are there where a run has them.
LOSSES = ("loss", "mlm_loss", "fact_loss", "cka_loss")
Step = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Hold how far losses may be apart, in nats: in the first step, and in any step.

    The first step is one forward pass. Later ones add up what AdamW makes of rounding.
    """

    first: float
    any_step: float


# On a processor another order of sums made 3e-6, and bfloat16 .009; a missing mask made .08, a learning
# rate 1 % too high .004 (docs/log.md).
TOLERANCES = {
    "float32": Tolerance(first=1e-4, any_step=5e-4),
    "bfloat16": Tolerance(first=0.02, any_step=0.03),
}


def differences(reference: Sequence[Step], losses: Sequence[Step]) -> list[float]:
    """Return the largest difference of any loss in each step; infinite where a step is missing."""
    apart = []
    for number in range(max(len(reference), len(losses))):
        if number >= min(len(reference), len(losses)):
            apart.append(math.inf)
            continue
        mine, theirs = reference[number], losses[number]
        if any((name in mine) != (name in theirs) for name in LOSSES):
            apart.append(math.inf)
            continue
        pairs = [(mine[name], theirs[name]) for name in LOSSES if name in mine]
        each = [abs(left - right) for left, right in pairs]
        # `max` would pass over a NaN.
        apart.append(max(each) if all(map(math.isfinite, each)) else math.inf)
    return apart


def loss_aims(
    name: str, reference: Sequence[Step], losses: Sequence[Step], tolerance: Tolerance
) -> list[Aim]:
    """Return the aims that losses are those of a reference."""
    apart = differences(reference, losses) or [math.inf]
    return [
        at_most(f"{name}.first_step", apart[0], tolerance.first),
        at_most(f"{name}.any_step", max(apart), tolerance.any_step),
    ]


def at_most(name: str, value: float | None, bound: float) -> Aim:
    """Return an aim that holds for small data too."""
    return Aim(name=name, value=value, at_most=bound, needs_full_data=False)


def at_least(name: str, value: float | None, bound: float) -> Aim:
    """Return an aim that holds for small data too."""
    return Aim(name=name, value=value, at_least=bound, needs_full_data=False)


def between(name: str, value: float | None, low: float, high: float) -> Aim:
    """Return an aim that holds for small data too."""
    return Aim(name=name, value=value, at_least=low, at_most=high, needs_full_data=False)


def verdict(
    aims: Sequence[Aim], errors: Mapping[str, str] | None = None, **figures: object
) -> dict[str, Any]:
    """Return figures, aims, `ok` and `why`; an error of a part counts like a missed aim."""
    fields = judged(aims, quick=False)
    missed = [
        f"{name}: {_bounds(verdict)}"
        for name, verdict in fields["aims"].items()
        if verdict["met"] is False
    ]
    failed = [f"{name}: {message}" for name, message in (errors or {}).items()]
    found = {**figures, **({"errors": dict(errors)} if errors else {}), "aims": fields["aims"]}
    return {
        **_json(found),
        "ok": not (missed or failed),
        "why": "; ".join([*failed, *missed]),
    }


def _bounds(judged_aim: Mapping[str, Any]) -> str:
    value = judged_aim["value"]
    shown = "not measured" if value is None else f"{value:.4g}"
    wanted = [
        f"wanted {name.replace('_', ' ')} {judged_aim[name]:g}"
        for name in ("at_least", "at_most")
        if name in judged_aim
    ]
    return f"{shown}, {' and '.join(wanted)}"


def _json(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Turn numbers that JSON does not have into text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return value
