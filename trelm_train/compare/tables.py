"""Turn the results of runs into figures: curves with intervals, differences, time to quality, costs.

Every figure carries the folders of the runs that it was computed from.

Legend: S seeds, I items, B resamples, K budgets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from schemas.array_types import F64, I64
from schemas.bucket_copies import folder_of, local_file
from schemas.bucket_copies import joined as join_location
from schemas.buckets import location_of
from schemas.manifest import MANIFEST_NAME, Manifest
from trelm_train.compare.plan import FINAL, untrained_run
from trelm_train.compare.questions import CONSTANT_CONSISTENCY
from trelm_train.compare.run_one import ANSWERS
from trelm_train.compare.state import Comparison
from trelm_train.compare.statistics import (
    Crossing,
    Draws,
    Estimate,
    cluster_ids,
    crossing,
    crossing_interval,
    estimate,
)
from trelm_train.data.shards import Shards, open_shards

RESOURCES = ("training_s", "processor_s", "steps", "flops")
# Name, title, and what the best constant answer gets.
PARAPHRASE_MEASURES = (
    ("accuracy_mean", "Right answers over all patterns", "majority"),
    ("consistent_accuracy", "Facts that all patterns have right", "consistent_majority"),
    ("consistency", "Pairs of patterns with one answer", CONSTANT_CONSISTENCY),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """Name a measure of quality; probes have items, the others one value per run."""

    # As in `result.json`: probes/NAME, paraphrases/NAME, tasks/NAME, text/NAME or validation.
    group: str
    name: str
    title: str
    rises: bool
    # Whether it is a share, shown in per cent.
    is_share: bool
    # Of its group, what the best constant answer gets; empty where it says nothing.
    chance: str = ""

    @property
    def has_items(self) -> bool:
        """Say whether the measure is a mean over items."""
        return self.group.startswith("probes/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Hold an estimate, and the folders of the runs behind it."""

    estimate: Estimate
    folders: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeToQuality:
    """Say when an arm reaches the baseline's mean at its full budget, and what it took by then."""

    crossing: Crossing
    # Ends of the interval of the budget; None stands for never.
    low: float | None
    high: float | None
    # The first budget of the arm: what is reached there may have been reached before.
    first: float
    # Means of the arm's runs, interpolated to the crossing, and by those of the baseline's full run.
    used: dict[str, float | None]
    shares: dict[str, float | None]
    folders: tuple[str, ...]


@dataclass(kw_only=True, slots=True)
class MeasureTable:
    """Hold all figures of a measure, by (arm, budget) or by arm."""

    measure: Measure
    untrained: float | None
    # What the best constant answer gets, of a task.
    chance: float | None = None
    # Why there is no time to quality; empty where there is one.
    note: str = ""
    curves: dict[tuple[str, float], Figure] = field(default_factory=dict)
    to_baseline: dict[tuple[str, float], Figure] = field(default_factory=dict)
    to_reference: dict[tuple[str, float], Figure] = field(default_factory=dict)
    times: dict[str, TimeToQuality] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Tables:
    """Hold everything that the summary and the page show."""

    comparison: Comparison
    measures: list[MeasureTable] = field(default_factory=list)
    # (arm, budget) -> mean of each resource, None where no run says it.
    resources: dict[tuple[str, float], dict[str, float | None]] = field(default_factory=dict)
    # Finished runs in order: the untrained model, tuning, final.
    runs: list[dict[str, Any]] = field(default_factory=list)
    importance: str = ""

    @property
    def arm_names(self) -> list[str]:
        """Return the names of arms with a final run, in the order of the file."""
        with_runs = {arm for arm, _ in self.resources}
        names = [arm.name for arm in self.comparison.experiment.arms]
        return [name for name in names if name in with_runs]

    @property
    def budgets(self) -> list[float]:
        """Return the budgets, ascending."""
        return sorted(self.comparison.experiment.experiment.budgets)


