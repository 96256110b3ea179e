"""Measure the cost of every arm, each in a process of its own, where it is not known yet."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from schemas.durable import write_durably
from schemas.errors import TrelmError
from trelm_train.compare.experiment import Experiment
from trelm_train.compare.measure import measure_cost, scaled
from trelm_train.compare.plan import digest, learned_settings
from trelm_train.compare.processes import Job, become_job, run_jobs
from trelm_train.compare.state import Comparison, fail_arm, failure_text
from trelm_train.config import TRAINING_VERSION
from trelm_train.training.signals import InterruptedRun

log = logging.getLogger(__name__)
# Raised when costs are measured in another way.
# 2: steps with and without injection are timed apart.
TIMING_VERSION = 2


def measure_costs(comparison: Comparison) -> None:
    """Measure what a step of each arm costs, one arm after the other, where that is not known.

    Raises:
        TrelmError: the baseline cannot be measured.
    """
    experiment = comparison.experiment
    baseline = experiment.experiment.baseline
    names = [baseline, *(arm.name for arm in experiment.arms if arm.name != baseline)]
    base_s = 0.0
    for number, name in enumerate(names, 1):
        measured = _known_cost(comparison, name)
        if measured is None:
            log.info("timing arm %s, %d of %d", name, number, len(names))
            measured = _time_arm(comparison, name)
        if measured is None:
            continue
        if name == baseline:
            base_s = measured["step_s"]
        comparison.costs[name] = scaled(measured, base_s)
        log.info("arm %s: %.1f ms a step, %.2f of the baseline's", name,
                 1000 * comparison.costs[name].step_s, measured["ratio"])  # fmt: skip


def _timing_path(comparison: Comparison, name: str) -> Path:
    return comparison.root / "timing" / f"{name}.json"


def _timing_fingerprint(comparison: Comparison, name: str) -> str:
    """Return a fingerprint of what a cost depends on: settings of the arm and of the baseline."""
    experiment, inputs = comparison.experiment, comparison.inputs
    names = (name, experiment.experiment.baseline)
    settings = [learned_settings(experiment.config(experiment.arm(item))) for item in names]
    # As it was before arms had shards of their own.
    of_arms = [inputs.shards_of(item) for item in names]
    shards = inputs.shards if set(of_arms) == {inputs.shards} else of_arms
    return digest([settings, shards, inputs.model, TIMING_VERSION, TRAINING_VERSION])


def _known_cost(comparison: Comparison, name: str) -> dict[str, Any] | None:
    """Return a measured cost if it is there, and that of these settings."""
    try:
        measured = json.loads(_timing_path(comparison, name).read_text(encoding="utf-8"))
        is_right = measured["fingerprint"] == _timing_fingerprint(comparison, name)
        cost = dict(measured["cost"])
        return cost if is_right and {"step_s", "ratio"} <= cost.keys() else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # Torn, or of somebody else's: it is measured again.
        return None


def _time_arm(comparison: Comparison, name: str) -> dict[str, Any] | None:
    """Measure an arm in a process of its own; return nothing where it failed."""
    path = _timing_path(comparison, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    fingerprint = _timing_fingerprint(comparison, name)
    job = Job(number=0, target=time_arm, arguments=(comparison.experiment, name, path, fingerprint))
    # One at a time: arms that are timed side by side would disturb each other.
    for _, code in run_jobs([job], 1, comparison.stop):
        log.debug("timing of %s ended with %d", name, code)
    if comparison.stop.signum:
        raise InterruptedRun(
            comparison.stop.signum, "stopped while steps were timed; the same command goes on"
        )

    measured = _known_cost(comparison, name)
    if measured is None:
        error = failure_text(path.with_suffix(".failed"), "its timing ended without a word")
        if name == comparison.experiment.experiment.baseline:
            raise TrelmError(f"arm {name!r}, the baseline, cannot be timed: {error}")
        fail_arm(comparison, name, error)
    return measured


def time_arm(experiment: Experiment, name: str, path: Path, fingerprint: str) -> None:
    """Measure the cost of an arm in this process, and write it to a file; or why it failed."""
    import torch

    # The file lies in the folder `timing` of the experiment's.
    become_job(path.parent.parent)
    # As `train.threads` has it in every run.
    torch.set_num_threads(1)
    scratch, failed = path.with_suffix(".sessions"), path.with_suffix(".failed")
    failed.unlink(missing_ok=True)
    try:
        cost = measure_cost(experiment, name, scratch)
    except Exception as error:
        failed.write_text(f"{type(error).__name__}: {error}\n", encoding="utf-8")
        raise SystemExit(1) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

    write_durably(path, json.dumps({"fingerprint": fingerprint, "cost": cost}, indent=1) + "\n")
