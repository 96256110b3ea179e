"""Charts on the tail: mentions by rank, semantic importance by band. Pure: the same rows give the same markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.report.data import CHANGE_UNIT, Band, Changes, RankPoint
from pipeline.report.markup import Markup, percent, tag
from pipeline.report.svg import Chart, Frame, Scale, frames, log_ticks, path, short, x_axis, y_axis

NARROW_POINTS = 160
NUM_FITTED = 50
MAX_LOG_RATIO = (
    28.0  # of a fitted frequency and x_min: an exponent near 1 would go beyond any number
)
# Edges of 1 - cosine in CHANGE_UNIT: about five per factor of ten, whole numbers, so that no bin falls between two values.
EDGES = (1, 2, 3, 5, 8, 13, 20, 32, 50, 80, 126, 200, 316, 500, 800, 1260, 2000, 3160, 5000, 20001)
TOP = 10_000  # where the axis of 1 - cosine ends: at 1
ZERO_WIDTH, ZERO_GAP = 24, 24  # the column of sentences that did not change at all


def rank_plot(points: Sequence[RankPoint], tail: dict[str, Any], bands: Sequence[Band]) -> Chart:
    """Mentions by rank, both logarithmic, with the fitted power law and its interval."""
    entities, most = points[-1].rank, points[0].num_mentions
    description = f"From {most:,} mentions of the most frequent entity to {points[-1].num_mentions:,} at rank {entities:,}."
    if tail["power_law_exponent"] is not None:
        description += f" Fitted power law: exponent {tail['power_law_exponent']:.2f}."

    def draw(frame: Frame) -> list[Markup]:
        x = Scale(1, max(entities, 2), frame.left, frame.plot_right, log=True)
        y = Scale(0.8, max(most, 2) * 1.3, frame.plot_bottom, frame.top + 18, log=True)
        shown = points if frame.kind == "wide" else points[:: -(-len(points) // NARROW_POINTS)]
        return [
            *_regions(frame, x, bands),
            x_axis(
                frame,
                x,
                [(value, short(value)) for value in log_ticks(entities)],
                "rank of the entity (log)",
            ),
            y_axis(
                frame, y, [(value, short(value)) for value in log_ticks(most)], "mentions (log)"
            ),
            tag("g", *(_point(one, x, y) for one in shown)),
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


def _point(one: RankPoint, x: Scale, y: Scale) -> Markup:
    name = one.label or f"Q{one.qid}"
    tip = f"{name}\nrank {one.rank:,}, {one.num_mentions:,} mentions, {one.band}"
    return tag(
        "circle",
        class_=f"mark {one.band}",
        cx=x(one.rank),
        cy=y(one.num_mentions),
        r=3,
        data_tip=tip,
    )


def _regions(frame: Frame, x: Scale, bands: Sequence[Band]) -> list[Markup]:
    """Where each band begins and ends, with its name above."""
    parts, start, first = [], float(frame.left), 1
    for band in bands:
        last = first + band.num_entities - 1
        end = min(x(last + 0.5) if band is not bands[-1] else frame.plot_right, frame.plot_right)
        width = round(max(end - start, 0), 1)
        height = frame.plot_bottom - frame.top
        parts.append(
            tag(
                "rect",
                class_=f"region {band.name}",
                x=start,
                y=frame.top,
                width=width,
                height=height,
            )
        )
        if width > 34:
            parts.append(
                tag(
                    "text",
                    band.name,
                    class_=f"region-name mid {band.name}",
                    x=round(start + width / 2, 1),
                    y=frame.top + 14,
                )
            )
        start, first = round(end, 1), last + 1
    return parts


def _fit(x: Scale, y: Scale, tail: dict[str, Any]) -> list[Markup]:
    exponent = tail["power_law_exponent"]
    if exponent is None:
        return []
    ranks, values = fitted(exponent, tail)
    shown = values <= y.high
    places = [
        (x(rank), y(value))
        for rank, value in zip(ranks[shown].tolist(), values[shown].tolist(), strict=True)
    ]
    parts = []
    if tail["power_law_exponent_low"] is not None:
        low, high = (fitted(tail[f"power_law_exponent_{end}"], tail)[1] for end in ("low", "high"))
        edges = [
            zip(ranks.tolist(), np.minimum(edge, y.high).tolist(), strict=True)
            for edge in (low, high)
        ]
        above, below = ([(x(rank), y(value)) for rank, value in edge] for edge in edges)
        parts.append(path([*above, *reversed(below)], "spread", closed=True))
    parts.append(path(places, "fit"))
    at_x, at_y = places[len(places) // 2]
    parts.append(
        tag("text", f"fit, exponent {exponent:.2f}", class_="note", x=at_x + 10, y=at_y - 8)
    )
    return parts


def fitted(exponent: float, tail: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Ranks, from 1 to the number of fitted items, and the frequency that the power law gives to each. Shapes (n,).

    The law says how many items have at least a frequency, which is that frequency's rank; here it is read the other way.
    """
    from scipy.special import zeta

    x_min, items = float(tail["power_law_x_min"]), int(tail["power_law_entities"])
    ranks = np.geomspace(1, items, NUM_FITTED)
    highest = 2 * np.exp(min(np.log(items) / (exponent - 1), MAX_LOG_RATIO))
    values = np.geomspace(x_min, x_min * highest, 40 * NUM_FITTED)
    expected = items * zeta(exponent, values) / zeta(exponent, x_min)
    return ranks, np.exp(
        np.interp(np.log(ranks[::-1]), np.log(expected[::-1]), np.log(values[::-1]))[::-1]
    )


