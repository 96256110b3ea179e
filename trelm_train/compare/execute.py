"""Do a comparison: measure costs, choose rates, make all runs, in parallel and resumable.

Every step leaves a file, and none is done twice: costs in `timing/`, results in `runs/`, chosen
rates in `rates.json`. What a file was made from is in its fingerprint.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError, TrelmError
from trelm_train.compare.experiment import Arm, Experiment
from trelm_train.compare.measure import measure_cost, scaled
from trelm_train.compare.plan import (
    Cost,
    Inputs,
    Run,
    digest,
    final_runs,
    inputs_of,
    learned_settings,
    nearest,
    ordered,
    tuning_runs,
    untrained_run,
)
from trelm_train.compare.processes import Job, become_job, run_jobs
from trelm_train.compare.run_one import FAILURE, RESULT, Task, work
from trelm_train.training.signals import InterruptedRun, Stop

log = logging.getLogger(__name__)
# Raised when costs are measured in another way.
TIMING_VERSION = 1
RATES = "rates.json"


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
            fingerprint=self.inputs.fingerprint(run.config),
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
    return digest([settings, inputs.shards, inputs.model, TIMING_VERSION])


def _known_cost(comparison: Comparison, name: str) -> dict[str, Any] | None:
    """Return a measured cost if it is there, and that of these settings."""
    try:
        known = json.loads(_timing_path(comparison, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_right = known.get("fingerprint") == _timing_fingerprint(comparison, name)
    return dict(known["cost"]) if is_right else None


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
        error = _failure_text(path.with_suffix(".failed"), "its timing ended without a word")
        if name == comparison.experiment.experiment.baseline:
            raise TrelmError(f"arm {name!r}, the baseline, cannot be timed: {error}")
        _fail_arm(comparison, name, error)
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

    partial = path.with_suffix(".partial")
    text = json.dumps({"fingerprint": fingerprint, "cost": cost}, indent=1) + "\n"
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _fail_arm(comparison: Comparison, name: str, error: str) -> None:
    log.error("arm %s failed: %s", name, error)
    comparison.failed_arms.setdefault(name, error)


def _failure_text(path: Path, otherwise: str) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else otherwise


def choose_rates(comparison: Comparison) -> None:
    """Try the rates of every arm that has several, and choose by the validation probes."""
    experiment = comparison.experiment
    arm_to_runs = {
        arm.name: tuning_runs(experiment, comparison.costs, arm) for arm in comparison.arms
    }
    make_runs(comparison, [run for runs in arm_to_runs.values() for run in runs], "tuning")

    scores: dict[str, Any] = {}
    for arm in comparison.arms:
        runs, rates = arm_to_runs[arm.name], experiment.rates_of(arm)
        if not runs:
            comparison.rates[arm.name] = dict.fromkeys(experiment.experiment.budgets, rates[0])
            continue
        rate_of_tuned = {}
        for budget in experiment.experiment.tuning_budgets:
            of_budget = [run for run in runs if run.budget == budget]
            ranking = rank_rates(experiment, comparison.results, of_budget)
            scores.setdefault(arm.name, {})[f"{budget:g}"] = [
                {"rate": rate, "p_at_1": score[0], "log_p": score[1]} for rate, score in ranking
            ]
            if ranking:
                rate_of_tuned[budget] = ranking[0][0]
        if len(rate_of_tuned) < len(experiment.experiment.tuning_budgets):
            errors = [comparison.failures.get(run.folder) for run in runs]
            _fail_arm(comparison, arm.name, next((text for text in errors if text), "no rate"))
            continue
        tuned = tuple(rate_of_tuned)
        comparison.rates[arm.name] = {
            budget: rate_of_tuned[nearest(budget, tuned)]
            for budget in experiment.experiment.budgets
        }
    text = json.dumps({"tried": scores, "taken": _plain(comparison.rates)}, indent=1) + "\n"
    (comparison.root / RATES).write_text(text, encoding="utf-8")


def _plain(rates: dict[str, dict[float, float]]) -> dict[str, dict[str, float]]:
    return {
        arm: {f"{budget:g}": rate for budget, rate in of_arm.items()}
        for arm, of_arm in rates.items()
    }


def rank_rates(
    experiment: Experiment, results: dict[str, dict[str, Any]], runs: Sequence[Run]
) -> list[tuple[float, tuple[float, float]]]:
    """Rank the rates of some tuning runs, the best first, each with its P@1 and log-probability.

    P@1 counts first and the log-probability breaks ties, both as means over validation probes and
    seeds. A rate of which a run failed is left out.
    """
    names = [probes.name for probes in experiment.probes if probes.role == "validation"]
    scores: dict[float, tuple[float, float]] = {}
    for rate in dict.fromkeys(run.rate for run in runs):
        folders = [run.folder for run in runs if run.rate == rate]
        if not all(folder in results for folder in folders):
            continue
        rows = [
            results[folder]["measures"][f"probes/{name}"] for folder in folders for name in names
        ]
        p_at_1, log_p = (
            sum(row[measure] for row in rows) / len(rows) for measure in ("p_at_1", "log_p")
        )
        scores[rate] = (p_at_1, log_p)
    return sorted(scores.items(), key=lambda item: item[1], reverse=True)


def make_final_runs(comparison: Comparison) -> None:
    """Make the runs that are reported, and measure the untrained model."""
    experiment, costs = comparison.experiment, comparison.costs
    runs = [untrained_run()]
    for arm in comparison.arms:
        runs += final_runs(experiment, costs, arm, comparison.rates[arm.name])
    make_runs(comparison, runs, "final")
    for run in runs:
        if run.folder in comparison.failures:
            _fail_arm(comparison, run.arm, f"{run.folder}: {comparison.failures[run.folder]}")


def make_runs(comparison: Comparison, runs: Sequence[Run], phase: str) -> None:
    """Make the runs that have no result yet; results and failures are kept in the comparison.

    Raises:
        InterruptedRun: a signal asked for the end; every run in progress has saved.
    """
    if not runs:
        return
    tasks = []
    for run in ordered(list(runs)):
        task = comparison.task(run)
        known = task.result()
        if known is None:
            tasks.append(task)
        else:
            comparison.results[run.folder] = known

    progress = Progress(phase, len(runs), [task.run.seconds for task in tasks], comparison.workers)
    progress.say_start()
    jobs = [Job(number=n, target=work, arguments=(task,)) for n, task in enumerate(tasks)]
    for job, code in run_jobs(jobs, comparison.workers, comparison.stop):
        task = tasks[job.number]
        finished = task.result()
        if finished is not None:
            comparison.results[task.run.folder] = finished
        elif comparison.stop.signum:
            continue
        else:
            error = _failure_text(task.folder / FAILURE, f"its process ended with {code}")
            comparison.failures[task.run.folder] = error
            log.error("%s failed: %s", task.run.folder, error)
        progress.say(task.run, finished)

    if comparison.stop.signum:
        raise InterruptedRun(
            comparison.stop.signum,
            f"stopped with {progress.done} of {len(runs)} {phase} runs done; what has run is kept, "
            "the same command goes on",
        )


class Progress:
    """Say what is done of how many, and how long the rest will take."""

    def __init__(self, phase: str, total: int, planned_s: Sequence[float], workers: int) -> None:
        self.phase, self.total, self.workers = phase, total, workers
        self.done = total - len(planned_s)
        self.left_s, self.done_s = sum(planned_s), 0.0
        self.start = time.monotonic()

    def say_start(self) -> None:
        """Say how many runs there are, and how many are done already."""
        planned = duration(self.left_s / self.workers)
        log.info("%s runs: %d of %d done already, at least %s for the others",
                 self.phase, self.done, self.total, planned)  # fmt: skip

    def say(self, run: Run, result: dict[str, Any] | None) -> None:
        """Say that a run has ended."""
        self.done += result is not None
        self.left_s, self.done_s = self.left_s - run.seconds, self.done_s + run.seconds
        # Loading, probing and a busy machine make a second of the plan longer.
        stretch = (time.monotonic() - self.start) / self.done_s if self.done_s else 1.0
        left = f"about {duration(self.left_s * stretch)} left" if self.left_s > 0 else "all ended"
        log.info("%s runs: %d of %d done, %s; %s: %s", self.phase, self.done, self.total, left,
                 run.folder, _scores(result))  # fmt: skip


def _scores(result: dict[str, Any] | None) -> str:
    """Return the P@1 of every set of probes in a few words."""
    if result is None:
        return f"no {RESULT}"
    return ", ".join(
        f"{name.removeprefix('probes/')} {100 * values['p_at_1']:.1f} %"
        for name, values in result["measures"].items()
        if "p_at_1" in values
    )


def duration(seconds: float) -> str:
    """Return seconds as a reader says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def describe_plan(comparison: Comparison) -> str:
    """List every run with its steps and its estimated seconds; a rate to be chosen is a question."""
    experiment, settings = comparison.experiment, comparison.experiment.experiment
    lines: list[str] = []
    total = 0.0
    for arm in comparison.arms:
        rates = experiment.rates_of(arm)
        tuning = tuning_runs(experiment, comparison.costs, arm)
        final = final_runs(
            experiment, comparison.costs, arm, dict.fromkeys(settings.budgets, rates[0])
        )
        for run in (*tuning, *final):
            # The rate of a final run is known after tuning.
            rate = f"{run.rate:g}" if run in tuning or not tuning else "chosen"
            lines.append(
                f"{run.role:7} {run.arm:28} rate {rate:8} seed {run.seed:<4} budget {run.budget:<5g}"
                f"{run.steps:8,} steps {duration(run.seconds):>8}"
            )
            total += run.seconds
    num_runs = len(lines)
    lines += [f"no runs of {name}: {error}" for name, error in comparison.failed_arms.items()]
    lines.append(
        f"{num_runs} runs, {duration(total)} of training in all, about "
        f"{duration(total / comparison.workers)} with {comparison.workers} worker(s), "
        "loading and probing not counted"
    )
    return "\n".join(lines)
