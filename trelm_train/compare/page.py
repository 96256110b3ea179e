"""Make the page of a comparison: one file without a script, which a policy forbids to load anything.

Every figure is a link to the folder of a run, and names all runs behind it in its title.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from trelm_train.compare.charts import curve_chart, legend
from trelm_train.compare.markup import Markup, joined, table, tag
from trelm_train.compare.plan import nearest, untrained_run
from trelm_train.compare.published import NOT_COMPARABLE, published_table
from trelm_train.compare.run_one import RESULT
from trelm_train.compare.summary import (
    DASH,
    RESOURCE_TITLES,
    chance_text,
    crossing_interval_text,
    crossing_text,
    interval_text,
    method_lines,
    resource_text,
    signed_text,
    unit,
    value_text,
)
from trelm_train.compare.tables import RESOURCES, Figure, Measure, MeasureTable, Tables


def page(tables: Tables) -> str:
    """Return the whole page."""
    # The style is part of the file, so its hash in the policy allows it and no other.
    style = Markup(files(__package__).joinpath("page.css").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    # A page that someone passes on must not load or send anything.
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    name = tables.comparison.experiment.experiment.name

    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{name}: TRELM comparison"),
        tag("style", style),
    )
    sections = [
        _measure_section(tables, measure_table, number)
        for number, measure_table in enumerate(tables.measures)
    ]
    footer = tag(
        "footer", tag("p", "Made by trelm-train compare. Nothing here is loaded from elsewhere.")
    )

    main = tag(
        "main",
        _summary(tables),
        *sections,
        _resources_section(tables),
        _rates_section(tables),
        _runs_section(tables),
        _published_section(tables.comparison.experiment.experiment.published),
        footer,
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', main), lang='en')}\n"


def sourced(text: object, folders: Sequence[str]) -> Markup:
    """Return a figure that links to its first run and names all runs it was computed from."""
    # A mean has several runs, a link one target: the title names them all.
    title = "from " + ", ".join(f"{folder}/{RESULT}" for folder in folders)
    return tag("a", text, href=quote(f"{folders[0]}/{RESULT}"), title=title)


def _summary(tables: Tables) -> Markup:
    """Return title, method, failures and the list of sections."""
    experiment = tables.comparison.experiment.experiment
    failures = (
        tag("p", tag("b", f"Arm {name} failed: "), error, class_="failed")
        for name, error in tables.comparison.failed_arms.items()
    )

    links = [
        *((f"measure-{number}", item.measure.title) for number, item in enumerate(tables.measures)),
        ("resources", "What the runs took"),
        ("rates", "Rates"),
        ("runs", "Runs"),
    ]
    about = (
        f"model {experiment.model}, shards {experiment.shards}, {len(tables.runs)} finished runs"
    )
    return joined(
        (
            tag("h1", experiment.name),
            tag("p", about, class_="meta"),
            *failures,
            *(tag("p", line) for line in method_lines(tables)),
            tag("nav", *(tag("a", text, href=f"#{anchor}") for anchor, text in links),
                aria_label="Sections"),
        )
    )  # fmt: skip


def _measure_section(tables: Tables, measure_table: MeasureTable, number: int) -> Markup:
    """Return chart and tables of a measure."""
    measure, settings = measure_table.measure, tables.comparison.experiment.experiment
    title, anchor = tag("h2", unit(measure)), f"measure-{number}"
    if not measure_table.curves:
        return tag("section", title, tag("p", measure_table.note), id=anchor)
    others = ((settings.baseline, measure_table.to_baseline),
              (settings.reference, measure_table.to_reference))  # fmt: skip

    differences = [
        _difference_table(tables, measure, other, figures) for other, figures in others if figures
    ]
    return tag(
        "section",
        title,
        # tabindex: on a phone the keyboard must be able to scroll it.
        tag("figure", legend(tables), curve_chart(tables, measure_table, number), tabindex="0"),
        _untrained(measure_table),
        _curve_table(tables, measure_table),
        tag("p", measure_table.note) if measure_table.note else None,
        _time_table(measure_table) if measure_table.times else None,
        *differences,
        id=anchor,
    )


def _untrained(measure_table: MeasureTable) -> Markup | None:
    if measure_table.untrained is None:
        return None
    text = value_text(measure_table.untrained, measure_table.measure)
    figure = sourced(text, [untrained_run().folder])
    return tag("p", "Untrained model: ", figure, ".", chance_text(measure_table))


def _budget_heads(tables: Tables, first: str) -> list[str]:
    return [first, *(f"#at {budget:g}" for budget in tables.budgets)]


def _curve_table(tables: Tables, measure_table: MeasureTable) -> Markup:
    """Return means, standard deviations and intervals by arm and budget."""
    measure = measure_table.measure
    rows: list[list[object]] = []
    for arm in tables.arm_names:
        cells = [
            _mean_cell(measure_table.curves.get((arm, item)), measure) for item in tables.budgets
        ]
        rows.append([arm, *cells])
    # The name of the measure makes every caption its own: each names a region that can be scrolled.
    caption = f"{measure.title}: mean ± sd over seeds, 95 % interval below"
    return table(caption, _budget_heads(tables, "arm"), rows)


def _mean_cell(figure: Figure | None, measure: Measure) -> Markup | str:
    if figure is None:
        return DASH
    estimated = figure.estimate
    sd = "" if estimated.sd is None else f" ± {value_text(estimated.sd, measure)}"
    range_text = tag("span", interval_text(estimated, measure), class_="soft")
    return joined(
        (sourced(f"{value_text(estimated.mean, measure)}{sd}", figure.folders), range_text)
    )


def _difference_table(
    tables: Tables, measure: Measure, other: str, figures: dict[tuple[str, float], Figure]
) -> Markup:
    """Return differences to an arm, paired by seed and item."""
    rows = []
    for arm in tables.arm_names:
        cells: list[object] = []
        for budget in tables.budgets:
            figure = figures.get((arm, budget))
            if figure is None:
                cells.append(DASH)
                continue
            estimated = figure.estimate
            range_text = tag("span", interval_text(estimated, measure), class_="soft")
            cells.append(
                joined((sourced(signed_text(estimated.mean, measure), figure.folders), range_text))
            )
        # An arm less itself is 0 everywhere.
        if arm != other:
            rows.append([arm, *cells])

    how = "at the same budget, paired by seed, 95 % interval below"
    caption = f"{measure.title}: difference to {other} {how}"
    return table(caption, _budget_heads(tables, "arm"), rows)


def _time_table(measure_table: MeasureTable) -> Markup:
    """Return the time to quality of each arm."""
    rows = []
    for arm, time in measure_table.times.items():
        cells: list[object] = [
            arm,
            sourced(crossing_text(time), time.folders),
            sourced(crossing_interval_text(time), time.folders),
        ]
        for name in RESOURCES:
            share = time.shares[name]
            text = "" if share is None else f"{100 * share:.0f} % of the baseline"
            value = sourced(resource_text(name, time.used[name]), time.folders)
            cells.append(joined((value, tag("span", text, class_="soft"))))
        rows.append(cells)

    heads = ["arm", "#budget", "#95 % interval", *(f"#{name}" for name in RESOURCE_TITLES.values())]
    caption = f"{measure_table.measure.title}: time to the baseline's quality at its full budget"
    return table(caption, heads, rows)


def _resources_section(tables: Tables) -> Markup:
    """Return what every arm took at every budget, with its losses beside it."""
    # What a general text has lost stands beside what the runs took: both are costs.
    losses = [item for item in tables.measures if not item.measure.is_share]
    rows = []
    for arm in tables.arm_names:
        for budget in tables.budgets:
            used = tables.resources.get((arm, budget))
            if used is None:
                continue
            # Any measure will do: all of them come from the same runs.
            folders = next(
                item.curves[arm, budget].folders
                for item in tables.measures
                if (arm, budget) in item.curves
            )

            rate = tables.comparison.rates[arm][budget]
            cells: list[object] = [arm, f"{budget:g}", f"{rate:g}"]
            cells += [sourced(resource_text(name, used[name]), folders) for name in RESOURCES]
            for item in losses:
                figure = item.curves.get((arm, budget))
                cells.append(
                    DASH if figure is None
                    else sourced(_with_change(figure.estimate.mean, item), figure.folders)
                )  # fmt: skip
            rows.append(cells)

    heads = ["arm", "#budget", "#rate", *(f"#{name}" for name in RESOURCE_TITLES.values())]
    heads += [f"#{item.measure.title}" for item in losses]
    caption = "Means over seeds; a loss has its change from the untrained model in brackets"
    return tag(
        "section", tag("h2", "What the runs took"), table(caption, heads, rows), id="resources"
    )


def _with_change(mean: float, item: MeasureTable) -> str:
    """Return a loss, and how much it has risen: on a general text that is forgetting."""
    text = value_text(mean, item.measure)
    if item.untrained is None:
        return text
    return f"{text} ({signed_text(mean - item.untrained, item.measure)})"


def _rates_section(tables: Tables) -> Markup:
    """Return the rates that were tried, with their validation scores."""
    names = [
        probes.name for probes in tables.comparison.experiment.probes if probes.role == "validation"
    ]
    rows = []
    for run in tables.runs:
        if run["role"] != "tuning":
            continue
        # Test probes were measured in these runs too, and are not shown: no rate was chosen by them.
        scores = [run["measures"][f"probes/{name}"] for name in names]
        is_taken = _is_taken(run, tables)
        cells: list[object] = [
            run["arm"],
            f"{run['budget']:g}",
            f"{run['seed']}",
            f"{run['rate']:g}",
        ]
        cells += [sourced(f"{100 * score['p_at_1']:.1f}", [run["folder"]]) for score in scores]
        cells += [sourced(f"{score['log_p']:.3f}", [run["folder"]]) for score in scores]
        rows.append([*cells, "taken" if is_taken else ""])

    if not rows:
        body = tag("p", "Every arm has one rate; none was chosen.")
    else:
        heads = ["arm", "#budget", "#seed", "#rate", *(f"#P@1 (%), {name}" for name in names)]
        heads += [*(f"#log-probability, {name}" for name in names), ""]
        body = table("Rates tried, judged on validation probes alone", heads, rows)
    return tag("section", tag("h2", "Rates"), body, id="rates")


def _is_taken(run: dict[str, Any], tables: Tables) -> bool:
    """Say whether a budget took its rate from the tuning runs to which this one belongs."""
    tuning_budgets = tables.comparison.experiment.experiment.tuning_budgets
    rate_of_budget = tables.comparison.rates.get(run["arm"], {})
    return any(
        rate == run["rate"] and nearest(budget, tuning_budgets) == run["budget"]
        for budget, rate in rate_of_budget.items()
    )


def _published_section(name: str) -> Markup | None:
    """Return the published table that the experiment names."""
    published = published_table(name)
    if published is None:
        return None
    return tag(
        "section",
        tag("h2", f"Published: {published.title}"),
        tag("p", f"{NOT_COMPARABLE} {published.source}. {published.note}"),
        table(published.title, published.columns, published.rows),
        id="published",
    )


def _runs_section(tables: Tables) -> Markup:
    """Return every run with its own figures."""
    columns = [item.measure for item in tables.measures]
    rows = [_run_row(run, columns) for run in tables.runs]

    heads = ["run", "#steps", "#seconds", "#processor s", "#FLOPs", "#training loss"]
    heads += [f"#{unit(measure)}" for measure in columns]
    inner = table("Every finished run", heads, rows)
    return tag(
        "section",
        tag("h2", "Runs"),
        tag("details", tag("summary", f"{len(rows)} runs"), inner),
        id="runs",
    )


def _run_row(run: dict[str, Any], columns: Sequence[Measure]) -> list[object]:
    folder, training = [run["folder"]], run["training"]
    loss = training.get("loss_last")
    cells: list[object] = [
        tag("a", run["folder"], href=quote(f"{run['folder']}/"), title=f"{run['role']} run"),
        sourced(f"{run['steps']:,}", folder),
        sourced(resource_text("training_s", training.get("training_s")), folder),
        sourced(resource_text("processor_s", training.get("processor_s")), folder),
        sourced(resource_text("flops", run["flops"]), folder),
        sourced(DASH if loss is None else f"{loss:.3f}", folder),
    ]
    for measure in columns:
        value = run["measures"].get(measure.group, {}).get(measure.name)
        cells.append(sourced(value_text(value, measure), folder))
    return cells