def change_plot(changes: dict[str, Changes]) -> Chart:
    """A histogram of 1 - cosine per band, one above the other on one logarithmic axis, with quantiles."""
    medians = ", ".join(f"{name} {found.quantile(0.5):.4f}" for name, found in changes.items())
    shares = {name: _binned(found) for name, found in changes.items()}
    highest = max(float(share.max()) for share in shares.values())

    def draw(frame: Frame) -> list[Markup]:
        x = Scale(1, TOP, frame.left + ZERO_WIDTH + ZERO_GAP, frame.plot_right, log=True)
        height = (frame.plot_bottom - frame.top) / len(changes)
        wide = frame.kind == "wide"
        name = "1 − cosine, log: how much a sentence changes" if wide else "1 − cosine (log)"
        ticks = [(10**power, f"{10.0**power * CHANGE_UNIT:g}") for power in range(5)]
        parts = [
            x_axis(frame, x, ticks, name),
            tag(
                "text",
                "0",
                class_="tick mid",
                x=frame.left + ZERO_WIDTH / 2,
                y=frame.plot_bottom + 18,
            ),
        ]
        for place, (band, found) in enumerate(changes.items()):
            bottom = frame.top + (place + 1) * height
            y = Scale(0, highest, bottom, bottom - height + 34)
            parts += _change_bars(frame, band, shares[band], (x, y)) + _change_box(
                frame, band, found, (x, y)
            )
        return parts

    wide, narrow = frames(430, 420, top=8, left=16)
    return Chart(
        name="change", title="Semantic importance by band", description=f"Median of 1 − cosine: {medians}.",
        draw=draw, wide=wide, narrow=narrow, by_x=False,
    )  # fmt: skip


def _binned(found: Changes) -> np.ndarray:
    """Share of the mentions with 1 - cosine of 0, then in each bin between EDGES."""
    places = np.searchsorted(EDGES, found.values, side="right")
    return (
        np.bincount(places, weights=found.counts, minlength=len(EDGES))[: len(EDGES)]
        / found.counts.sum()
    )


def _change_bars(
    frame: Frame, band: str, shares: np.ndarray, scales: tuple[Scale, Scale]
) -> list[Markup]:
    x, y = scales
    bottom = y(0)
    lows = [frame.left, *(x(edge) for edge in EDGES[:-1])]
    highs = [frame.left + ZERO_WIDTH, *(x(min(edge, TOP)) for edge in EDGES[1:])]
    parts = [tag("line", class_="axis", x1=frame.left, x2=frame.plot_right, y1=bottom, y2=bottom)]
    for place, share in enumerate(shares.tolist()):
        if share > 0:
            tip = f"{band}, 1 − cosine {_span(place)}\n{percent(share)} of the band's mentions"
            shape = {
                "width": round(max(highs[place] - lows[place] - 1, 1), 1),
                "height": round(bottom - y(share), 1),
            }
            parts.append(
                tag(
                    "rect",
                    class_=f"mark {band}",
                    x=lows[place] + 0.5,
                    y=y(share),
                    rx=1.5,
                    data_tip=tip,
                    **shape,
                )
            )
    return parts


def _span(place: int) -> str:
    """The values of a bin, in words."""
    if place == 0:
        return "0"
    low, high = EDGES[place - 1], EDGES[place] - 1
    return (
        f"{low * CHANGE_UNIT:.4f}"
        if low == high
        else f"{low * CHANGE_UNIT:.4f} to {high * CHANGE_UNIT:.4f}"
    )


def _change_box(
    frame: Frame, band: str, found: Changes, scales: tuple[Scale, Scale]
) -> list[Markup]:
    """Median, middle half, and the range from 5 % to 95 %, above the bars."""
    x, y = scales
    values = [
        min(max(found.quantile(share) / CHANGE_UNIT, 1), TOP)
        for share in (0.05, 0.25, 0.5, 0.75, 0.95)
    ]
    low, first, median, third, high = (x(value) for value in values)
    middle = y(y.high) - 8
    text = f"median {found.quantile(0.5):.4f}"
    box = {
        "x": first,
        "y": middle - 4,
        "width": round(max(third - first, 1), 1),
        "height": 8,
        "rx": 2,
    }
    return [
        tag("text", band, class_=f"row-name {band}", x=frame.left, y=middle + 4),
        tag("line", class_="whisker", x1=low, x2=high, y1=middle, y2=middle),
        tag("rect", class_=f"box {band}", **box),
        tag("line", class_="median", x1=median, x2=median, y1=middle - 7, y2=middle + 7),
        tag("text", text, class_="note", x=min(high + 6, frame.plot_right - 92), y=middle + 4),
    ]
