"""Record what a run measures: JSONL always, other loggers beside it, seconds, peak memory.

Numbers of a logging interval are means over its steps. On resume, lines written after the
checkpoint are removed.
"""

from __future__ import annotations

import json
import logging
import math
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.durable import write_durably
from trelm_train.reporting.loggers import Logger

METRICS_NAME = "metrics.jsonl"
# Later than any.
NO_STEP = math.inf
log = logging.getLogger(__name__)


class Timers:
    """Add up wall-clock seconds per component."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds: dict[str, float] = dict(seconds or {})

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of a `with` block to a component."""
        # Wall-clock, so that waiting for the loader or for other ranks counts.
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class Interval:
    """Keep running means since the latest line of the log.

    A value that a step does not have, such as the loss of facts where none is asked, is averaged
    over the steps that have it. Sums and counts are plain numbers, so that a checkpoint can hold
    them.
    """

    def __init__(
        self,
        sums: dict[str, float] | None = None,
        steps: int = 0,
        counts: dict[str, int] | None = None,
    ) -> None:
        self.sums: dict[str, float] = dict(sums or {})
        self.steps = steps
        # Checkpoints of earlier versions have no counts: every step had every value.
        self.counts = dict.fromkeys(self.sums, steps) if counts is None else dict(counts)

    def state(self) -> dict[str, Any]:
        """Return what the constructor takes."""
        return {"sums": self.sums, "steps": self.steps, "counts": self.counts}

    def add(self, values: dict[str, float]) -> None:
        """Add the values of one step."""
        self.steps += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Return the means of the interval, and start the next one."""
        means = {name: value / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.steps, self.counts = {}, 0, {}
        return means


class MetricLog:
    """Write `metrics.jsonl` in a run's folder, and the loggers beside it."""

    def __init__(
        self, folder: Path, loggers: Sequence[Logger] = (), *, after_step: int = 0
    ) -> None:
        self.path, self.loggers = folder / METRICS_NAME, loggers
        lines = sound_lines(self.path) if after_step else []
        earlier = [line for line in lines if step_of(line) <= after_step]

        # Whole or not at all: a kill here must not lose the lines.
        write_durably(self.path, "".join(line + "\n" for line in earlier))

    def write(
        self, step: int, values: dict[str, float], speed: dict[str, float] | None = None
    ) -> None:
        """Write one line; what depends on the machine stands apart, under `speed`."""
        # Two runs with the same settings then have the same lines but for `speed`.
        line = {"step": step, **values, **({"speed": speed} if speed else {})}
        # Opened for each line: a killed run loses none that was written.
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.send_to_loggers(step, values | (speed or {}))

    def send_to_loggers(self, step: int, values: dict[str, float]) -> None:
        """Send values to the loggers alone, not to the file."""
        for logger in self.loggers:
            logger.log(step, values)

    def close(self) -> None:
        """Let the loggers write what they hold."""
        for logger in self.loggers:
            logger.close()


def sound_lines(path: Path) -> list[str]:
    """Return the complete lines of a file, if it is there.

    A damaged line is left out with a warning: it is a log, and what it said is nowhere else.
    """
    if not path.is_file():
        return []

    # A line that was torn by a kill has no newline at its end.
    complete = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    sound = [line for line in complete if step_of(line) < NO_STEP]
    if len(sound) < len(complete):
        log.warning("%s: %d damaged line(s) left out", path, len(complete) - len(sound))
    return sound


def step_of(line: str) -> float:
    """Return the step that a line of the log is about; NO_STEP where it is damaged."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return NO_STEP


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    # The system counts in bytes on macOS and in kilobytes on Linux.
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


def rss_mb() -> float:
    """Return the resident memory of this process at present, in MB.

    It is the peak where the system does not say.
    """
    path = Path("/proc/self/statm")
    if not path.exists():
        return peak_rss_mb()
    # The second number of the file is the resident memory in pages.
    return int(path.read_text(encoding="utf-8").split()[1]) * resource.getpagesize() / 1e6
