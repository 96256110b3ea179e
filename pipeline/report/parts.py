"""Make the pieces that several sections share."""

from __future__ import annotations

from pipeline.report.facts import ReportContent
from pipeline.report.markup import Markup, bar, number, percent, tag
from pipeline.report.svg import Chart


def para(*children: object) -> Markup:
    """Return a paragraph."""
    return tag("p", *children)


def note(*children: object) -> Markup:
    """Return a paragraph that explains why a figure is not there."""
    return tag("p", *children, class_="note-box")


def missing(content: ReportContent, stage: str, subject: str) -> Markup:
    """Return a note that names the command which makes a missing figure.

    Args:
        content: the report.
        stage: the stage that makes the figure.
        subject: what is missing, as the beginning of a sentence.
    """
    # The command is the same: the stage makes its output again.
    state = "is out of date" if stage in content.outdated else "is not in this run"
    command = tag("code", f"trelm-pipeline {stage} --run {content.run}")
    return note(f"{subject} {state}. This command makes it: ", command)


def figure(chart: Chart, caption: str, values: Markup, legend: Markup | None = None) -> Markup:
    """Return a chart with its caption and its values as a table."""
    return tag(
        "figure",
        legend,
        chart.markup(),
        tag("figcaption", caption),
        # Screen readers and eyes that cannot use the chart get the same figures.
        tag("details", tag("summary", "Values as a table"), values),
    )


def chip(band: str) -> Markup:
    """Return the name of a band in its colour."""
    return tag("span", band, class_=f"chip {band}")


def legend(*names: tuple[str, str]) -> Markup:
    """Return a legend: (class of the colour, text) for each colour."""
    keys = (tag("span", tag("i", class_=f"key {kind}"), text) for kind, text in names)
    return tag("p", *keys, class_="legend")


def share_cell(share: float, kind: str, count: int | None = None) -> Markup:
    """Return a share as number and bar, with its count if there is one.

    Args:
        share: from 0 to 1.
        kind: the class of the bar's colour.
        count: the number that the share stands for.
    """
    count_text = None if count is None else tag("b", number(count))
    numbers = tag("span", count_text, tag("span", percent(share)), class_="share-number")
    # A cell with a count has two lines.
    class_ = "share" if count is None else "share stacked"
    return tag("span", numbers, bar(share, kind), class_=class_)
