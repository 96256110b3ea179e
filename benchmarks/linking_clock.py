"""Measure the part of a variant that counts, so that its setting up is left out."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.child import cpu_seconds_so_far


class Clock:
    """Measure wall and processor time since this object was made."""

    def __init__(self) -> None:
        self._start, self._cpu_start = time.perf_counter(), cpu_seconds_so_far()

    def taken(self) -> dict[str, float]:
        """Return both as `benchmarks.child` expects them in a result."""
        return {
            "seconds": time.perf_counter() - self._start,
            "cpu_seconds": cpu_seconds_so_far() - self._cpu_start,
        }


def rss_mb() -> float:
    """Return the resident memory of this process now, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024 / 1e6
