"""Write the figures of a comparison as files: `results.csv`, `summary.md`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from trelm_train.compare.published import NOT_COMPARABLE, published_table
from trelm_train.compare.run_one import RESULT
from trelm_train.compare.statistics import Estimate
from trelm_train.compare.tables import RESOURCES, Measure, MeasureTable, Tables, TimeToQuality
from trelm_train.reporting.markdown import markdown_table

COLUMNS = ("role", "arm", "rate", "seed", "budget", "group", "measure", "value", "file")
RESOURCE_TITLES = {
    "training_s": "seconds",
    "processor_s": "processor s",
    "steps": "steps",
    "flops": "FLOPs",
}
DASH = "–"


def csv_text(tables: Tables) -> str:
    """Return one row per run and measure; `file` is the result that holds it."""
    out = io.StringIO()
    # Line feeds alone, as in all other files here; the module's own default is CR LF.
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in tables.runs:
        names = (run["role"], run["arm"], run["rate"], run["seed"], run["budget"])
        for group, measure, value in run_values(run):
            writer.writerow((*names, group, measure, value, f"{run['folder']}/{RESULT}"))
    return out.getvalue()


def run_values(run: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield group, name and value of everything that a run has measured."""
    for name in ("steps", "planned_s", "flops", "measuring_s"):
        yield "run", name, run[name]
    for name, value in run["training"].items():
        # The parts of the time come below, as a group of their own.
        if name != "seconds":
            yield "training", name, value
    for name, value in run["training"].get("seconds", {}).items():
        yield "seconds", name, value
    for group, values in run["measures"].items():
        for name, value in values.items():
            yield group, name, value


def value_text(value: float | None, measure: Measure) -> str:
    """Return a value of a measure as readers see it."""
    if value is None:
        return DASH
    return f"{100 * value:.1f}" if measure.is_share else f"{value:.3f}"


def signed_text(value: float, measure: Measure) -> str:
    """Return a difference with its sign."""
    text = f"{100 * value:+.1f}" if measure.is_share else f"{value:+.3f}"
    return text.replace("-", "−")


def interval_text(item: Estimate, measure: Measure) -> str:
    """Return the ends of an interval."""
    return f"{value_text(item.low, measure)} … {value_text(item.high, measure)}".replace("-", "−")


def resource_text(name: str, value: float | None) -> str:
    """Return seconds, steps or FLOPs."""
    if value is None:
        return DASH
    if name == "flops":
        return f"{value:.3g}"
    return f"{value:,.0f}" if name == "steps" or value >= 100 else f"{value:,.1f}"


def crossing_text(time: TimeToQuality) -> str:
    """Return the budget at which quality is reached."""
    crossing = time.crossing
    if crossing.budget is None:
        return "never"
    return f"{'≤ ' if crossing.is_bound else ''}{crossing.budget:.2f}"


def crossing_interval_text(time: TimeToQuality) -> str:
    """Return the interval of that budget."""
    return " … ".join(_end_text(end, time.first) for end in (time.low, time.high))


def _end_text(end: float | None, first: float) -> str:
    if end is None:
        return "never"
    return f"{'≤ ' if end <= first else ''}{end:.2f}"


def unit(measure: Measure) -> str:
    """Return the title of a measure with its unit."""
    return f"{measure.title} (%)" if measure.is_share else measure.title


def chance_text(table: MeasureTable) -> str:
    """Return what a constant answer gets, as a sentence; empty where there is none."""
    if table.chance is None:
        return ""
    return f" The best constant answer: {value_text(table.chance, table.measure)}."


def markdown(tables: Tables) -> str:
    """Return the summary."""
    experiment = tables.comparison.experiment.experiment
    lines = [f"# {experiment.name}", "", *method_lines(tables), ""]
    for name, error in tables.comparison.failed_arms.items():
        lines += [f"**Arm {name} failed:** {error}", ""]
    for table in tables.measures:
        lines += _measure_lines(tables, table)
    lines += ["## What the runs took", "", *_resource_lines(tables)]
    lines += _published_lines(experiment.published)
    return "\n".join(lines) + "\n"


def _published_lines(name: str) -> list[str]:
    """Return the published table that the experiment names."""
    published = published_table(name)
    if published is None:
        return []
    return [
        f"## Published: {published.title}", "", f"{NOT_COMPARABLE} {published.source}. {published.note}", "",
        *_table(published.columns, published.rows),
    ]  # fmt: skip


