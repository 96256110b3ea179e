"""What a variant of `linking` measures of itself, so that its setting up is left out."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Clock:
    """Wall and processor time since it was made."""

    def __init__(self) -> None:
        self._start, self._cpu_start = time.perf_counter(), _cpu_seconds()

    def taken(self) -> dict[str, float]:
        """As `benchmarks.child` expects it in a result."""
        return {
            "seconds": time.perf_counter() - self._start,
            "cpu_seconds": _cpu_seconds() - self._cpu_start,
        }


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def rss_mb() -> float:
    """Resident memory of this process now, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024 / 1e6
