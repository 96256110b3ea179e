"""Charts on links: mentions by confidence, accuracy by confidence. Pure: the same rows give the same markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.report.data import Confidences
from pipeline.report.markup import Markup, number, tag
from pipeline.report.svg import Chart, Frame, Scale, frames, path, short, steps, x_axis, y_axis

SHOWN_BINS = 20


def confidence_plot(found: Confidences, min_confidence: float) -> Chart:
    """Mentions by confidence: linked and NIL; the corpus's own links in a column of their own."""
    linked, nil = (
        values.reshape(SHOWN_BINS, -1).sum(axis=1) for values in (found.linked, found.nil)
    )
    most = max(int((linked + nil).max()), found.anchors, 1)

    def draw(frame: Frame) -> list[Markup]:
        anchors_width = 40 if found.anchors else 0
        end = frame.plot_right - (anchors_width + 26 if found.anchors else 0)
        x, y = Scale(0, 1, frame.left, end), Scale(0, most * 1.05, frame.plot_bottom, frame.top)
        ticks = (0, 0.2, 0.4, 0.6, 0.8, 1)
        parts = [
            y_axis(frame, y, [(value, short(value)) for value in steps(most)], "mentions"),
            x_axis(
                frame,
                x,
                [(value, f"{value:g}") for value in ticks],
                "confidence of the best candidate",
            ),
        ]
        for place in range(SHOWN_BINS):
            low, high = place / SHOWN_BINS, (place + 1) / SHOWN_BINS
            tip = (
                f"confidence {low:.2f} to {high:.2f}\n{linked[place]:,} linked, {nil[place]:,} NIL"
            )
            parts += _stack(
                (x(low) + 1, x(high) - 1), (int(nil[place]), int(linked[place])), y, tip
            )
        if found.anchors:
            start = frame.plot_right - anchors_width
            tip = f"links of the corpus itself\n{found.anchors:,} mentions, confidence 1 by definition"
            parts.append(
                _column((start, frame.plot_right), (0, found.anchors), y, ("anchors", tip))
            )
            parts.append(
                tag(
                    "text",
                    "anchors",
                    class_="tick mid",
                    x=start + anchors_width / 2,
                    y=frame.plot_bottom + 18,
                )
            )
        at = x(min_confidence)
        parts.append(tag("line", class_="limit", x1=at, x2=at, y1=frame.top, y2=frame.plot_bottom))
        parts.append(
            tag("text", f"NIL below {min_confidence:g}", class_="note", x=at + 6, y=frame.top + 12)
        )
        return parts

    wide, narrow = frames(320, 270, top=24)
    description = f"{int(linked.sum()):,} linked mentions and {int(nil.sum()):,} NIL, {found.anchors:,} links of the corpus."
    return Chart(
        name="confidence", title="Mentions by confidence", description=description,
        draw=draw, wide=wide, narrow=narrow, by_x=True,
    )  # fmt: skip


def _stack(ends: tuple[float, float], counts: tuple[int, int], y: Scale, tip: str) -> list[Markup]:
    nil, linked = counts
    parts = []
    if nil:
        parts.append(_column(ends, (0, nil), y, ("nil", tip)))
    if linked:
        parts.append(_column(ends, (nil, nil + linked), y, ("linked", tip)))
    return parts


def _column(
    ends: tuple[float, float], values: tuple[int, int], y: Scale, shown: tuple[str, str]
) -> Markup:
    kind, tip = shown
    top, bottom = y(values[1]), y(values[0])
    return tag(
        "rect", class_=f"mark {kind}", x=round(ends[0], 1), y=top, width=round(ends[1] - ends[0], 1),
        height=round(bottom - top, 1), data_tip=tip,
    )  # fmt: skip


def reliability_plot(bins: Sequence[dict[str, Any]]) -> Chart:
    """Accuracy by confidence at gold spans; on the diagonal, confidence means what it says. Areas follow the counts."""
    most = max(one["count"] for one in bins)

    def draw(frame: Frame) -> list[Markup]:
        x, y = (
            Scale(0, 1, frame.left, frame.plot_right),
            Scale(0, 1, frame.plot_bottom, frame.top + 6),
        )
        ticks = [(value / 5, f"{value / 5:g}") for value in range(6)]
        points = [(x(one["confidence"]), y(one["accuracy"])) for one in bins]
        return [
            x_axis(frame, x, ticks, "mean confidence of the bin"),
            y_axis(frame, y, ticks, "share that is right"),
            path([(x(0), y(0)), (x(1), y(1))], "diagonal"),
            path(points, "curve"),
            *(
                tag(
                    "circle",
                    class_="mark linked",
                    cx=at[0],
                    cy=at[1],
                    r=round(3 + 9 * float(np.sqrt(one["count"] / most)), 1),
                    data_tip=f"confidence {one['confidence']:.2f}, right {one['accuracy']:.2f}\n{one['count']:,} gold spans",
                )  # fmt: skip
                for one, at in zip(bins, points, strict=True)
            ),
        ]

    wide, narrow = frames(400, 330, top=24)
    counted = number(sum(one["count"] for one in bins))
    return Chart(
        name="reliability", title="Accuracy by confidence", description=f"{len(bins)} bins over {counted} gold spans.",
        draw=draw, wide=wide, narrow=narrow,
    )  # fmt: skip
