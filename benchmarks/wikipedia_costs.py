"""Turn what stages took at several sizes into unit costs, and unit costs into a full run's hours.

The model of a stage's time, on W workers that are alike:

    seconds(W) = start + serial · units + (work − serial) · units / W

`work` is what a unit takes a worker, by the reports of the stage's own units of work, so what a
command takes to start is not in it; `serial` is the part of it that one worker does alone, because
a phase has only one unit; `start` is the rest of the command's time. Each is a growth: what grows
with the data, over what the data grew by. The benchmark compares the model with measured times at
one and two workers.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

# Phases in which one worker does what grows with the data, while the others wait. Of `files` it is
# the list of openings; with few names its other units are as long, so this is an upper bound.
SERIAL_PHASES = frozenset(
    {
        ("kb", "repeats"),
        ("documents", "repeats"),
        ("index", "merged"),
        ("index", "files"),
        ("stats", "facts"),
        ("stats", "entities"),
        ("shards", "knowledge"),
    }
)
HOUR_S = 3600.0
GIGABYTE_OF_MB = 1e3


@dataclass(frozen=True, kw_only=True)
class Point:
    """Hold what a stage took at one size: medians of its runs."""

    size: float
    num_units: float
    workers: int
    seconds: float
    # Of the command's processes, start-up included.
    cpu_seconds: float
    # Of all units of work, whether side by side or not.
    work_s: float
    # Of the largest process.
    rss_mb: float
    read_mb: float
    written_mb: float
    stored_mb: float
    serial_s: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Hold what a unit of a stage costs, beyond what does not depend on the size."""

    # Seconds of a worker's work per unit, by the smallest and the largest size.
    work_s: float
    # The same between neighbouring sizes.
    steps_s: tuple[float, ...]
    # Seconds of processor time that the command takes besides, to start and to end.
    fixed_cpu_s: float
    serial_s: float
    start_s: float
    # Megabytes (10**6) per unit.
    read_mb: float
    written_mb: float
    stored_mb: float
    rss_mb: float

    @property
    def flatness(self) -> float | None:
        """Return the cost of a unit in the last step over that in the first; None with two sizes."""
        return self.steps_s[-1] / self.steps_s[0] if len(self.steps_s) > 1 else None

    @property
    def dearest_s(self) -> float:
        """Return the dearest step's seconds per unit: what the full data is reckoned by."""
        return max(self.steps_s, default=self.work_s)

    def seconds(self, num_units: float, workers: int) -> float:
        """Return the wall time that the model expects."""
        serial_s = self.serial_s * num_units
        shared_s = max(self.work_s * num_units - serial_s, 0.0)
        return self.start_s + serial_s + shared_s / workers


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Hold list prices in dollars: of a worker's hour per core and per GB of memory."""

    core_hour: float
    memory_gb_hour: float
    # Of a worker's machine, per core.
    memory_gb: float

    def dollars(self, hours: float, workers: int) -> float:
        """Return what so many workers cost, who all wait for the last one."""
        return hours * workers * (self.core_hour + self.memory_gb * self.memory_gb_hour)


def point_of(
    size: float, num_units: float, workers: int, runs: Sequence[Mapping[str, Any]]
) -> Point:
    """Return the medians of some runs of one stage, each as `wikipedia_stage.run` says it.

    Each has `seconds`, `cpu_seconds` and `rss_mb` as well.
    """

    def median(name: str) -> float:
        return statistics.median(run[name] for run in runs)

    return Point(
        size=size, num_units=num_units, workers=workers, seconds=median("seconds"),
        cpu_seconds=median("cpu_seconds"), work_s=statistics.median(map(work_seconds, runs)), rss_mb=max(run["rss_mb"] for run in runs),
        read_mb=median("read_mb"), written_mb=median("written_mb"), stored_mb=median("stored_mb"),
        serial_s=statistics.median(map(serial_seconds, runs)),
    )  # fmt: skip


def work_seconds(run: Mapping[str, Any]) -> float:
    """Return the seconds of all units of work."""
    return float(sum(phase["seconds"] for phase in run["phases"]))


def serial_seconds(run: Mapping[str, Any]) -> float:
    """Return the seconds in which one worker alone was at work, what grows with the data."""
    return sum(
        phase["longest_s"]
        for phase in run["phases"]
        if (phase["stage"], phase["name"]) in SERIAL_PHASES
    )


def cost_of(points: Sequence[Point]) -> Cost:
    """Return the costs of a unit from points of at least one size, the smallest first.

    From one size alone everything counts as the units', nothing as fixed.

    Raises:
        ValueError: a larger size has no more units.
    """
    first, last = points[0], points[-1]
    steps = list(zip(points, points[1:], strict=False))
    if any(small.num_units >= large.num_units for small, large in steps):
        raise ValueError(f"sizes must grow: {[point.num_units for point in points]} units")

    def slope(name: str, small: Point = first, large: Point = last) -> float:
        if small is large:
            return float(getattr(large, name)) / large.num_units
        difference: float = getattr(large, name) - getattr(small, name)
        return difference / (large.num_units - small.num_units)

    work_s, serial_s = slope("work_s"), max(slope("serial_s"), 0.0)
    shared_s = max(work_s - serial_s, 0.0) * first.num_units / first.workers
    return Cost(
        work_s=work_s,
        steps_s=tuple(slope("work_s", *step) for step in steps),
        fixed_cpu_s=max(first.cpu_seconds - work_s * first.num_units, 0.0),
        serial_s=serial_s,
        start_s=max(first.seconds - serial_s * first.num_units - shared_s, 0.0),
        read_mb=slope("read_mb"),
        written_mb=slope("written_mb"),
        stored_mb=slope("stored_mb"),
        rss_mb=max(point.rss_mb for point in points),
    )


def full_stage(
    cost: Cost, num_units: float, workers: Sequence[int], prices: Prices
) -> dict[str, Any]:
    """Return what a stage of so many units takes on each number of workers, by its dearest step."""
    cost = replace(cost, work_s=cost.dearest_s)
    hours = {number: cost.seconds(num_units, number) / HOUR_S for number in workers}
    return {
        "units": num_units,
        "core_hours": cost.work_s * num_units / HOUR_S,
        "alone_hours": cost.serial_s * num_units / HOUR_S,
        "hours": {str(number): value for number, value in hours.items()},
        "dollars": {str(number): prices.dollars(value, number) for number, value in hours.items()},
        "read_gb": cost.read_mb * num_units / GIGABYTE_OF_MB,
        "written_gb": cost.written_mb * num_units / GIGABYTE_OF_MB,
        "stored_gb": cost.stored_mb * num_units / GIGABYTE_OF_MB,
        "rss_mb": cost.rss_mb,
    }