class Values:
    """Read the values of final runs, measure by measure."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.results: dict[tuple[str, float], dict[int, dict[str, Any]]] = {}
        for folder, run_result in comparison.results.items():
            # Tuning runs and arms without a rate are no results.
            if run_result["role"] == FINAL and run_result["arm"] in comparison.rates:
                key = (run_result["arm"], run_result["budget"])
                self.results.setdefault(key, {})[run_result["seed"]] = {
                    **run_result,
                    "folder": folder,
                }
        self._answers: dict[str, dict[str, Any]] = {}
        self._clusters: dict[str, I64] = {}
        self._draws: dict[tuple[int, int], Draws] = {}

    def seeds(self, key: tuple[str, float]) -> list[int]:
        """Return the seeds of an arm's finished runs at a budget."""
        return sorted(self.results.get(key, {}))

    def folders(self, key: tuple[str, float]) -> tuple[str, ...]:
        """Return the folders of an arm's finished runs at a budget."""
        return tuple(self.results[key][seed]["folder"] for seed in self.seeds(key))

    def of(self, measure: Measure, key: tuple[str, float], seeds: list[int]) -> F64 | None:
        """Return the values S x I of some seeds; None where the measure is not there."""
        rows = []
        for seed in seeds:
            run_result = self.results[key][seed]
            if measure.has_items:
                rows.append(self._probes(run_result["folder"], measure.group)["is_right"])
                continue
            value = run_result["measures"].get(measure.group, {}).get(measure.name)
            if value is None:
                return None
            rows.append(np.asarray([value]))
        return np.stack(rows) if rows else None

    def clusters(self, measure: Measure) -> I64:
        """Return the number of each item's subject."""
        if not measure.has_items or not self.results:
            # One value per run: one cluster, so that seeds alone vary.
            return np.zeros(1, np.int64)
        # All runs answered the same questions in the same order: their fingerprints say it.
        first = next(iter(next(iter(self.results.values())).values()))
        if measure.group not in self._clusters:
            subjects = self._probes(first["folder"], measure.group)["subject"]
            self._clusters[measure.group] = cluster_ids(subjects.tolist())
        return self._clusters[measure.group]

    def draws(self, num_seeds: int, cluster_I: I64) -> Draws:
        """Return the resamples for a number of seeds and these clusters, the same at every call."""
        # Arms that share draws are compared on the same resamples.
        key = (num_seeds, int(cluster_I.max()) + 1)
        if key not in self._draws:
            resamples = self.comparison.experiment.experiment.resamples
            self._draws[key] = Draws.make(*key, resamples)
        return self._draws[key]

    def _probes(self, folder: str, group: str) -> dict[str, Any]:
        """Return subjects and right answers of a run by one set of probes; each file is read once."""
        if folder not in self._answers:
            table = pq.read_table(
                self.comparison.root / folder / ANSWERS, columns=["probes", "subject", "rank"]
            )
            names, subjects = (np.asarray(table[name]) for name in ("probes", "subject"))
            is_right = (table["rank"].to_numpy() <= 1).astype(np.float64)
            self._answers[folder] = {
                f"probes/{name}": {
                    "subject": subjects[names == name],
                    "is_right": is_right[names == name],
                }
                for name in np.unique(names.astype(np.str_))
            }

        answers: dict[str, Any] = self._answers[folder][group]
        return answers


def measures_of(comparison: Comparison) -> list[Measure]:
    """Return the measures that the experiment asks for, the most important first."""
    experiment = comparison.experiment
    measures = [
        Measure(group=f"probes/{probes.name}", name="p_at_1", title=f"P@1, {probes.name}", rises=True,
                is_share=True)
        for probes in experiment.test_probes
    ]  # fmt: skip

    measures += [
        Measure(group=f"paraphrases/{facts.name}", name=name, title=f"{title}, {facts.name}",
                rises=True, is_share=True, chance=chance)
        for facts in experiment.paraphrases
        for name, title, chance in PARAPHRASE_MEASURES
    ]  # fmt: skip

    measures += [
        Measure(group=f"tasks/{task.name}", name="score", title=f"F1 of {task.kind}, {task.name}",
                rises=True, is_share=True, chance="chance")
        for task in experiment.tasks
    ]  # fmt: skip

    if experiment.experiment.validation_sentences:
        measures += [
            Measure(group="validation", name=name, title=title, rises=False, is_share=False)
            for name, title in (
                ("entity_loss", "Masked-LM loss on entities, validation"),
                ("near_rare_loss", "Masked-LM loss near rare entities, validation"),
                ("loss", "Masked-LM loss, validation split"),
            )
        ]
    measures += [
        Measure(group=f"text/{text.name}", name="loss", title=f"Masked-LM loss, {text.name}",
                rises=False, is_share=False)
        for text in experiment.texts
    ]  # fmt: skip
    return measures


