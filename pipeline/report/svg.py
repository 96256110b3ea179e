"""What every chart needs: frames, scales, axes. Colours are classes of the page's style, so charts follow its theme.

Each chart is drawn twice, for a wide and for a narrow page, because the letters of an SVG shrink with it; the style
shows one of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.markup import Markup, joined, tag

FEW_DECADES = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """Size of a chart and the margins around its plot, in its own units (pixels at full width)."""

    kind: str
    width: int
    height: int
    left: int = 64
    right: int = 18
    top: int = 18
    bottom: int = 50

    @property
    def plot_right(self) -> int:
        """Where the plot ends on the right."""
        return self.width - self.right

    @property
    def plot_bottom(self) -> int:
        """Where the plot ends below."""
        return self.height - self.bottom


@dataclass(frozen=True, slots=True)
class Scale:
    """Values to positions: linear, or logarithmic where `log` says so."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Position of a value, one decimal."""
        low, high, here = (
            np.log10([self.low, self.high, value]) if self.log else (self.low, self.high, value)
        )
        share = (here - low) / (high - low) if high > low else 0.5
        return round(float(self.start + share * (self.end - self.start)), 1)


def log_ticks(high: float) -> list[int]:
    """1, 10, 100, … up to a value; 2 and 5 of each decade too where there are few decades."""
    factors = (1, 2, 5) if high < FEW_DECADES else (1,)
    powers = range(int(np.log10(max(high, 1)) + 1e-9) + 1)
    return [
        factor * 10**power
        for power in powers
        for factor in factors
        if factor * 10**power <= max(high, 1)
    ]


def steps(high: float, count: int = 4) -> list[float]:
    """About so many round numbers from 0 up to a value."""
    if high <= 0:
        return [0.0]
    raw = high / count
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw - 1e-12)
    return [float(round(place * step, 10)) for place in range(int(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number as a tick shows it: 20k, 1.5M, 0.25."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def x_axis(frame: Frame, scale: Scale, ticks: Sequence[tuple[float, str]], label: str) -> Markup:
    """Ticks, grid and name of the horizontal axis."""
    bottom = frame.plot_bottom
    parts: list[Markup] = []
    for value, text in ticks:
        x = scale(value)
        parts.append(tag("line", class_="grid", x1=x, x2=x, y1=frame.top, y2=bottom))
        parts.append(tag("text", text, class_="tick mid", x=x, y=bottom + 18))
    middle = (frame.left + frame.plot_right) / 2
    parts.append(
        tag("line", class_="axis", x1=frame.left, x2=frame.plot_right, y1=bottom, y2=bottom)
    )
    parts.append(tag("text", label, class_="name mid", x=middle, y=frame.height - 8))
    return tag("g", *parts)


def y_axis(frame: Frame, scale: Scale, ticks: Sequence[tuple[float, str]], label: str) -> Markup:
    """Ticks, grid and name of the vertical axis; the name stands above it, where it can be read without turning the head."""
    parts: list[Markup] = []
    for value, text in ticks:
        y = scale(value)
        parts.append(tag("line", class_="grid", x1=frame.left, x2=frame.plot_right, y1=y, y2=y))
        parts.append(tag("text", text, class_="tick end", x=frame.left - 8, y=y + 4))
    parts.append(tag("text", label, class_="name", x=4, y=12))
    return tag("g", *parts)


def path(points: Sequence[tuple[float, float]], class_: str, *, closed: bool = False) -> Markup:
    """A line through points, or the area inside them."""
    text = "M" + "L".join(f"{x:g},{y:g}" for x, y in points)
    return tag("path", class_=class_, d=text + ("Z" if closed else ""))


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart in words and how to draw it."""

    name: str
    title: str
    description: str
    draw: Callable[[Frame], Sequence[Markup]]
    wide: Frame
    narrow: Frame
    by_x: bool = False  # the pointer chooses a mark by its horizontal place alone

    def markup(self) -> Markup:
        """Both drawings."""
        return joined(self._drawn(frame) for frame in (self.wide, self.narrow))

    def _drawn(self, frame: Frame) -> Markup:
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
    """A frame for wide pages and one for phones."""
    narrow = {"left": 46, "right": 10} | margins
    wide = Frame(kind="wide", width=860, height=wide_height, **margins)
    return wide, Frame(kind="narrow", width=360, height=narrow_height, **narrow)
