"""Draw the charts on links: mentions by confidence, accuracy by confidence.

Pure: the same rows give the same markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.report.data import Confidences
from pipeline.report.markup import Markup, number, tag
from pipeline.report.svg import Chart, Frame, Scale, frames, path, short, steps, x_axis, y_axis

# Columns of the chart; it must divide NUM_FINE.
SHOWN_BINS = 20
# The column of the corpus's own links, and the gap before it.
ANCHORS_WIDTH, ANCHORS_GAP = 40, 26


def confidence_plot(confidences: Confidences, min_confidence: float) -> Chart:
    """Return the chart of mentions by confidence: linked and NIL.

    The corpus's own links have a column of their own.

    Args:
        confidences: the histogram.
        min_confidence: the linker's limit, drawn as a line.
    """
    # Shape (SHOWN_BINS,) each: several fine bins are one column.
    linked, nil = (
        values.reshape(SHOWN_BINS, -1).sum(axis=1)
        for values in (confidences.linked, confidences.nil)
    )
    num_anchors = confidences.anchors
    # At least 1: the scale needs a length.
    highest = max(int((linked + nil).max()), num_anchors, 1)

    def draw(frame: Frame) -> list[Markup]:
        # Without anchors the axis takes the whole width.
        end = frame.plot_right - (ANCHORS_WIDTH + ANCHORS_GAP if num_anchors else 0)
        x = Scale(0, 1, frame.left, end)
        # A little room above the highest column.
        y = Scale(0, highest * 1.05, frame.plot_bottom, frame.top)
        x_ticks = [(value, f"{value:g}") for value in (0, 0.2, 0.4, 0.6, 0.8, 1)]
        y_ticks = [(value, short(value)) for value in steps(highest)]
        elements = [
            y_axis(frame, y, y_ticks, "mentions"),
            x_axis(frame, x, x_ticks, "confidence of the best candidate"),
        ]

        # A gap of two pixels between columns: hence the 1 at each end.
        for index in range(SHOWN_BINS):
            low, high = index / SHOWN_BINS, (index + 1) / SHOWN_BINS
            counts = f"{linked[index]:,} linked, {nil[index]:,} NIL"
            tip = f"confidence {low:.2f} to {high:.2f}\n{counts}"
            ends = (x(low) + 1, x(high) - 1)
            elements += _stack(ends, (int(nil[index]), int(linked[index])), y, tip)

        if num_anchors:
            elements += _anchors_column(frame, y, num_anchors)
        elements += _limit_line(frame, x, min_confidence)
        return elements

    wide, narrow = frames(320, 270, top=24)
    return Chart(
        name="confidence",
        title="Mentions by confidence",
        description=(
            f"{int(linked.sum()):,} linked mentions and {int(nil.sum()):,} NIL, "
            f"{num_anchors:,} links of the corpus."
        ),
        draw=draw,
        wide=wide,
        narrow=narrow,
        by_x=True,
    )


def _limit_line(frame: Frame, x: Scale, min_confidence: float) -> list[Markup]:
    """Return the line of the linker's limit, with its name."""
    limit_x = x(min_confidence)
    text = f"NIL below {min_confidence:g}"
    return [
        tag("line", class_="limit", x1=limit_x, x2=limit_x, y1=frame.top, y2=frame.plot_bottom),
        tag("text", text, class_="note", x=limit_x + 6, y=frame.top + 12),
    ]


def _anchors_column(frame: Frame, y: Scale, num_anchors: int) -> list[Markup]:
    """Return the column of the corpus's own links, with its name below."""
    start = frame.plot_right - ANCHORS_WIDTH
    tip = f"links of the corpus itself\n{num_anchors:,} mentions, confidence 1 by definition"
    name_x, name_y = start + ANCHORS_WIDTH / 2, frame.plot_bottom + 18
    return [
        _column((start, frame.plot_right), (0, num_anchors), y, ("anchors", tip)),
        tag("text", "anchors", class_="tick mid", x=name_x, y=name_y),
    ]


def _stack(ends: tuple[float, float], counts: tuple[int, int], y: Scale, tip: str) -> list[Markup]:
    """Return the columns of a bin: NIL below, linked above; an empty column is left out."""
    nil, linked = counts
    columns = []
    if nil:
        columns.append(_column(ends, (0, nil), y, ("nil", tip)))
    if linked:
        columns.append(_column(ends, (nil, nil + linked), y, ("linked", tip)))
    return columns


def _column(
    ends: tuple[float, float], values: tuple[int, int], y: Scale, kind_and_tip: tuple[str, str]
) -> Markup:
    """Return a column.

    Args:
        ends: left and right position.
        values: lower and upper value.
        y: the vertical scale.
        kind_and_tip: the class of its colour, and the text that the pointer shows.
    """
    kind, tip = kind_and_tip
    # Positions count from the top: the larger value is the smaller position.
    left, right = ends
    bottom, top = y(values[0]), y(values[1])
    return tag(
        "rect",
        class_=f"mark {kind}",
        x=round(left, 1),
        y=top,
        width=round(right - left, 1),
        height=round(bottom - top, 1),
        data_tip=tip,
    )


def reliability_plot(bins: Sequence[dict[str, Any]]) -> Chart:
    """Return the chart of accuracy by confidence at gold spans.

    On the diagonal, confidence means what it promises. The areas of the dots follow the counts.

    Args:
        bins: confidence, accuracy and count of each.
    """
    highest = max(bin_["count"] for bin_ in bins)

    def draw(frame: Frame) -> list[Markup]:
        x = Scale(0, 1, frame.left, frame.plot_right)
        y = Scale(0, 1, frame.plot_bottom, frame.top + 6)
        ticks = [(value / 5, f"{value / 5:g}") for value in range(6)]
        points = [(x(bin_["confidence"]), y(bin_["accuracy"])) for bin_ in bins]
        return [
            x_axis(frame, x, ticks, "mean confidence of the bin"),
            y_axis(frame, y, ticks, "share that is right"),
            path([(x(0), y(0)), (x(1), y(1))], "diagonal"),
            path(points, "curve"),
            *(
                _reliability_dot(bin_, point, highest)
                for bin_, point in zip(bins, points, strict=True)
            ),
        ]

    wide, narrow = frames(400, 330, top=24)
    num_spans = number(sum(bin_["count"] for bin_ in bins))
    return Chart(
        name="reliability",
        title="Accuracy by confidence",
        description=f"{len(bins)} bins over {num_spans} gold spans.",
        draw=draw,
        wide=wide,
        narrow=narrow,
    )


def _reliability_dot(bin_: dict[str, Any], point: tuple[float, float], highest: int) -> Markup:
    """Return the dot of a bin."""
    # The radius follows the root of the count, so that the area follows the count.
    radius = round(3 + 9 * float(np.sqrt(bin_["count"] / highest)), 1)
    figures = f"confidence {bin_['confidence']:.2f}, right {bin_['accuracy']:.2f}"
    return tag(
        "circle",
        class_="mark linked",
        cx=point[0],
        cy=point[1],
        r=radius,
        data_tip=f"{figures}\n{bin_['count']:,} gold spans",
    )
