"""Provide what every chart needs: frames, scales, axes.

Colours are classes of the page's style, so charts follow its theme. Each chart is drawn twice, for
a wide and for a narrow page, because the letters of an SVG shrink with it; the style shows one of
the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.markup import Markup, joined, tag

# An axis that ends below this value has marks at 2 and 5 of each power of ten, too.
FEW_DECADES = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """Hold the size of a chart and the margins around its plot.

    The unit is a pixel of the page at full width.
    """

    kind: str
    width: int
    height: int
    left: int = 64
    right: int = 18
    top: int = 18
    bottom: int = 50

    @property
    def plot_right(self) -> int:
        """Return the right edge of the plot."""
        return self.width - self.right

    @property
    def plot_bottom(self) -> int:
        """Return the lower edge of the plot."""
        return self.height - self.bottom


@dataclass(frozen=True, slots=True)
class Scale:
    """Map values to positions, linearly, or on a logarithmic scale if `log` is set."""

    # The values at the two ends, and their positions.
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value, to one decimal."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = np.log10([low, high, value])

        # A scale of one value has it in the middle.
        share = (value - low) / (high - low) if high > low else 0.5
        return round(float(self.start + share * (self.end - self.start)), 1)


def log_ticks(high: float) -> list[int]:
    """Return 1, 10, 100, … up to a value; with few decades, 2 and 5 of each decade too."""
    highest = max(high, 1)
    factors = (1, 2, 5) if high < FEW_DECADES else (1,)
    # The small number keeps 1000 from having a logarithm below 3.
    powers = range(int(np.log10(highest) + 1e-9) + 1)
    ticks = [factor * 10**power for power in powers for factor in factors]
    return [tick for tick in ticks if tick <= highest]


def steps(high: float, count: int = 4) -> list[float]:
    """Return about `count` round numbers from 0 up to a value."""
    if high <= 0:
        return [0.0]

    # The round number next above an equal share: 1, 2, 2.5 or 5 times a power of ten.
    raw = high / count
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw - 1e-12)
    return [float(round(index * step, 10)) for index in range(int(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """Return a number as a tick shows it: 20k, 1.5M, 0.25."""
    # From large to small: the first that fits is used.
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def x_axis(frame: Frame, scale: Scale, ticks: Sequence[tuple[float, str]], label: str) -> Markup:
    """Return ticks, grid and name of the horizontal axis; a tick is a value and its text."""
    bottom = frame.plot_bottom
    elements: list[Markup] = []
    for value, text in ticks:
        x = scale(value)
        elements.append(tag("line", class_="grid", x1=x, x2=x, y1=frame.top, y2=bottom))
        elements.append(tag("text", text, class_="tick mid", x=x, y=bottom + 18))

    # The axis comes after the grid: it is drawn over it.
    middle = (frame.left + frame.plot_right) / 2
    elements.append(
        tag("line", class_="axis", x1=frame.left, x2=frame.plot_right, y1=bottom, y2=bottom)
    )
    elements.append(tag("text", label, class_="name mid", x=middle, y=frame.height - 8))
    return tag("g", *elements)


def y_axis(frame: Frame, scale: Scale, ticks: Sequence[tuple[float, str]], label: str) -> Markup:
    """Return ticks, grid and name of the vertical axis.

    The name stands above the axis, where it can be read without turning the head.
    """
    elements: list[Markup] = []
    for value, text in ticks:
        # Half the height of a letter brings the text level with its line.
        y = scale(value)
        elements.append(tag("line", class_="grid", x1=frame.left, x2=frame.plot_right, y1=y, y2=y))
        elements.append(tag("text", text, class_="tick end", x=frame.left - 8, y=y + 4))

    elements.append(tag("text", label, class_="name", x=4, y=12))
    return tag("g", *elements)


def path(points: Sequence[tuple[float, float]], class_: str, *, closed: bool = False) -> Markup:
    """Return a line through points, or the area inside them."""
    # Move to the first point, draw lines to the others.
    text = "M" + "L".join(f"{x:g},{y:g}" for x, y in points)
    return tag("path", class_=class_, d=text + ("Z" if closed else ""))


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Hold a chart in words and the function that draws it."""

    name: str
    title: str
    description: str
    draw: Callable[[Frame], Sequence[Markup]]
    wide: Frame
    narrow: Frame
    # Whether the pointer chooses a mark by its horizontal position alone.
    by_x: bool = False

    def markup(self) -> Markup:
        """Return both drawings."""
        return joined(self._drawn(frame) for frame in (self.wide, self.narrow))

    def _drawn(self, frame: Frame) -> Markup:
        """Return the drawing in one frame, with title and description for screen readers."""
        title, description = f"{self.name}-{frame.kind}-title", f"{self.name}-{frame.kind}-text"
        return tag(
            "svg",
            tag("title", self.title, id=title),
            tag("desc", self.description, id=description),
            *self.draw(frame),
            class_=f"chart {frame.kind}",
            viewBox=f"0 0 {frame.width} {frame.height}",
            role="img",
            aria_labelledby=title,
            aria_describedby=description,
            data_by="x" if self.by_x else "xy",
        )


def frames(wide_height: int, narrow_height: int, **margins: int) -> tuple[Frame, Frame]:
    """Return a frame for wide pages and one for phones."""
    # A narrow page has less room for the numbers of the axis.
    narrow_margins = {"left": 46, "right": 10} | margins
    wide = Frame(kind="wide", width=860, height=wide_height, **margins)
    return wide, Frame(kind="narrow", width=360, height=narrow_height, **narrow_margins)