def method_lines(tables: Tables) -> list[str]:
    """Say how the figures came about, in a few sentences."""
    experiment = tables.comparison.experiment.experiment
    seeds = ", ".join(map(str, experiment.seeds))
    lines = [
        f"Budgets are shares of the seconds of {experiment.baseline} in {experiment.steps:,} steps; "
        "an arm gets as many steps as fit, by its own measured cost, refreshes of neurons, memory "
        "and injection included. Every budget has a whole schedule of its own.",
        f"Means over seeds {seeds}; sd over seeds. Intervals are 95 % bootstrap over seeds and "
        f"subjects of items. Differences are paired by seed and item. {_how_rates_came(tables)}",
        "Time to quality: the smallest budget at which an arm's mean reaches that of "
        f"{experiment.baseline} at budget 1, linear between budgets; ≤ where the first budget "
        "reaches it already, at the ends of intervals too. There is none where the untrained "
        "model lies in the baseline's interval.",
        "FLOPs: 2 m k n for each matrix product, forward, backward and attribution, counted on "
        "real steps. Processor seconds are of a run's whole process, loading and saving included.",
        f"Semantic importance, offline and in no budget: {tables.importance}.",
    ]

    if len(experiment.seeds) == 1:
        lines.append("One seed only: intervals say nothing about other seeds.")
    return lines


def _how_rates_came(tables: Tables) -> str:
    """Say of which arms the rates were chosen, and of which they were given."""
    experiment = tables.comparison.experiment
    given = [arm.name for arm in experiment.arms if len(experiment.rates_of(arm)) == 1]
    if not given:
        return "Rates were chosen on validation probes, with other seeds."
    if len(given) == len(experiment.arms):
        return "Rates were given, none was chosen."
    return (
        "Rates were chosen on validation probes, with other seeds; given were those of "
        f"{', '.join(given)}."
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [*markdown_table(heads, rows), ""]


def _measure_lines(tables: Tables, table: MeasureTable) -> list[str]:
    """Return the tables of a measure: curves, differences at the full budget, time to quality."""
    measure, settings = table.measure, tables.comparison.experiment.experiment
    lines = [f"## {unit(measure)}", ""]
    if not table.curves:
        return [*lines, table.note, ""]
    lines += [f"Untrained model: {value_text(table.untrained, measure)}.{chance_text(table)}", ""]
    rows = []
    for arm in tables.arm_names:
        cells: list[str] = [arm]
        for budget in tables.budgets:
            figure = table.curves.get((arm, budget))
            if figure is None:
                cells.append(DASH)
                continue
            spread = figure.estimate.sd
            sd = "" if spread is None else f" ± {value_text(spread, measure)}"
            cells.append(f"{value_text(figure.estimate.mean, measure)}{sd}")
        rows.append(cells)
    lines += _table(["arm", *(f"at {budget:g}" for budget in tables.budgets)], rows)

    others = [(settings.baseline, table.to_baseline), (settings.reference, table.to_reference)]
    for other, differences in others:
        rows = [
            [
                arm,
                *(
                    f"{signed_text(item.mean, measure)} ({interval_text(item, measure)})"
                    if (item := _estimate(differences, arm, budget))
                    else DASH
                    for budget in tables.budgets
                ),
            ]
            for arm in tables.arm_names
            if arm != other
        ]
        # Without a reference arm there is no second table.
        if differences:
            heads = [f"less {other}", *(f"at {budget:g}" for budget in tables.budgets)]
            lines += _table(heads, rows)
    return lines + _time_lines(table)


def _estimate(
    differences: dict[tuple[str, float], Any], arm: str, budget: float
) -> Estimate | None:
    figure = differences.get((arm, budget))
    return figure.estimate if figure is not None else None


def _time_lines(table: MeasureTable) -> list[str]:
    """Return the table of the time to quality."""
    rows = [
        [
            arm,
            crossing_text(time),
            crossing_interval_text(time),
            *(resource_text(name, time.used[name]) for name in RESOURCES),
        ]
        for arm, time in table.times.items()
    ]
    heads = ["time to quality", "budget", "95 %", *RESOURCE_TITLES.values()]
    return _table(heads, rows) if rows else [table.note, ""]


def _resource_lines(tables: Tables) -> list[str]:
    """Return what each arm took at each budget."""
    rows = []
    for arm in tables.arm_names:
        for budget in tables.budgets:
            used = tables.resources.get((arm, budget))
            if used is not None:
                rate = tables.comparison.rates[arm][budget]
                cells = (resource_text(name, used[name]) for name in RESOURCES)
                rows.append([arm, f"{budget:g}", f"{rate:g}", *cells])
    return _table(["arm", "budget", "rate", *RESOURCE_TITLES.values()], rows)
