"""Do a comparison after its costs are known: choose rates, make all runs, in parallel and resumable.

Every step leaves a file, and none is done twice: results in `runs/`, chosen rates in `rates.json`.
What a file was made from is in its fingerprint.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from typing import Any

from schemas.durable import write_durably
from trelm_train.compare.experiment import Experiment
from trelm_train.compare.plan import (
    Run,
    final_runs,
    nearest,
    ordered,
    tuning_runs,
    untrained_run,
)
from trelm_train.compare.processes import Job, run_jobs
from trelm_train.compare.run_one import FAILURE, RESULT, work
from trelm_train.compare.state import Comparison, fail_arm, failure_text
from trelm_train.training.signals import InterruptedRun

log = logging.getLogger(__name__)
RATES = "rates.json"


def choose_rates(comparison: Comparison) -> None:
    """Try the rates of every arm that has several, and choose by the validation probes."""
    experiment = comparison.experiment
    arm_to_runs = {
        arm.name: tuning_runs(experiment, comparison.costs, arm) for arm in comparison.arms
    }
    make_runs(comparison, [run for runs in arm_to_runs.values() for run in runs], "tuning")

    # Every arm takes for a budget the best rate of the tuning budget that is nearest to it.
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
            # A budget without any rate: the first reason that is known stands for all.
            errors = [comparison.failures.get(run.folder) for run in runs]
            fail_arm(comparison, arm.name, next((text for text in errors if text), "no rate"))
            continue
        tuned = tuple(rate_of_tuned)
        comparison.rates[arm.name] = {
            budget: rate_of_tuned[nearest(budget, tuned)]
            for budget in experiment.experiment.budgets
        }

    # For readers alone; a comparison that goes on reads the results again.
    text = json.dumps({"tried": scores, "taken": _plain(comparison.rates)}, indent=1) + "\n"
    write_durably(comparison.root / RATES, text)


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
        # Over other seeds its mean could not be compared with those of the other rates.
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
    # The other runs of a failed arm are shown all the same; a difference pairs common seeds.
    for run in runs:
        if run.folder in comparison.failures:
            fail_arm(comparison, run.arm, f"{run.folder}: {comparison.failures[run.folder]}")


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
        earlier_result = task.result()
        if earlier_result is None:
            tasks.append(task)
        else:
            comparison.results[run.folder] = earlier_result

    progress = Progress(phase, len(runs), [task.run.seconds for task in tasks], comparison.workers)
    progress.say_start()
    jobs = [Job(number=n, target=work, arguments=(task,)) for n, task in enumerate(tasks)]
    for job, code in run_jobs(jobs, comparison.workers, comparison.stop):
        task = tasks[job.number]
        finished = task.result()
        if finished is not None:
            comparison.results[task.run.folder] = finished
        # It saved and ended because it was told to, and has not failed.
        elif comparison.stop.signum:
            continue
        else:
            error = failure_text(task.folder / FAILURE, f"its process ended with {code}")
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

    def say(self, run: Run, run_result: dict[str, Any] | None) -> None:
        """Say that a run has ended."""
        self.done += run_result is not None
        self.left_s, self.done_s = self.left_s - run.seconds, self.done_s + run.seconds
        # Loading, probing and a busy machine make a second of the plan longer.
        stretch = (time.monotonic() - self.start) / self.done_s if self.done_s else 1.0
        left = f"about {duration(self.left_s * stretch)} left" if self.left_s > 0 else "all ended"
        log.info("%s runs: %d of %d done, %s; %s: %s", self.phase, self.done, self.total, left,
                 run.folder, _scores(run_result))  # fmt: skip


# The measure of a group that is said as soon as a run has ended.
SAID = {"probes": "p_at_1", "paraphrases": "accuracy_mean", "tasks": "score"}


def _scores(run_result: dict[str, Any] | None) -> str:
    """Return how much of every set of questions is right, in a few words."""
    if run_result is None:
        return f"no {RESULT}"
    said = []
    for group, values in run_result["measures"].items():
        kind, _, name = group.partition("/")
        if kind in SAID:
            said.append(f"{name} {100 * values[SAID[kind]]:.1f} %")
    return ", ".join(said)


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
        # Any rate will do here: it changes neither steps nor seconds.
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

    # Counted before the lines that are no runs.
    num_runs = len(lines)
    lines += [f"no runs of {name}: {error}" for name, error in comparison.failed_arms.items()]
    lines.append(
        f"{num_runs} runs, {duration(total)} of training in all, about "
        f"{duration(total / comparison.workers)} with {comparison.workers} worker(s), "
        "loading and probing not counted"
    )
    return "\n".join(lines)
