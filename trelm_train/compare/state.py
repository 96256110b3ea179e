"""Hold the state of a comparison: its experiment, its folder, what is measured and what failed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError
from trelm_train.compare.experiment import Arm, Experiment
from trelm_train.compare.plan import Cost, Inputs, Run, inputs_of
from trelm_train.compare.run_one import Task
from trelm_train.training.signals import Stop

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Comparison:
    """Hold a comparison in progress: its experiment, its folder, and what is known so far."""

    experiment: Experiment
    root: Path
    inputs: Inputs
    workers: int
    keep_models: bool
    stop: Stop
    costs: dict[str, Cost] = field(default_factory=dict)
    # Arm -> budget -> the rate that its runs take.
    rates: dict[str, dict[float, float]] = field(default_factory=dict)
    # Every finished run by its folder.
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    # What failed -> why: the folder of a run, or the name of an arm that has no run.
    failures: dict[str, str] = field(default_factory=dict)
    failed_arms: dict[str, str] = field(default_factory=dict)

    @property
    def arms(self) -> list[Arm]:
        """Return the arms that have not failed."""
        return [arm for arm in self.experiment.arms if arm.name not in self.failed_arms]

    def task(self, run: Run) -> Task:
        """Return what a worker needs for a run."""
        return Task(
            experiment=self.experiment,
            run=run,
            root=self.root,
            fingerprint=self.inputs.fingerprint(run.config, run.arm),
            keep_models=self.keep_models,
        )


def open_comparison(
    experiment: Experiment, out: Path, *, workers: int, keep_models: bool, stop: Stop
) -> Comparison:
    """Open the folder of an experiment inside `out`.

    Raises:
        ConfigError: shards that are not there, or a folder that cannot be written.
    """
    if workers < 1:
        raise ConfigError(f"--workers {workers}: give 1 or more")
    # Checked before anything is written.
    inputs = inputs_of(experiment)
    root = out.resolve() / experiment.experiment.name
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{root}: cannot write there ({error.strerror}); give another --out"
        ) from error

    return Comparison(
        experiment=experiment,
        root=root,
        inputs=inputs,
        workers=workers,
        keep_models=keep_models,
        stop=stop,
    )


def fail_arm(comparison: Comparison, name: str, error: str) -> None:
    """Say that an arm has failed; the first reason is kept."""
    log.error("arm %s failed: %s", name, error)
    comparison.failed_arms.setdefault(name, error)


def failure_text(path: Path, otherwise: str) -> str:
    """Return what a file says of a failure, or something else where it is not there."""
    return path.read_text(encoding="utf-8").strip() if path.is_file() else otherwise
