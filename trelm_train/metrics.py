"""What a run measures: JSONL always, TensorBoard beside it, seconds per component, peak memory.

Numbers of a logging interval are means over its steps. On resume, lines written after the checkpoint are removed.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    """`metrics.jsonl` and TensorBoard events in a run's folder."""

    def __init__(self, folder: Path, *, after_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / METRICS_NAME
        keep = [line for line in _lines(self.path) if json.loads(line)["step"] <= after_step] if after_step else []
        self.path.write_text("".join(line + "\n" for line in keep), encoding="utf-8")
        purge = after_step + 1 if after_step else None
        self.board: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line, and one point per value."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush TensorBoard."""
        self.board.close()


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    complete = path.read_text(encoding="utf-8").split("\n")[:-1]  # a torn last line has no newline
    return [line for line in complete if line]


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6
