"""Measure what a step of each arm costs, side by side with the baseline.

An arm and the baseline take turns in one process of one thread, a few steps each, round after
round, so that all other work of the machine falls on both. The ratio of their medians counts: the
baseline's own seconds are measured once. Processor time on a processor, the wall clock on a GPU.
The first steps are left out, because they allocate. One choice of neurons is timed apart, and so are
steps with and without injection where it ends early.

FLOPs are counted on real steps by torch's counter: 2 m k n for each matrix product of forward,
backward and attribution, as far as it is computed at all; element by element work is not counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from schemas.buckets import location_of
from trelm_train.compare.experiment import Experiment
from trelm_train.compare.plan import Cost
from trelm_train.config import Config
from trelm_train.training.session import RunRequest, Session, prepare_run
from trelm_train.training.step import train_step
from trelm_train.training.step_inputs import StepInputs, stream_step_inputs
from trelm_train.training.train import route

WARM_UP_STEPS = 2
# Times that neurons are chosen to time a choice.
REFRESHES = 3


@dataclass(slots=True)
class _Timed:
    """Hold a session in progress, its stream of inputs, and the clock that times it."""

    session: Session
    inputs: Iterator[StepInputs]
    clock: Callable[[], float]

    def steps(self, count: int) -> float:
        """Take some steps and return the mean seconds of one."""
        start = self.clock()
        for _ in range(count):
            inputs = next(self.inputs)
            train_step(self.session.components, inputs, self.session.step)
            # What `run` does between two steps, without its logs and checkpoints.
            self.session.position = inputs.following
            self.session.step += 1
        return (self.clock() - start) / count

    def refresh(self) -> float:
        """Choose neurons as before the first step, and return the seconds it took."""
        # Neurons are due at step 0, however far the session is.
        start, step = self.clock(), self.session.step
        self.session.step = 0
        route(self.session)
        self.session.step = step
        return self.clock() - start


@dataclass(frozen=True, slots=True)
class _Phase:
    """Hold the session of a part of a run, and the part's share of the steps."""

    share: float
    timed: _Timed


def measure_cost(experiment: Experiment, name: str, folder: Path) -> dict[str, Any]:
    """Return the cost of an arm, and `ratio`, its seconds by the baseline's, as plain values.

    Args:
        experiment: the experiment.
        name: the arm.
        folder: a folder for what sessions write; it is made.
    """
    settings = experiment.experiment
    # The baseline is an arm too, and then there is nothing to take turns with.
    names = list(dict.fromkeys((settings.baseline, name)))
    phases = {item: _open_phases(experiment, item, folder / item) for item in names}
    for phase in chain.from_iterable(phases.values()):
        phase.timed.refresh()
        phase.timed.steps(WARM_UP_STEPS)

    seconds: dict[str, list[float]] = {item: [] for item in names}
    for _ in range(settings.timing_rounds):
        for item, of_arm in phases.items():
            of_phases = [phase.share * phase.timed.steps(settings.timing_steps) for phase in of_arm]
            seconds[item].append(sum(of_phases))
    step_s, base_s = (statistics.median(seconds[item]) for item in (name, settings.baseline))

    routing = experiment.config(experiment.arm(name)).routing
    arm = phases[name][0].timed
    has_router = arm.session.router is not None
    refresh_s = statistics.median(arm.refresh() for _ in range(REFRESHES)) if has_router else 0.0
    cost = Cost(
        step_s=step_s,
        refresh_s=refresh_s,
        refresh_every=routing.refresh_every if routing.policy == "ig" else 0,
        step_flops=sum(phase.share * step_flops(phase.timed) for phase in phases[name]),
        refresh_flops=count_flops(arm.refresh) if has_router else 0.0,
    )
    return {**asdict(cost), "ratio": step_s / base_s}


def step_flops(timed: _Timed) -> float:
    """Return the FLOPs of one step, the mean of two."""
    return count_flops(lambda: timed.steps(2)) / 2


