"""Pieces that several sections share."""

from __future__ import annotations

from pipeline.report.facts import Facts
from pipeline.report.markup import Markup, bar, number, percent, tag
from pipeline.report.svg import Chart


def para(*parts: object) -> Markup:
    """A paragraph."""
    return tag("p", *parts)


def note(*parts: object) -> Markup:
    """A paragraph that explains why something is not there."""
    return tag("p", *parts, class_="note-box")


def missing(found: Facts, stage: str, what: str) -> Markup:
    """Which command makes what the section would show."""
    state = "is out of date" if stage in found.outdated else "is not in this run"
    return note(
        f"{what} {state}. This command makes it: ",
        tag("code", f"trelm-pipeline {stage} --run {found.run}"),
    )


def figure(chart: Chart, caption: str, values: Markup, legend: Markup | None = None) -> Markup:
    """A chart with its caption and its values as a table."""
    return tag(
        "figure",
        legend,
        chart.markup(),
        tag("figcaption", caption),
        tag("details", tag("summary", "Values as a table"), values),
    )


def chip(band: str) -> Markup:
    """The name of a band in its colour."""
    return tag("span", band, class_=f"chip {band}")


def legend(*names: tuple[str, str]) -> Markup:
    """Colours and what they mean."""
    keys = (tag("span", tag("i", class_=f"key {kind}"), text) for kind, text in names)
    return tag("p", *keys, class_="legend")


def share_cell(share: float, kind: str, count: int | None = None) -> Markup:
    """A share as number and bar, with the count that it is of a whole."""
    counted = None if count is None else tag("b", number(count))
    numbers = tag("span", counted, tag("span", percent(share)), class_="share-number")
    return tag(
        "span", numbers, bar(share, kind), class_="share" if count is None else "share stacked"
    )
