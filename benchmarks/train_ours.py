"""Our trainer, step by step: seconds per step and per component, losses, tokens."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from trelm_train.config import load_config
from trelm_train.data import loader
from trelm_train.data.prefetch import prefetch
from trelm_train.training.session import RunRequest, Session, start_run
from trelm_train.training.step import StepResult, train_step
from trelm_train.training.step_inputs import stream_step_inputs
from trelm_train.training.train import AHEAD, PLAN_NAME, route, run

WARM_STEPS = 2
PLAIN = (  # masked-LM training and nothing else: what the Trainer does
    "routing.policy=full", "facts.enabled=false", "injection.enabled=false", "memory.enabled=false",
    "cka.enabled=false",
)  # fmt: skip


def start(out: Path, request: dict[str, Any]) -> Session:
    """A session as `trelm-train run` would start it."""
    config = load_config(
        None, [*request["sets"], "train.loggers=[]", f"train.threads={request['threads']}"]
    )
    return start_run(
        RunRequest(
            shards=Path(request["shards"]), model=request["model"], out=out / "run", config=config
        )
    )


def steps_of(session: Session, count: int) -> list[tuple[float, float, StepResult]]:
    """Wall clock and processor time at the end of each step, and what it measured."""
    config, ends = session.request.config.train, []
    source = stream_step_inputs(
        session.stream,
        session.position,
        session.components.ranks,
        config.micro_batches,
        session.preparer,
    )
    with prefetch(source, depth=AHEAD) as ready:
        for _ in range(count):
            before = time.process_time()
            route(session)
            session.history["refresh_cpu_s"] = (
                session.history.get("refresh_cpu_s", 0.0) + time.process_time() - before
            )
            inputs = next(ready)
            result = train_step(session.components, inputs, session.step)
            session.position, session.step = inputs.following, session.step + 1
            ends.append((time.perf_counter(), time.process_time(), result))
    return ends


def throughput(out: Path, **request: Any) -> dict[str, Any]:
    """Take a number of steps; return seconds and tokens of those after the first two."""
    if not request.get("keep_memory", True):
        # What a run does by itself, left out for once.
        loader.keep_freed_memory = lambda: False
    torch.set_num_threads(request["threads"])
    session = start(out, request)
    ends = steps_of(session, request["steps"] + WARM_STEPS)
    (wall, cpu, _), (wall_end, cpu_end, _) = ends[WARM_STEPS - 1], ends[-1]
    return {
        "seconds": wall_end - wall,
        "cpu_seconds": cpu_end - cpu,
        "tokens": sum(result.totals.tokens for _, _, result in ends[WARM_STEPS:]),
        "places": sum(result.totals.padded for _, _, result in ends[WARM_STEPS:]),
        "steps": request["steps"],
        "parts_s": session.components.timers.seconds,
        "refresh_cpu_s": session.history["refresh_cpu_s"],
        "trained_share": session.components.trained_share,
    }


def losses(out: Path, **request: Any) -> dict[str, Any]:
    """The loss of every step."""
    torch.set_num_threads(request["threads"])
    session = start(out, request)
    return {
        "losses": [
            result.mlm_loss
            for _, _, result in steps_of(session, session.request.config.train.steps)
        ]
    }


def planned(out: Path, **request: Any) -> dict[str, Any]:
    """The plan of a short run, and the run."""
    torch.set_num_threads(request["threads"])
    config = load_config(
        None,
        [
            *request["sets"],
            "train.loggers=[]",
            "train.steps=6",
            "train.validate=false",
            "train.threads=1",
        ],
    )
    asked = RunRequest(
        shards=Path(request["shards"]), model=request["model"], out=out / "run", config=config
    )
    run(asked)
    plan = json.loads((out / "run" / PLAN_NAME).read_text(encoding="utf-8"))
    return {"planned_mb": plan["peak_memory_mb"], "plan": plan}
