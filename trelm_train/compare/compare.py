"""Compare the arms of an experiment from its file to its page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.durable import write_durably
from schemas.errors import ConfigError, TrelmError
from schemas.listing import a_few
from trelm_train.compare.execute import choose_rates, describe_plan, make_final_runs
from trelm_train.compare.experiment import load_experiment
from trelm_train.compare.page import page
from trelm_train.compare.processes import locked
from trelm_train.compare.state import Comparison, open_comparison
from trelm_train.compare.summary import csv_text, markdown
from trelm_train.compare.tables import make_tables
from trelm_train.compare.timing import measure_costs
from trelm_train.training.signals import Stop

log = logging.getLogger(__name__)
RESULTS, SUMMARY, PAGE = "results.csv", "summary.md", "compare.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareRequest:
    """Hold what `trelm-train compare` was asked for."""

    configs: tuple[Path, ...]
    out: Path
    workers: int = 1
    keep_models: bool = False
    sets: tuple[str, ...] = ()


def compare(request: CompareRequest) -> list[Path]:
    """Make every run of the experiments, and return their pages.

    Raises:
        ConfigError: a file or an input is wrong.
        TrelmError: an arm failed; the others and the pages have been made.
    """
    pages, failures = [], []
    for comparison in _opened(request):
        with locked(comparison.root), comparison.stop.listening():
            measure_costs(comparison)
            choose_rates(comparison)
            make_final_runs(comparison)
        # A page is made also where an arm failed: it names the arm, and shows the others.
        pages.append(write_pages(comparison))
        failures += [
            f"{comparison.experiment.experiment.name}: arm {arm}: {error}"
            for arm, error in comparison.failed_arms.items()
        ]

    if failures:
        # An error in spite of the pages: a script that goes on must not take them for whole.
        raise TrelmError(
            f"{len(failures)} arm(s) failed: {a_few(failures, between='; ')}; the others are in "
            f"{a_few(pages)}; "
            "correct the cause, and the same command makes what is missing"
        )
    return pages


def plan(request: CompareRequest) -> str:
    """List the runs with estimated times; steps are timed, nothing is trained."""
    texts = []
    for comparison in _opened(request):
        with locked(comparison.root), comparison.stop.listening():
            measure_costs(comparison)
        texts.append(f"{comparison.root}\n{describe_plan(comparison)}")
    return "\n\n".join(texts)


def _opened(request: CompareRequest) -> list[Comparison]:
    """Open every experiment, so that a wrong file is refused before the first run."""
    experiments = [load_experiment(path, request.sets) for path in request.configs]
    _refuse_equal_names([item.experiment.name for item in experiments])
    # One for all experiments: a signal ends the one in progress and those that follow.
    stop = Stop()
    return [
        open_comparison(
            experiment,
            request.out,
            workers=request.workers,
            keep_models=request.keep_models,
            stop=stop,
        )
        for experiment in experiments
    ]


def _refuse_equal_names(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two experiments have the name {name!r}; give each its own")


def write_pages(comparison: Comparison) -> Path:
    """Write results, summary and page into the experiment's folder; return the page's path."""
    tables = make_tables(comparison)
    texts = {RESULTS: csv_text(tables), SUMMARY: markdown(tables), PAGE: page(tables)}
    for name, text in texts.items():
        # A browser may have the earlier page open: it sees that one or this one.
        write_durably(comparison.root / name, text)
    return comparison.root / PAGE