def make_tables(comparison: Comparison) -> Tables:
    """Compute all figures of a comparison."""
    values = Values(comparison)
    tables = Tables(comparison=comparison)
    for key in values.results:
        tables.resources[key] = _resources(list(values.results[key].values()))
    tables.measures = [
        _measure_table(values, measure, tables) for measure in measures_of(comparison)
    ]
    in_order = {"untrained": 0, "tuning": 1, "final": 2}

    # In a fixed order: workers end in another one each time, and files should not differ by it.
    rows = [{**run_result, "folder": folder} for folder, run_result in comparison.results.items()]
    tables.runs = sorted(rows, key=lambda row: (in_order[row["role"]], row["folder"]))
    tables.importance = importance_cost(comparison)
    return tables


def _resources(results: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return the mean of each resource over the runs that say it."""
    means: dict[str, float | None] = {}
    for name in RESOURCES:
        numbers = [
            value
            for run_result in results
            if (value := run_result.get(name, run_result["training"].get(name))) is not None
        ]
        means[name] = float(np.mean(numbers)) if numbers else None
    return means


def _measure_table(values: Values, measure: Measure, tables: Tables) -> MeasureTable:
    """Compute the curves of a measure, its differences and the time to quality."""
    settings = values.comparison.experiment.experiment
    cluster_I = values.clusters(measure)
    untrained = values.comparison.results.get(untrained_run().folder, {"measures": {}})
    table = MeasureTable(
        measure=measure,
        untrained=untrained["measures"].get(measure.group, {}).get(measure.name),
        chance=untrained["measures"].get(measure.group, {}).get(measure.chance),
    )
    for key in values.results:
        seeds = values.seeds(key)
        values_SI = values.of(measure, key, seeds)
        if values_SI is None:
            continue
        draws = values.draws(len(seeds), cluster_I)
        table.curves[key] = Figure(
            estimate=estimate(values_SI, cluster_I, draws), folders=values.folders(key)
        )
        for other, differences in (
            (settings.baseline, table.to_baseline),
            (settings.reference, table.to_reference),
        ):
            figure = _difference(values, measure, key, (other, key[1]))
            if figure is not None:
                differences[key] = figure

    table.note = _why_no_time(table, settings.baseline)
    for arm in tables.arm_names if not table.note else ():
        time = _time_to_quality(values, table, arm, tables)
        if time is not None:
            table.times[arm] = time
    return table


# What may be the reason, by the kind of group. Shards of a synthetic corpus have no validation split.
_WHY_NONE = {
    "validation": "; the shards may have no validation sentences",
    "paraphrases": "; every relation may have one pattern alone",
}


def _why_no_time(table: MeasureTable, baseline: str) -> str:
    """Say why no time to quality is computed for a measure; empty where one is."""
    full, measure = table.curves.get((baseline, 1.0)), table.measure
    if not table.curves:
        return (
            f"Not measured: no run has a value{_WHY_NONE.get(measure.group.partition('/')[0], '')}."
        )
    if measure.group.startswith("text/"):
        # What rises here is forgetting, no aim of training.
        return "No time to quality: a general text shows what was forgotten."
    if full is None:
        return f"No time to quality: {baseline} has no run at budget 1."
    if table.chance is not None and full.estimate.mean <= table.chance:
        return (
            f"No time to quality: the best constant answer is as good as {baseline} at budget 1, so "
            "reaching that needs no training."
        )
    sign = 1.0 if measure.rises else -1.0
    if table.untrained is None:
        return ""
    if sign * table.untrained >= sign * full.estimate.mean:
        return f"No time to quality: the untrained model is as good as {baseline} at budget 1."
    # What is reached by chance alone needs no time: without this, two arms that learn nothing
    # would get a time in half of all comparisons.
    if full.estimate.low <= table.untrained <= full.estimate.high:
        return (
            f"No time to quality: the untrained model lies in the interval of {baseline} at budget "
            "1, so that may have learned nothing here."
        )
    return ""


def _difference(
    values: Values, measure: Measure, key: tuple[str, float], other: tuple[str, float]
) -> Figure | None:
    """Estimate an arm less another one, over the seeds that both have."""
    seeds = sorted(set(values.seeds(key)) & set(values.seeds(other)))
    if key == other or not seeds:
        return None
    own_SI, other_SI = values.of(measure, key, seeds), values.of(measure, other, seeds)
    if own_SI is None or other_SI is None:
        return None
    cluster_I = values.clusters(measure)
    return Figure(
        estimate=estimate(own_SI - other_SI, cluster_I, values.draws(len(seeds), cluster_I)),
        folders=(*values.folders(key), *values.folders(other)),
    )


def _time_to_quality(
    values: Values, table: MeasureTable, arm: str, tables: Tables
) -> TimeToQuality | None:
    """Find where an arm's curve reaches the baseline's full budget; None where a mean is missing."""
    measure, baseline = table.measure, values.comparison.experiment.experiment.baseline
    full = (baseline, 1.0)
    budgets = [budget for budget in tables.budgets if (arm, budget) in table.curves]
    if full not in table.curves or not budgets:
        return None

    sign = 1.0 if measure.rises else -1.0
    # A loss falls: with its sign turned round it rises like all others.
    means = [sign * table.curves[arm, budget].estimate.mean for budget in budgets]
    target = sign * table.curves[full].estimate.mean
    place = crossing(budgets, means, target)
    low, high = _crossing_interval(values, measure, arm, budgets)

    # Read at the place of the crossing, not in proportion to the budget.
    used: dict[str, float | None] = {}
    shares: dict[str, float | None] = {}
    for name in RESOURCES:
        used[name] = place.between([tables.resources[arm, budget][name] for budget in budgets])
        whole, spent = tables.resources[full][name], used[name]
        shares[name] = spent / whole if spent is not None and whole else None
    ends = budgets[place.left : place.left + 2] if place.budget is not None else budgets
    folders = tuple(folder for budget in ends for folder in values.folders((arm, budget)))
    return TimeToQuality(
        crossing=place,
        low=low,
        high=high,
        first=budgets[0],
        used=used,
        shares=shares,
        folders=(*folders, *values.folders(full)),
    )


def _crossing_interval(
    values: Values, measure: Measure, arm: str, budgets: list[float]
) -> tuple[float | None, float | None]:
    """Return the interval of the crossing over resamples of the seeds that all runs share."""
    full = (values.comparison.experiment.experiment.baseline, 1.0)
    keys = [(arm, budget) for budget in budgets]
    # A resample draws the same seeds at every budget, or curves would jump between seeds.
    seeds = sorted(set.intersection(*(set(values.seeds(key)) for key in (*keys, full))))
    # Budgets that have no seed in common give no interval.
    if not seeds:
        return None, None
    cluster_I = values.clusters(measure)
    draws, sign = values.draws(len(seeds), cluster_I), 1.0 if measure.rises else -1.0

    means_B = []
    for key in (*keys, full):
        values_SI = values.of(measure, key, seeds)
        if values_SI is None:
            return None, None
        means_B.append(sign * draws.means(values_SI, cluster_I))
    return crossing_interval(budgets, np.stack(means_B[:-1], axis=1), means_B[-1])


def importance_cost(comparison: Comparison) -> str:
    """Say what semantic importance cost offline, which no budget includes."""
    settings = comparison.experiment.experiment
    if settings.importance_seconds:
        return f"{settings.importance_seconds:,.0f} s, as the experiment's file says"
    shards: Shards = open_shards(location_of(settings.shards))
    path = join_location(folder_of(shards.path), "importance", MANIFEST_NAME)
    try:
        manifest = Manifest.from_json(local_file(path).read_text(encoding="utf-8"), str(path))
    except (OSError, ValueError):
        return "not known: no stage importance lies beside the shards"

    if manifest.seconds:
        return f"{manifest.seconds:,.0f} s, by the manifest of stage importance"
    # A run of an older version did not count them.
    return (
        "not known: the manifest of stage importance has no seconds (experiment.importance_seconds)"
    )
