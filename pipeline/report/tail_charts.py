"""Draw the charts on the tail: mentions by rank, semantic importance by band.

Pure: the same rows give the same markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.report.data import CHANGE_UNIT, Band, Changes, RankPoint
from pipeline.report.markup import Markup, percent, tag
from pipeline.report.svg import Chart, Frame, Scale, frames, log_ticks, path, short, x_axis, y_axis
from schemas.array_types import F64
from schemas.ids import item_id

NARROW_POINTS = 160
NUM_FITTED = 50
# The largest logarithm of a fitted frequency over x_min: an exponent near 1 would go beyond any
# number.
MAX_LOG_RATIO = 28.0
# Edges of 1 - cosine in CHANGE_UNIT: about five per factor of ten, whole numbers, so that no bin
# falls between two values.
EDGES = (1, 2, 3, 5, 8, 13, 20, 32, 50, 80, 126, 200, 316, 500, 800, 1260, 2000, 3160, 5000, 20001)
# Where the axis of 1 - cosine ends, in CHANGE_UNIT: at 1.
TOP = 10_000
# Width of the column of sentences that did not change at all, and the gap after it.
ZERO_WIDTH, ZERO_GAP = 24, 24
# A narrower band has no room for its name.
MIN_NAMED_WIDTH = 34


def rank_plot(points: Sequence[RankPoint], tail: dict[str, Any], bands: Sequence[Band]) -> Chart:
    """Return the chart of mentions by rank, with the fitted power law and its interval.

    Both axes are logarithmic.

    Args:
        points: entities in the order of their ranks.
        tail: the one row of `tail_summary`.
        bands: from the most frequent on.
    """
    num_entities = points[-1].rank
    most_mentions, least_mentions = points[0].num_mentions, points[-1].num_mentions
    description = (
        f"From {most_mentions:,} mentions of the most frequent entity "
        f"to {least_mentions:,} at rank {num_entities:,}."
    )
    if tail["power_law_exponent"] is not None:
        description += f" Fitted power law: exponent {tail['power_law_exponent']:.2f}."

    def draw(frame: Frame) -> list[Markup]:
        # At least two ranks and two mentions: a logarithmic scale needs a length.
        x = Scale(1, max(num_entities, 2), frame.left, frame.plot_right, log=True)
        y = Scale(0.8, max(most_mentions, 2) * 1.3, frame.plot_bottom, frame.top + 18, log=True)
        x_ticks = [(value, short(value)) for value in log_ticks(num_entities)]
        y_ticks = [(value, short(value)) for value in log_ticks(most_mentions)]

        step = 1 if frame.kind == "wide" else -(-len(points) // NARROW_POINTS)
        return [
            *_regions(frame, x, bands),
            x_axis(frame, x, x_ticks, "rank of the entity (log)"),
            y_axis(frame, y, y_ticks, "mentions (log)"),
            tag("g", *(_point(point, x, y) for point in points[::step])),
            *_fit(x, y, tail),
        ]

    wide, narrow = frames(430, 330, top=24)
    return Chart(
        name="rank",
        title="Mentions of an entity by its rank",
        description=description,
        draw=draw,
        wide=wide,
        narrow=narrow,
    )


def _point(point: RankPoint, x: Scale, y: Scale) -> Markup:
    """Return the dot of an entity."""
    # An item without a label is known by its id.
    name = point.label or item_id(point.qid)
    tip = f"{name}\nrank {point.rank:,}, {point.num_mentions:,} mentions, {point.band}"
    return tag(
        "circle",
        class_=f"mark {point.band}",
        cx=x(point.rank),
        cy=y(point.num_mentions),
        r=3,
        data_tip=tip,
    )


def _regions(frame: Frame, x: Scale, bands: Sequence[Band]) -> list[Markup]:
    """Return the background of each band, with its name above."""
    elements, start, first_rank = [], float(frame.left), 1
    height = frame.plot_bottom - frame.top
    for band in bands:
        last_rank = first_rank + band.num_entities - 1
        # The border lies between two ranks; the last band fills the plot.
        right = x(last_rank + 0.5) if band is not bands[-1] else frame.plot_right
        end = min(right, frame.plot_right)
        width = round(max(end - start, 0), 1)

        rectangle = {"x": start, "y": frame.top, "width": width, "height": height}
        elements.append(tag("rect", class_=f"region {band.name}", **rectangle))
        if width > MIN_NAMED_WIDTH:
            middle = round(start + width / 2, 1)
            class_ = f"region-name mid {band.name}"
            elements.append(tag("text", band.name, class_=class_, x=middle, y=frame.top + 14))
        start, first_rank = round(end, 1), last_rank + 1
    return elements


def _fit(x: Scale, y: Scale, tail: dict[str, Any]) -> list[Markup]:
    """Return the curve of the fitted power law, its interval and its label.

    Nothing is returned if no power law was fitted.
    """
    exponent = tail["power_law_exponent"]
    if exponent is None:
        return []

    # The curve ends where it would leave the plot.
    ranks, values = fitted(exponent, tail)
    inside = values <= y.high
    curve = [
        (x(rank), y(value))
        for rank, value in zip(ranks[inside].tolist(), values[inside].tolist(), strict=True)
    ]

    elements = []
    if tail["power_law_exponent_low"] is not None:
        above, below = (
            _clipped_curve(tail[f"power_law_exponent_{end}"], tail, x, y) for end in ("low", "high")
        )
        elements.append(path([*above, *reversed(below)], "spread", closed=True))
    elements.append(path(curve, "fit"))

    label_x, label_y = curve[len(curve) // 2]
    label = f"fit, exponent {exponent:.2f}"
    elements.append(tag("text", label, class_="note", x=label_x + 10, y=label_y - 8))
    return elements


def _clipped_curve(
    exponent: float, tail: dict[str, Any], x: Scale, y: Scale
) -> list[tuple[float, float]]:
    """Return the positions of a power law, cut at the top of the plot."""
    ranks, values = fitted(exponent, tail)
    clipped = np.minimum(values, y.high).tolist()
    return [(x(rank), y(value)) for rank, value in zip(ranks.tolist(), clipped, strict=True)]


def fitted(exponent: float, tail: dict[str, Any]) -> tuple[F64, F64]:
    """Return ranks, and the frequency that the power law gives to each. Shapes (NUM_FITTED,).

    The ranks go from 1 to the number of fitted items. The law gives how many items have at least a
    frequency, which is that frequency's rank; here it is read the other way.
    """
    from scipy.special import zeta

    x_min, num_items = float(tail["power_law_x_min"]), int(tail["power_law_entities"])
    ranks = np.geomspace(1, num_items, NUM_FITTED)

    # Expected ranks of many frequencies, up to twice that of rank 1.
    highest = 2 * np.exp(min(np.log(num_items) / (exponent - 1), MAX_LOG_RATIO))
    values = np.geomspace(x_min, x_min * highest, 40 * NUM_FITTED)
    expected = num_items * zeta(exponent, values) / zeta(exponent, x_min)

    # np.interp needs ascending positions: expected ranks fall as frequencies rise.
    log_values = np.interp(np.log(ranks[::-1]), np.log(expected[::-1]), np.log(values[::-1]))
    return ranks, np.exp(log_values[::-1])


def change_plot(changes: dict[str, Changes]) -> Chart:
    """Return a histogram of 1 - cosine per band, with quantiles.

    The bands stand one above the other on one logarithmic axis.
    """
    medians = ", ".join(
        f"{band} {band_changes.quantile(0.5):.4f}" for band, band_changes in changes.items()
    )
    shares = {band: _binned(band_changes) for band, band_changes in changes.items()}
    highest = max(float(share.max()) for share in shares.values())

    def draw(frame: Frame) -> list[Markup]:
        x = Scale(1, TOP, frame.left + ZERO_WIDTH + ZERO_GAP, frame.plot_right, log=True)
        height = (frame.plot_bottom - frame.top) / len(changes)

        is_wide = frame.kind == "wide"
        name = "1 − cosine, log: how much a sentence changes" if is_wide else "1 − cosine (log)"
        ticks = [(10**power, f"{10.0**power * CHANGE_UNIT:g}") for power in range(5)]
        zero_x, zero_y = frame.left + ZERO_WIDTH / 2, frame.plot_bottom + 18
        elements = [
            x_axis(frame, x, ticks, name),
            tag("text", "0", class_="tick mid", x=zero_x, y=zero_y),
        ]

        # One scale of height for all bands, so that they can be compared.
        for index, (band, band_changes) in enumerate(changes.items()):
            bottom = frame.top + (index + 1) * height
            y = Scale(0, highest, bottom, bottom - height + 34)
            elements += _change_bars(frame, band, shares[band], (x, y))
            elements += _change_box(frame, band, band_changes, (x, y))
        return elements

    wide, narrow = frames(430, 420, top=8, left=16)
    return Chart(
        name="change",
        title="Semantic importance by band",
        description=f"Median of 1 − cosine: {medians}.",
        draw=draw,
        wide=wide,
        narrow=narrow,
        by_x=False,
    )


def _binned(changes: Changes) -> F64:
    """Return the share of mentions in each bin, shape (bins,).

    The first bin has the mentions with 1 - cosine of 0, the others lie between EDGES.
    """
    bins = np.searchsorted(EDGES, changes.values, side="right")
    counts = np.bincount(bins, weights=changes.counts, minlength=len(EDGES))
    shares: F64 = counts[: len(EDGES)] / changes.counts.sum()
    return shares


def _change_bars(frame: Frame, band: str, shares: F64, scales: tuple[Scale, Scale]) -> list[Markup]:
    """Return the bars of a band, on a line."""
    x, y = scales
    bottom = y(0)
    lows = [frame.left, *(x(edge) for edge in EDGES[:-1])]
    highs = [frame.left + ZERO_WIDTH, *(x(min(edge, TOP)) for edge in EDGES[1:])]

    elements = [
        tag("line", class_="axis", x1=frame.left, x2=frame.plot_right, y1=bottom, y2=bottom)
    ]
    for index, share in enumerate(shares.tolist()):
        if share <= 0:
            continue
        tip = f"{band}, 1 − cosine {_bin_text(index)}\n{percent(share)} of the band's mentions"
        elements.append(
            tag(
                "rect",
                class_=f"mark {band}",
                x=lows[index] + 0.5,
                y=y(share),
                rx=1.5,
                data_tip=tip,
                # A thin bar keeps a width of 1, or it could not be seen.
                width=round(max(highs[index] - lows[index] - 1, 1), 1),
                height=round(bottom - y(share), 1),
            )
        )
    return elements


def _bin_text(index: int) -> str:
    """Return the values of a bin, in words."""
    if index == 0:
        return "0"
    low, high = EDGES[index - 1], EDGES[index] - 1
    low_text = f"{low * CHANGE_UNIT:.4f}"
    return low_text if low == high else f"{low_text} to {high * CHANGE_UNIT:.4f}"


def _change_box(
    frame: Frame, band: str, changes: Changes, scales: tuple[Scale, Scale]
) -> list[Markup]:
    """Return median, middle half, and the range from 5 % to 95 %, above the bars of a band."""
    x, y = scales
    # The logarithmic axis starts at one unit: smaller changes stand there.
    values = [
        min(max(changes.quantile(share) / CHANGE_UNIT, 1), TOP)
        for share in (0.05, 0.25, 0.5, 0.75, 0.95)
    ]
    low, quarter, median, three_quarters, high = (x(value) for value in values)

    middle = y(y.high) - 8
    box_width = round(max(three_quarters - quarter, 1), 1)
    box = {"x": quarter, "y": middle - 4, "width": box_width, "height": 8, "rx": 2}
    text, text_x = f"median {changes.quantile(0.5):.4f}", min(high + 6, frame.plot_right - 92)
    return [
        tag("text", band, class_=f"row-name {band}", x=frame.left, y=middle + 4),
        tag("line", class_="whisker", x1=low, x2=high, y1=middle, y2=middle),
        tag("rect", class_=f"box {band}", **box),
        tag("line", class_="median", x1=median, x2=median, y1=middle - 7, y2=middle + 7),
        tag("text", text, class_="note", x=text_x, y=middle + 4),
    ]
