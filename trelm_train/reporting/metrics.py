"""What a run measures: JSONL always, other loggers beside it, seconds per component, peak memory.

Numbers of a logging interval are means over its steps. On resume, lines written after the checkpoint are removed.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trelm_train.reporting.loggers import Logger

METRICS_NAME = "metrics.jsonl"


class Timers:
    """Wall-clock seconds per component."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds: dict[str, float] = dict(seconds or {})

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of the block to a component."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class Interval:
    """Running means since the last line of the log; plain numbers, so that a checkpoint can hold them."""

    def __init__(self, sums: dict[str, float] | None = None, steps: int = 0) -> None:
        self.sums: dict[str, float] = dict(sums or {})
        self.steps = steps

    def add(self, values: dict[str, float]) -> None:
        """One step's values."""
        self.steps += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Means of the interval, which starts anew."""
        means = {name: value / self.steps for name, value in self.sums.items()}
        self.sums, self.steps = {}, 0
        return means


class MetricLog:
    """`metrics.jsonl` in a run's folder, and the loggers beside it."""

    def __init__(
        self, folder: Path, loggers: Sequence[Logger] = (), *, after_step: int = 0
    ) -> None:
        self.path, self.loggers = folder / METRICS_NAME, loggers
        keep = (
            [line for line in _lines(self.path) if json.loads(line)["step"] <= after_step]
            if after_step
            else []
        )
        partial = folder / f".{METRICS_NAME}"
        partial.write_text("".join(line + "\n" for line in keep), encoding="utf-8")
        partial.replace(self.path)  # at once: a kill here must not lose the lines

    def write(
        self, step: int, values: dict[str, float], speed: dict[str, float] | None = None
    ) -> None:
        """One line; what depends on the machine stands apart, under `speed`."""
        line = {"step": step, **values, **({"speed": speed} if speed else {})}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.send_to_loggers(step, values | (speed or {}))

    def send_to_loggers(self, step: int, values: dict[str, float]) -> None:
        """The loggers alone."""
        for logger in self.loggers:
            logger.log(step, values)

    def close(self) -> None:
        """Let the loggers write what they hold."""
        for logger in self.loggers:
            logger.close()


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    complete = path.read_text(encoding="utf-8").split("\n")[:-1]  # a torn last line has no newline
    return [line for line in complete if line]


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


def rss_mb() -> float:
    """Resident memory of this process now, in MB; its peak where the system does not say."""
    path = Path("/proc/self/statm")
    if not path.exists():
        return peak_rss_mb()
    return int(path.read_text(encoding="utf-8").split()[1]) * resource.getpagesize() / 1e6
