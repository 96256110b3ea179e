"""Draw a measure against the budget, one line per arm, with intervals. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trelm_train.compare.markup import Markup, tag
from trelm_train.compare.summary import interval_text, unit, value_text
from trelm_train.compare.tables import Figure, Measure, MeasureTable, Tables

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 380, 64, 18, 30, 50
# Colours of the page's style; a second round of arms has dashes.
NUM_COLOURS = 8
# Between the points of arms at the same budget, so that whiskers do not hide each other.
SHIFT = 3.0


def colour_class(number: int) -> str:
    """Return the classes of the n-th arm's line."""
    dashed = " dashed" if number >= NUM_COLOURS else ""
    return f"arm-{number % NUM_COLOURS}{dashed}"


def curve_chart(tables: Tables, measure_table: MeasureTable, number: int) -> Markup:
    """Return the chart of a measure; `number` keeps its elements apart from those of other charts."""
    measure = measure_table.measure
    low, high = _range(measure_table)
    title_id = f"chart-{number}-title"

    def x(budget: float) -> float:
        return round(LEFT + budget * (WIDTH - LEFT - RIGHT - 20), 1)

    def y(value: float) -> float:
        share = (value - low) / (high - low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)

    elements = [tag("title", f"{unit(measure)} by budget", id=title_id)]
    elements += _axes(tables, measure, x, y, (low, high))
    if measure_table.untrained is not None:
        level = y(measure_table.untrained)
        elements.append(tag("line", class_="limit", x1=LEFT, x2=WIDTH - RIGHT, y1=level, y2=level))
        elements.append(tag("text", "untrained", class_="tick", x=LEFT + 6, y=level - 5))

    # The line of each arm, moved a little to the side by its place among the arms.
    for place, arm in enumerate(tables.arm_names):
        shift = SHIFT * (place - (len(tables.arm_names) - 1) / 2)
        points = [
            (x(budget) + shift, y(figure.estimate.mean), figure, budget)
            for budget in tables.budgets
            if (figure := measure_table.curves.get((arm, budget))) is not None
        ]
        elements.append(_line(arm, place, points, y, measure))
    return tag(
        "svg", *elements, class_="chart", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
        aria_labelledby=title_id,
    )  # fmt: skip


def _range(measure_table: MeasureTable) -> tuple[float, float]:
    """Return the lowest and the highest value that the chart shows, with some room."""
    # The untrained model's line must be inside the chart too.
    values = [] if measure_table.untrained is None else [measure_table.untrained]
    for figure in measure_table.curves.values():
        values += [figure.estimate.low, figure.estimate.high, figure.estimate.mean]
    if measure_table.measure.is_share:
        # Shares are read as heights, so their axis begins at 0; losses differ too little for that.
        values.append(0.0)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    # All values may be equal, and a range of 0 has no scale.
    room = 0.05 * (high - low) or 0.5
    return (low if measure_table.measure.is_share else low - room), high + room


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers between two values."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    # The smallest round step that is not below it; rounding must not skip the right one.
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw - 1e-12)
    # Multiples of the step, not sums of it: sums would gather rounding errors.
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(
    tables: Tables, measure: Measure, x: object, y: object, ends: tuple[float, float]
) -> list[Markup]:
    """Return grid, ticks and names of both axes."""
    assert callable(x)
    assert callable(y)
    floor = HEIGHT - BOTTOM
    elements = []
    for value in ticks(*ends):
        level = y(value)
        elements.append(tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=level, y2=level))
        text = f"{100 * value:g}" if measure.is_share else f"{value:g}"
        elements.append(tag("text", text, class_="tick end", x=LEFT - 8, y=level + 4))
    for budget in tables.budgets:
        elements.append(tag("text", f"{budget:g}", class_="tick mid", x=x(budget), y=floor + 18))

    baseline = tables.comparison.experiment.experiment.baseline
    name = f"budget: share of the seconds of {baseline}"
    elements += [
        tag("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=floor, y2=floor),
        tag("text", name, class_="name mid", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 8),
        tag("text", unit(measure), class_="name", x=4, y=14),
    ]
    return elements


def _line(
    arm: str,
    place: int,
    points: Sequence[tuple[float, float, Figure, float]],
    y: object,
    measure: Measure,
) -> Markup:
    """Return the line of an arm with its marks and whiskers; a mark says its values and runs."""
    assert callable(y)
    # Straight lines: nothing is known between two budgets.
    path = "M" + "L".join(f"{left:g},{top:g}" for left, top, _, _ in points)
    elements: list[Markup] = [tag("path", class_="curve", d=path)] if points else []
    for left, top, figure, budget in points:
        estimated = figure.estimate
        elements.append(
            tag(
                "line",
                class_="whisker",
                x1=left,
                x2=left,
                y1=y(estimated.low),
                y2=y(estimated.high),
            )
        )

        # A title is what a pointer that rests on the mark shows, without a script.
        text = (
            f"{arm} at {budget:g}: {value_text(estimated.mean, measure)} "
            f"({interval_text(estimated, measure)})\n" + "\n".join(figure.folders)
        )
        elements.append(tag("circle", tag("title", text), class_="mark", cx=left, cy=top, r=4.5))
    return tag("g", *elements, class_=colour_class(place))


def legend(tables: Tables) -> Markup:
    """Return the colours of the arms."""
    keys = (
        tag(
            "span",
            tag(
                "svg",
                tag("path", class_="curve", d="M0,6L26,6"),
                class_=f"key {colour_class(number)}",
                viewBox="0 0 26 12",
                aria_hidden="true",
            ),
            arm,
        )
        for number, arm in enumerate(tables.arm_names)
    )
    return tag("p", *keys, class_="legend")