def phases_of(config: Config) -> list[tuple[float, Config]]:
    """Return the parts of a run whose steps do the same work: their shares, and their settings.

    Injection may end early. The few steps that are timed would all fall on one side of its end.
    """
    injection = config.injection
    if not injection.enabled or injection.until in (0.0, 1.0):
        return [(1.0, config)]
    return [
        (share, replace(config, injection=replace(injection, until=until)))
        for share, until in ((injection.until, 1.0), (1 - injection.until, 0.0))
    ]


def _open_phases(experiment: Experiment, name: str, folder: Path) -> list[_Phase]:
    """Open a session for each part of an arm's run, ready for its first step."""
    settings = experiment.experiment
    # Enough that no schedule ends while steps are timed.
    steps = WARM_UP_STEPS + settings.timing_rounds * settings.timing_steps + 3
    config = _in_memory(experiment.config(experiment.arm(name), steps=steps))
    return [
        _Phase(share, _open(experiment, name, of_phase, folder / f"{number}"))
        for number, (share, of_phase) in enumerate(phases_of(config))
    ]


def _open(experiment: Experiment, name: str, config: Config, folder: Path) -> _Timed:
    """Open a session of an arm, ready for its first step."""
    settings = experiment.experiment
    folder.mkdir(parents=True, exist_ok=True)
    session = prepare_run(
        RunRequest(
            shards=location_of(experiment.shards_of(name)),
            model=settings.model,
            out=folder,
            config=config,
        )
    )
    inputs = stream_step_inputs(
        session.stream,
        session.position,
        session.components.ranks,
        config.train.micro_batches,
        session.preparer,
    )

    # A GPU works while the processor waits, so only the wall clock sees it.
    is_gpu = session.components.model.device.type == "cuda"
    return _Timed(session, inputs, time.perf_counter if is_gpu else time.process_time)


def _in_memory(config: Config) -> Config:
    """Return the settings with the notes in main memory: the session is thrown away."""
    return replace(config, memory=replace(config.memory, storage="ram"))


def scaled(measured: dict[str, Any], baseline_step_s: float) -> Cost:
    """Return an arm's cost in seconds of the baseline's own measurement.

    The machine may have been faster or slower while this arm was timed.
    """
    values = dict(measured)
    ratio = values.pop("ratio")
    # A refresh was timed in the same process, so the same factor corrects it.
    refresh_s = values["refresh_s"] * ratio * baseline_step_s / values["step_s"]
    return Cost(**{**values, "step_s": ratio * baseline_step_s, "refresh_s": refresh_s})


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Add up the FLOPs of matrix products inside a `with` block.

    Torch's own counter follows modules as well, which attribution's way to call autograd forbids;
    its formulas are used here.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an operator of torch
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call an operator, and count what it computes."""
        outcome = func(*args, **(kwargs or {}))
        # The kernel's own formula first: torch's registry has none for it on processors.
        packet = func.overloadpacket
        if packet in _ATTENTION:
            self.total += _ATTENTION[packet](*args)
        elif packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=outcome)
        return outcome


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: object) -> int:
    """Count the two products of an attention: scores, and the mixture of values."""
    *batch, num_queries, size = query.shape
    return 2 * prod(batch) * num_queries * key.shape[-2] * (size + value.shape[-1])


def _attention_backward_flops(
    _gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object
) -> int:
    """Count the five products of its backward pass: scores again, and four gradients."""
    *batch, num_queries, size = query.shape
    return 2 * prod(batch) * num_queries * key.shape[-2] * (3 * size + 2 * value.shape[-1])


# Torch's formulas lack the attention kernel of processors.
_ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def count_flops(work: Callable[[], object]) -> float:
    """Return the FLOPs of all matrix products that some work does."""
    with FlopCounter() as counter:
        work()
    return float(counter.total)
